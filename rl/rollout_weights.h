// What rollouts of a run multiply with, by lora.rollout and distributed.shard.
#pragma once

#include "rl/run.h"

namespace mantissa {

/// While it lives the engine may run. adapter: nothing to do. merged: the second copy of the weights is made again as
/// round(W + s B A), W being the weights as they were loaded. merged_in_place: W = round(W + s B A) until the end, then
/// W = round(W - s B A), which is not the W of before where bits were rounded away.
///
/// Without an adapter weights are those of training. Where each rank keeps a part of them (distributed.shard:
/// parameters) all ranks, which come here together, put them together for this while, in the place of gradients and of
/// their parts, or let the engine do so unit by unit in each pass, as distributed.gather says; at its end the engine
/// gives its memory back too. Throws where they are to be whole and do not fit, with what they need.
class RolloutWeights {
 public:
  explicit RolloutWeights(Run& run);
  /// Throws what giving back throws; while another exception passes, the run ends and nothing is given back.
  ~RolloutWeights() noexcept(false);
  RolloutWeights(const RolloutWeights&) = delete;
  RolloutWeights& operator=(const RolloutWeights&) = delete;

 private:
  void gather();
  bool chooses_units(size_t bytes) const;
  void gather_whole(Dtype dtype, size_t bytes);
  void gather_by_unit(Dtype dtype);
  void give_back();
  size_t free_memory() const;
  Run& run_;
  bool in_place_ = false;
};

/// |W - W0| / |W0| of the weights W beneath the adapter and W0, what they were loaded as (Model::reference).
double base_drift(const Run& run);

}  // namespace mantissa
