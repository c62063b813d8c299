// Precision: which types training and rollout compute in. The section `precision` of a config, and of programs that
// measure one side against the other.
#pragma once

#include "rl/rollout/engine.h"

namespace mantissa {

/// The precision matrix. With "auto" kv_cache and the rollout's head follow rollout, the trainer's head follows train.
struct PrecisionConfig {
  std::string train = "fp16", rollout = "fp16";
  std::string kv_cache = "auto", lm_head = "auto";
  std::string residual = "compute";  // compute, fp32
  void fields(Fields& f);

  Dtype train_dtype() const { return parse_precision(train); }
  Dtype rollout_dtype() const { return parse_precision(rollout); }
  Dtype head_dtype(Dtype compute) const { return lm_head == "auto" ? compute : parse_precision(lm_head); }
  Dtype residual_dtype(Dtype compute) const { return residual == "fp32" ? Dtype::kF32 : compute; }
  EnginePrecision engine(const RolloutConfig& rollout) const;
  /// Throws Error for combinations that undo what they ask for.
  void validate() const;
};

}  // namespace mantissa
