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
  f.choice("train", train, types,
           "type of weights, activations and their gradients in training; masters and Adam stay fp32");
  f.choice("rollout", rollout, types,
           "type of weights and activations in rollouts; where it equals train, both read one copy");
  f.choice("kv_cache", kv_cache, types_or_auto, "type of keys and values in the cache; auto: the rollout's type");
  f.choice("lm_head", lm_head, types_or_auto,
           "type of both inputs of the head's product (logits are fp32); auto: the type of their side");
  f.choice("residual", residual, {"compute", "fp32"}, "type of the residual stream; compute: the type of its side");
}

}  // namespace mantissa
