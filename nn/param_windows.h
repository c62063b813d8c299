// ParamWindows: a set whose weights and gradients are kept in parts (Sharding::kParameters), seen unit by unit as whole
// tensors for as long as a unit is worked on.
//
//   weights     use() gathers those of a unit, and begins to gather those that come next beside the work on it
//   gradients   open() clears a unit's, backward adds to them, reduce() sums them over processes and adds this
//               process's part to params.reduced, beside the work on the next unit
//
// So a device holds the weights of two units and the fp32 gradients of two. What is handed out are views that stay what
// they are while memory behind them comes and goes: a tape may keep them from forward to backward, and must find their
// unit in use again when it reads them.
//
// Collective: every process makes the same calls in the same order, one without a micro-batch too (Decoder::join).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/comm.h"
#include "nn/params.h"

namespace mantissa {

class ParamWindows {
 public:
  /// Of `params`, whose compute copy is in parts; gradients where params.reduced is there. `rollout`: of the weights
  /// that rollouts read, without gradients.
  ParamWindows(Exec& exec, Comm& comm, const ParamSet& params, bool rollout = false);
  ParamWindows(const ParamWindows&) = delete;
  ParamWindows& operator=(const ParamWindows&) = delete;

  /// A parameter, and its gradient (fp32; fp64 of fp64): read them while its unit is in use, or open.
  const Tensor& weight(ParamId id) const { return weights_.views[size_t(id.index)]; }
  const Tensor& gradient(ParamId id) const { return gradients_.views[size_t(id.index)]; }

  /// Later work on the exec's stream has the weights of `units`, and those of `next` are on their way. All others are
  /// given back.
  void use(std::span<const int> units, std::span<const int> next);
  /// The gradients of a unit are there, zero unless they were open already.
  void open(int unit);
  /// This process's gradients of a unit are whole.
  void reduce(int unit);
  /// Adds what was reduced last and gives all memory back: call it after a pass, and before weights change.
  void clear();

 private:
  /// The units of one purpose, in memory of their own.
  struct Units {
    void make(const ParamLayout& layout, Backend& backend, Dtype dtype);
    bool here(int unit) const { return storages[size_t(unit)]->owner != nullptr; }
    void take(int unit);
    void give_back(int unit);

    std::vector<std::shared_ptr<Storage>> storages;
    std::vector<Tensor> flat, views;  // by unit, by parameter
  };

  void gather(int unit);
  void release(int unit);
  void add_reduced();
  Tensor own_gradients(int unit) const;

  Exec& exec_;
  Comm& comm_;
  const ParamSet& params_;
  const ParamBuffer& parts_;  // of the weights
  Units weights_, gradients_;
  std::vector<Comm::Ticket> gathered_;  // by unit
  int reducing_ = -1;                   // the unit that is on its way to params.reduced
  Comm::Ticket reduction_ = 0;
};

}  // namespace mantissa
