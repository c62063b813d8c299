// Parameters: one flat buffer per purpose (compute copy, fp32 master, Adam m and v, fp32 gradient), views into it per
// parameter. Flat, so that the optimizer, the global norm and collectives are one pass each.
//
// Layout. Parameters are grouped in units (embedding, one per layer and one for its experts, head): the grain of
// sharding. A parameter starts
// on a 256-byte boundary of the 16-bit copy (kAlign elements); each unit holds its decayed parameters first, then the
// others (norms, biases), and is padded to a multiple of kAlign times the number of processes. The padding is zero in
// every buffer and stays zero. The same element offsets hold in every buffer whatever its type.
//
// Several processes. A unit is cut into as many equal parts as there are processes, and each keeps the masters and
// moments of its own parts only (Shard), or weights and gradients too (Sharding). A buffer of parts has the parts of
// the units back to back.
//
// Experts over ranks. Where N processes share out the experts of a model, a row of neighbours (Comm::row) has all of
// them once: its process p the experts [p E / N, (p + 1) E / N) of every layer. A layout then has those rows of the
// experts' parameters alone, as many on every process. Units of experts are cut into parts among the processes that
// have the same ones (Comm::column), all others among all.
#pragma once

#include <string>
#include <vector>

#include "autograd/tape.h"
#include "core/backend.h"

namespace mantissa {

struct ParamId {
  int index = -1;
  bool valid() const { return index >= 0; }
};

struct ParamInfo {
  std::string name;  // internal: "layers.3.qkv.weight"
  Shape shape;       // of what is here
  int unit = 0;
  bool decay = false;     // weight decay applies (matrices), or not (norms, biases)
  int64_t offset = 0;     // elements from the start of the flat buffer
  int64_t first_row = 0;  // of the whole parameter: what is here begins with it
  int64_t rows = 0;       // of the whole parameter

  Shape whole_shape() const;
  /// Where a row of the whole parameter begins, counted like offset; for those that are not here, where it would.
  int64_t element(int64_t row) const { return offset + (row - first_row) * (shape.numel() / shape[0]); }
};

/// Which part of every unit this process keeps: number `rank` of `world_size` equal ones. `experts`: how many
/// neighbours share out a model's experts, a divisor of world_size.
struct Shard {
  int rank = 0;
  int world_size = 1;
  int experts = 1;
  bool whole() const { return world_size == 1; }
};

/// What a process keeps of its parts only: the optimizer's state, or with it weights and gradients, which are whole
/// unit by unit while they are worked on (nn/param_windows.h).
enum class Sharding : uint8_t { kOptimizer, kParameters };

/// Where masters and moments lie: beside the weights, or in host memory, whence a step sends them through the device.
enum class Placement : uint8_t { kDevice, kHost };

/// Names, shapes and offsets of all parameters of a model. Built once (add, then finish), read-only afterwards.
class ParamLayout {
 public:
  static constexpr int64_t kAlign = 128;

  int add_unit(std::string name, bool of_experts = false);
  ParamId add(int unit, std::string name, Shape shape, bool decay);
  /// Rows `first_row` and following, shape[0] of them, of a parameter that has `rows`.
  ParamId add_rows(int unit, std::string name, Shape shape, bool decay, int64_t first_row, int64_t rows);
  /// Assigns offsets. No add() after it.
  void finish(int world_size = 1);
  /// The same parameters, all of each, as one process has them.
  ParamLayout whole() const;

  const std::vector<ParamInfo>& params() const { return params_; }
  const ParamInfo& operator[](ParamId id) const { return params_[size_t(id.index)]; }
  /// By internal name; throws when unknown.
  ParamId find(const std::string& name) const;
  /// All of them, those of a unit one after the other, in the order of units.
  std::vector<ParamId> by_unit() const;
  int64_t numel() const { return numel_; }  // padding included
  int64_t parameters() const;               // without it
  int units() const { return int(unit_names_.size()); }
  bool of_experts(int unit) const { return of_experts_[size_t(unit)]; }
  /// The part of a unit that a process keeps, among those that have it.
  Shard shard_of(int unit, Shard all) const;
  /// [begin, end) of a unit, and where its decayed part ends.
  struct Extent {
    int64_t begin, decay_end, end;
  };
  const Extent& extent(int unit) const { return extents_[size_t(unit)]; }
  int64_t size(int unit) const { return extent(unit).end - extent(unit).begin; }
  /// What of a unit a process keeps; decay_end lies within.
  Extent part(int unit, Shard shard) const;
  /// A parameter within the elements of its whole unit.
  Tensor within(const Tensor& unit, ParamId id) const;

