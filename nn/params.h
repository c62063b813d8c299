// Parameters: one flat buffer per purpose (compute copy, fp32 master, Adam m and v, fp32 gradient), views into it per
// parameter. Flat, so that the optimizer, the global norm, checkpoints and collectives are one pass each.
//
// Layout. Parameters are grouped in units (embedding, one per layer, head): the grain of sharding and prefetching.
// Each parameter starts on a 256-byte boundary of the 16-bit copy (kAlign elements); each unit holds its decayed
// parameters first, then the others (norms, biases), and is padded to a multiple of kAlign * world size. The padding
// is zero in every buffer and stays zero. The same element offsets hold in every buffer whatever its type.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/backend.h"

namespace mantissa {

struct ParamId {
  int index = -1;
  bool valid() const { return index >= 0; }
};

struct ParamInfo {
  std::string name;  // internal: "layers.3.qkv.weight"
  Shape shape;
  int unit = 0;
  bool decay = false;  // weight decay applies (matrices), or not (norms, biases)
  int64_t offset = 0;  // elements from the start of the flat buffer
};

/// Names, shapes and offsets of all parameters of a model. Built once (add, then finish), read-only afterwards.
class ParamLayout {
 public:
  static constexpr int64_t kAlign = 128;

  int add_unit(std::string name);
  ParamId add(int unit, std::string name, Shape shape, bool decay);
  /// Assigns offsets. No add() after it.
  void finish(int world_size = 1);

  const std::vector<ParamInfo>& params() const { return params_; }
  const ParamInfo& operator[](ParamId id) const { return params_[size_t(id.index)]; }
  /// By internal name; throws when unknown.
  ParamId find(const std::string& name) const;
  int64_t numel() const { return numel_; }  // padding included
  int units() const { return int(unit_names_.size()); }
  /// [begin, end) of a unit, and where its decayed part ends.
  struct Extent {
    int64_t begin, decay_end, end;
  };
  const Extent& extent(int unit) const { return extents_[size_t(unit)]; }

 private:
  std::vector<std::string> unit_names_;
  std::vector<ParamInfo> params_;
  std::vector<Extent> extents_;
  int64_t numel_ = 0;
};

/// One flat buffer with its views: a copy of the weights in some type, or a gradient, or an Adam moment.
class ParamBuffer {
 public:
  ParamBuffer() = default;
  /// Zero-filled.
  ParamBuffer(Exec& exec, const ParamLayout& layout, Dtype dtype);

  bool defined() const { return flat_.defined(); }
  Dtype dtype() const { return flat_.dtype(); }
  const Tensor& flat() const { return flat_; }
  const Tensor& operator[](ParamId id) const { return views_[size_t(id.index)]; }

 private:
  Tensor flat_;
  std::vector<Tensor> views_;
};

/// The weights of one model: layout plus the buffers that exist. Rollout and training read `compute`; a separate
/// `rollout` copy exists only when their types differ. `master` may be the same buffer as `compute` (fp32 training).
/// A model that is only read has `compute` alone.
struct Weights {
  ParamLayout layout;
  ParamBuffer compute;
  ParamBuffer rollout;             // undefined: rollout reads compute
  ParamBuffer reference;           // what a run began with, in the compute type; undefined without a KL term
  ParamBuffer master, m, v, grad;  // undefined when not training

  const ParamBuffer& for_rollout() const { return rollout.defined() ? rollout : compute; }
};

}  // namespace mantissa
