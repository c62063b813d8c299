// Precision: which types training and rollout compute in, and how closely the two must agree. The section `precision`
// of a config, and of programs that measure one side against the other.
#pragma once

#include "nn/adapter.h"
#include "nn/config.h"
#include "rl/rollout/options.h"

namespace mantissa {

/// The precision matrix. With "auto" kv_cache and the rollout's head follow rollout, the trainer's head follows train.
struct PrecisionConfig {
  std::string train = "fp16", rollout = "fp16";
  std::string kv_cache = "auto", lm_head = "auto";
  std::string residual = "compute";    // compute, fp32
  std::string match = "auto";          // auto, exact, fast, peer: see resolve_match
  std::string on_difference = "stop";  // stop, warn: what a token does that differs under exact
  void fields(Fields& f);

  Dtype train_dtype() const { return parse_precision(train); }
  Dtype rollout_dtype() const { return parse_precision(rollout); }
  Dtype head_dtype(Dtype compute) const { return lm_head == "auto" ? compute : parse_precision(lm_head); }
  Dtype residual_dtype(Dtype compute) const { return residual == "fp32" ? Dtype::kF32 : compute; }
  /// The rollout side.
  EnginePrecision engine(Match match) const;
  /// Throws Error for combinations that undo what they ask for.
  void validate() const;

  /// Why rollout and training of this model, with its adapter where it has one, cannot give a token the same bits on
  /// this backend, naming the key or the backend's cause; empty: they can.
  std::string exact_obstacle(const Backend& backend, const ModelConfig& model, const Adapter* adapter) const;
  /// `match` as it is for this model on this backend. "auto" is exact where nothing stands in its way, else fast, with
  /// a notice that names the cause. Throws Error where exact is asked for and cannot be had.
  Match resolve_match(const Backend& backend, const ModelConfig& model, const Adapter* adapter = nullptr) const;
};

/// `rollout` where precision.match: auto came to `match`: one that is not exact has no guesses, which the log says.
RolloutConfig under_auto(Match match, RolloutConfig rollout);

/// "exact", "fast", "peer".
const char* name_of(Match match);

}  // namespace mantissa
