#include "rl/precision.h"

#include "rl/logging/log.h"

namespace mantissa {

EnginePrecision PrecisionConfig::engine(Match side) const {
  const Dtype compute = rollout_dtype();
  return {.kv_cache = kv_cache == "auto" ? compute : parse_precision(kv_cache),
          .lm_head = head_dtype(compute),
          .residual = residual_dtype(compute),
          .match = side};
}

std::string PrecisionConfig::exact_obstacle(const Backend& backend, const ModelConfig& model,
                                            const Adapter* adapter) const {
  if (adapter && adapter->merged) return "lora.rollout rounds the adapter into the weights, and training does not";
  if (train != rollout) return str("precision.train is ", train, " and precision.rollout is ", rollout);
  const EnginePrecision side = engine(Match::kExact);
  if (side.kv_cache != rollout_dtype())
    return str("precision.kv_cache is ", kv_cache, " and training keeps keys and values in ", train);
  const std::string cause = backend.exact_obstacle({.compute = rollout_dtype(),
                                                    .kv_cache = side.kv_cache,
                                                    .lm_head = side.lm_head,
                                                    .head_size = int(model.heads.size),
                                                    .query_heads = int(model.heads.query),
                                                    .kv_heads = int(model.heads.kv),
                                                    .adapter = adapter ? common_inputs(model) : 0});
  return cause;
}

Match PrecisionConfig::resolve_match(const Backend& backend, const ModelConfig& model, const Adapter* adapter) const {
  if (match == "fast") return Match::kFast;
  if (match == "peer") return Match::kPeer;
  const std::string obstacle = exact_obstacle(backend, model, adapter);
  if (obstacle.empty()) return Match::kExact;
  check(match != "exact", "precision.match: exact cannot be had: ", obstacle, "; auto or fast runs without it");
  log_info(str("precision.match: fast, since ", obstacle));
  return Match::kFast;
}

RolloutConfig under_auto(Match match, RolloutConfig rollout) {
  if (match == Match::kExact || rollout.draft == "none") return rollout;
  log_info(str("rollout.draft: none, since ", rollout.draft, " needs precision.match: exact, and auto is fast here"));
  rollout.draft = "none";
  return rollout;
}

const char* name_of(Match match) {
  return match == Match::kExact ? "exact" : match == Match::kFast ? "fast" : "peer";
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
  // A resumed run compares what became of it: see Run.
  f.choice("match", match, {"auto", "exact", "fast", "peer"},
           not_decisive("how rollout and training agree: bit for bit, or not, or as with a separate rollout engine; a "
                        "run that is resumed keeps its mode, also the one that auto chose: another is refused"));
  f.choice("on_difference", on_difference, {"stop", "warn"},
           not_decisive("what follows a token that differs under exact"));
}

}  // namespace mantissa
