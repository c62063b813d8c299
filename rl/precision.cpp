#include "rl/precision.h"

namespace mantissa {

EnginePrecision PrecisionConfig::engine(const RolloutConfig& rollout_config) const {
  const Dtype compute = rollout_dtype();
  return {.kv_cache = kv_cache == "auto" ? compute : parse_precision(kv_cache),
          .lm_head = head_dtype(compute),
          .residual = residual_dtype(compute),
          .rounding = parse_rounding(rollout_config.rounding)};
}

void PrecisionConfig::validate() const {
  for (const auto& [key, name] : {std::pair("kv_cache", &kv_cache), std::pair("lm_head", &lm_head)})
    check(*name == "auto" || *name == "fp32" || rollout != "fp32", "precision.", key, ": ", *name,
          " beside an fp32 rollout loses what fp32 is for; use auto or fp32");
}

void PrecisionConfig::fields(Fields& f) {
  const std::vector<std::string> types{"fp16", "bf16", "fp32"}, types_or_auto{"auto", "fp16", "bf16", "fp32"};
  f.choice("train", train, types, "weights, activations and their gradients in training");
  f.choice("rollout", rollout, types, "weights and activations in rollouts");
  f.choice("kv_cache", kv_cache, types_or_auto, "auto: as rollout");
  f.choice("lm_head", lm_head, types_or_auto,
           "inputs of the head's product (logits are fp32); auto: as train / rollout");
  f.choice("residual", residual, {"compute", "fp32"}, "residual stream");
}

}  // namespace mantissa
