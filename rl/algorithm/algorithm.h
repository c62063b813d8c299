// Configuration of the algorithm of a training step. Its three parts, each with its formulas in its header: advantages
// from rewards (rl/algorithm/advantage.h, on the host), weights that correct for the rollout-training mismatch
// (rl/algorithm/correction.h), and the policy loss (rl/algorithm/policy_loss.h; both composed from ops, so that they
// run on any backend).
//
// Log-probs of the same sampled tokens, never mixed up in names: rollout_logprobs (mu, by the engine), old_logprobs
// (pi_old, by the training path before any update), logprobs (pi, current), reference_logprobs.
#pragma once

#include <string>

#include "core/fields.h"

namespace mantissa {

struct AlgorithmConfig {
  std::string advantage = "grpo";        // see compute_advantages
  bool dynamic_sampling = false;         // see drop_without_spread
  int64_t max_gen_batches = 10;          // rollouts of a step with dynamic_sampling
  std::string overlong = "zero_reward";  // see apply_overlong
  int64_t overlong_buffer = 0;
  double overlong_penalty = 1.0;
  std::string policy_loss = "grpo";             // grpo, gspo, cispo, pg, dppo: see policy_loss
  std::string loss_aggregation = "token_mean";  // see policy_loss
  int64_t loss_norm_constant = 0;               // of seq_mean_token_sum_norm; 0: rollout.max_new_tokens
  double clip_low = 0.2, clip_high = 0.2;
  double dual_clip = 0.0;           // 0: off
  std::string correction = "none";  // see policy_loss
  std::string correction_ratio = "auto";
  double correction_low = 0.0, correction_high = 2.0;  // high is C of the truncating and masking corrections
  double kl_coef = 0.0;
  std::string kl_estimator = "k3";
  double entropy_coef = 0.0;

  void fields(Fields& f);
  /// Throws Error, naming the keys, for combinations that would do nothing, or something else than their names say; `n`
  /// is rollout.n, the samples of a prompt.
  void validate(int64_t n) const;
  /// Whether a sequence of advantage 0 or mask 0 has neither loss nor gradient, so that no forward pass need see it: KL
  /// and entropy terms act on every token, whatever its advantage.
  bool idle_without_advantage() const { return kl_coef == 0 && entropy_coef == 0; }
  /// Whether correction weights are current_over_rollout (else old_over_rollout).
  bool corrects_current() const;
};

}  // namespace mantissa
