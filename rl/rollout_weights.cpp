#include "rl/rollout_weights.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "nn/adapt.h"
#include "nn/sharding.h"
#include "rl/logging/log.h"

namespace mantissa {

RolloutWeights::RolloutWeights(Run& run) : run_(run) {
  Model& model = *run.model;
  if (model.params.in_parts()) gather();
  if (!model.adapter || !model.adapter->merged) return;
  in_place_ = run.config.lora.rollout == "merged_in_place";
  merge_adapter(run.exec, model, model.params.compute, in_place_ ? model.params.compute : model.params.rollout);
}

size_t RolloutWeights::free_memory() const {
  const MemoryInfo memory = run_.exec.backend().memory();
  return memory.capacity - std::min(memory.capacity, memory.in_use);
}

void RolloutWeights::gather() {
  const Dtype dtype = run_.config.precision.rollout_dtype();
  const size_t bytes = size_t(run_.model->params.layout.numel()) * size_of(dtype);
  run_.optimizer->release_grad();
  if (!run_.gathers_by_unit) {
    const bool some = run_.comm.reduce({double(chooses_units(bytes))}, Reduce::kMax)[0] > 0;
    run_.gathers_by_unit = some;
    if (some)
      log_info(str(
          "rollouts gather weights layer by layer in each step (distributed.gather: ", run_.config.distributed.gather,
          "): whole they are ", bytes, " bytes, of ", free_memory(), " that are free"));
  }
  *run_.gathers_by_unit ? gather_by_unit(dtype) : gather_whole(dtype, bytes);
}

/// Whole weights are by far faster, even where they leave a small cache: they are left only where they do not fit
/// beside the cache that rollout.cache_tokens asks for, or, where it is automatic, beside a tenth of what is free.
bool RolloutWeights::chooses_units(size_t bytes) const {
  const std::string& gather = run_.config.distributed.gather;
  if (gather != "auto") return gather == "unit";
  const ParamSet& set = run_.model->params;
  const bool same = run_.config.precision.rollout_dtype() == set.compute.dtype() && !set.masters_itself();
  const size_t free = free_memory(), parts = same ? set.compute.flat().bytes() : 0;  // which make way for the whole
  const size_t cache = run_.engine->cache_bytes() > 0 ? size_t(run_.engine->cache_bytes()) : free / 10;
  return bytes >= free || bytes - parts + cache > free;
}

void RolloutWeights::gather_whole(Dtype dtype, size_t bytes) {
  ParamSet& set = run_.model->params;
  const size_t free = free_memory();
  check(bytes < free, "distributed.gather: whole: a rollout needs the weights of all ranks, ", set.layout.numel(),
        " parameters of ", size_of(dtype), " bytes = ", bytes, " bytes, and beside them a KV cache; of ",
        run_.exec.backend().memory().capacity, " bytes ", free,
        " are free (distributed.offload: optimizer leaves masters and moments to the host; distributed.gather: unit "
        "needs two layers at a time)");
  set.rollout = ParamBuffer(run_.exec, set.layout, dtype);
  gather_weights(run_.exec, run_.comm, set, set.rollout);
  if (dtype != set.compute.dtype()) return check_finite(*run_.model, set.rollout, run_.config.model.path);
  if (!set.masters_itself()) set.compute = ParamBuffer(set.rollout, set.layout, set.shard);  // the same once is enough
}

void RolloutWeights::gather_by_unit(Dtype dtype) {
  ParamSet& set = run_.model->params;
  if (dtype != set.compute.dtype()) {
    set.rollout = ParamBuffer(run_.exec, set.layout, dtype, set.shard);
    cast_masters(run_.exec, set, set.rollout);
    check_finite(*run_.model, set.rollout, run_.config.model.path);
  }
  run_.engine->gather_by_unit(run_.comm);
}

void RolloutWeights::give_back() {
  ParamSet& set = run_.model->params;
  const bool whole = !run_.engine->gathers_by_unit();
  run_.engine->release_memory();
  if (whole && set.rollout.dtype() == set.compute.dtype() && !set.masters_itself()) {
    const ParamBuffer parts(run_.exec, set.layout, set.compute.dtype(), set.shard);
    for (int unit = 0; unit < set.layout.units(); ++unit)
      run_.exec.backend().copy(parts.unit(unit).raw(), set.compute.unit(unit).raw(), parts.unit(unit).bytes());
    set.compute = parts;
  }
  set.rollout = {};
}

RolloutWeights::~RolloutWeights() noexcept(false) {
  if (std::uncaught_exceptions() > 0) return;
  if (run_.model->params.in_parts()) give_back();
  const ParamBuffer& weights = run_.model->params.compute;
  if (in_place_) merge_adapter(run_.exec, *run_.model, weights, weights, -1.0);
}

double base_drift(const Run& run) {
  double moved = 0.0, all = 0.0;
  for (int unit = 0; unit < run.model->params.layout.units(); ++unit) {
    const std::vector<float> now = to_host_float(run.model->params.compute.unit(unit)),
                             then = to_host_float(run.model->reference.compute.unit(unit));
    for (size_t i = 0; i < now.size(); ++i) {
      const double difference = double(now[i]) - double(then[i]);
      moved += difference * difference;
      all += double(then[i]) * double(then[i]);
    }
  }
  return std::sqrt(moved / all);
}

}  // namespace mantissa
