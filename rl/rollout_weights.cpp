#include "rl/rollout_weights.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "nn/adapt.h"
#include "nn/sharding.h"

namespace mantissa {

RolloutWeights::RolloutWeights(Run& run) : run_(run) {
  Model& model = *run.model;
  if (model.params.in_parts()) gather();
  if (!model.adapter || !model.adapter->merged) return;
  in_place_ = run.config.lora.rollout == "merged_in_place";
  merge_adapter(run.exec, model, model.params.compute, in_place_ ? model.params.compute : model.params.rollout);
}

void RolloutWeights::gather() {
  ParamSet& set = run_.model->params;
  const Dtype dtype = run_.config.precision.rollout_dtype();
  run_.optimizer->release_grad();
  const MemoryInfo memory = run_.exec.backend().memory();
  const size_t bytes = size_t(set.layout.numel()) * size_of(dtype),
               free = memory.capacity - std::min(memory.capacity, memory.in_use);
  check(bytes < free, "distributed.shard: parameters: a rollout needs the weights of all ranks, ", set.layout.numel(),
        " parameters of ", size_of(dtype), " bytes = ", bytes, " bytes, and beside them a KV cache; of ",
        memory.capacity, " bytes ", free,
        " are free (distributed.offload: optimizer leaves masters and moments to the host)");
  set.rollout = ParamBuffer(run_.exec, set.layout, dtype);
  gather_weights(run_.exec, run_.comm, set, set.rollout);
  if (dtype != set.compute.dtype()) return check_finite(*run_.model, set.rollout, run_.config.model.path);
  if (!set.masters_itself()) set.compute = ParamBuffer(set.rollout, set.layout, set.shard);  // the same once is enough
}

void RolloutWeights::give_back() {
  ParamSet& set = run_.model->params;
  run_.engine->release_memory();
  if (set.rollout.dtype() == set.compute.dtype() && !set.masters_itself()) {
    const ParamBuffer parts(run_.exec, set.layout, set.compute.dtype(), set.shard);
    for (int unit = 0; unit < set.layout.units(); ++unit)
      run_.exec.backend().copy(parts.unit(unit).raw(), set.compute.unit(unit).raw(), parts.unit(unit).bytes());
    set.compute = parts;
  }
  set.rollout = {};
}

RolloutWeights::~RolloutWeights() {
  if (run_.model->params.in_parts() && std::uncaught_exceptions() == 0) give_back();  // else the run ends
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