 private:
  std::vector<std::string> unit_names_;
  std::vector<bool> of_experts_;  // by unit
  std::vector<ParamInfo> params_;
  std::vector<Extent> extents_;
  int64_t numel_ = 0;
};

/// One flat buffer: a copy of the weights in some type, or a gradient, or an Adam moment; all of it, with a view per
/// parameter, or a process's parts.
class ParamBuffer {
 public:
  ParamBuffer() = default;
  /// Zero-filled; in memory of the exec's device, or of the host for it.
  ParamBuffer(Exec& exec, const ParamLayout& layout, Dtype dtype, Shard shard = {},
              Placement placement = Placement::kDevice);
  /// The parts that lie within a whole buffer. They have no flat().
  ParamBuffer(const ParamBuffer& whole, const ParamLayout& layout, Shard shard);

  bool defined() const { return !units_.empty(); }
  /// Which parts it has; whole(): all.
  Shard shard() const { return shard_; }
  Dtype dtype() const { return units_.front().dtype(); }
  const Tensor& flat() const { return flat_; }
  /// The elements of one unit that this buffer has.
  const Tensor& unit(int unit) const { return units_[size_t(unit)]; }
  /// Those that belong to one process's part: of a buffer of parts, whose process it must be, all that it has.
  Tensor part(const ParamLayout& layout, int unit, Shard shard) const;
  /// Of a whole buffer.
  const Tensor& operator[](ParamId id) const;
  /// Of a whole buffer of gradients: where a parameter's add up (autograd/tape.h).
  Sink sink(ParamId id) const { return {(*this)[id], fresh_[size_t(id.index)]}; }
  /// Makes all its sinks fresh, or says that none is.
  void set_fresh(bool fresh) const;
  /// Clears those sinks of a unit that are fresh still.
  void clear_fresh(const ParamLayout& layout, int unit) const;
  /// Its elements of a parameter's rows [begin, end): all of them, or those that are here.
  Tensor rows(const ParamLayout& layout, ParamId id, int64_t begin, int64_t end) const;
  /// True where this buffer has some element of a parameter's rows [begin, end).
  bool holds(const ParamLayout& layout, ParamId id, int64_t begin, int64_t end) const;
  /// Takes what this buffer has of a parameter's rows, `row` and following, from `values`: host memory, the same type.
  void store(const ParamLayout& layout, ParamId id, int64_t row, const Tensor& values) const;

 private:
  Shard shard_;
  Tensor flat_;
  std::vector<Tensor> units_, views_;
  std::vector<std::shared_ptr<bool>> fresh_;  // by parameter; copies share them, as they share the memory
};

/// The parameters of one model as far as they exist here: layout, copies to compute with, and, of what is trained, the
/// optimizer's state. Training reads `compute`, rollout a `rollout` copy of another type where there is one. `master`
/// may be the same buffer as `compute` (fp32 training on one process, masters on the device). A model that is only
/// read, never trained, has `compute` alone.
struct ParamSet {
  ParamLayout layout;
  Shard shard;
  Placement placement = Placement::kDevice;  // of master, m and v
  ParamBuffer compute;
  ParamBuffer rollout;       // undefined: rollout reads compute
  ParamBuffer master, m, v;  // this process's parts; undefined when not training
  ParamBuffer grad;          // fp32 sums of this process's micro-batches; undefined when not training, and in_parts()
  ParamBuffer reduced;       // this process's parts of grad, that after a step hold the sums over processes; in_parts()
                             // a buffer of its own, the sums so far

  /// Makes `compute` for the finished layout, and masters where asked for; both zero.
  void allocate(Backend& backend, Dtype dtype, bool masters, Shard own = {}, Placement where = Placement::kDevice,
                Sharding sharding = Sharding::kOptimizer);
  /// Sharding::kParameters of several processes: `compute` has this process's parts.
  bool in_parts() const { return compute.defined() && !compute.shard().whole(); }
  /// True where fp32 (fp64) weights can be their own masters.
  bool masters_itself() const {
    return !is_16bit(compute.dtype()) && (shard.whole() || in_parts()) && placement == Placement::kDevice;
  }
  const ParamBuffer& for_rollout() const { return rollout.defined() ? rollout : compute; }
};

}  // namespace mantissa
