#include "rl/rollout_weights.h"

#include <cmath>

#include "nn/adapt.h"

namespace mantissa {

RolloutWeights::RolloutWeights(Run& run) : run_(run) {
  Model& model = *run.model;
  if (!model.adapter || !model.adapter->merged) return;
  in_place_ = run.config.lora.rollout == "merged_in_place";
  merge_adapter(run.exec, model, model.params.compute, in_place_ ? model.params.compute : model.params.rollout);
}

RolloutWeights::~RolloutWeights() {
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
