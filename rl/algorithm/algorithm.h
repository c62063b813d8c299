// The algorithm of a training step in three parts: advantages from rewards (host), correction weights for the
// rollout-training mismatch, and the policy loss (both composed from ops, so that they run on any backend).
//
// Log-probs of the same sampled tokens, never mixed up in names: rollout_logprobs (mu, by the engine),
// old_logprobs (pi_old, by the training path before any update), logprobs (pi, current), reference_logprobs.
//
// Shapes: S sequences, N scored tokens, packed; sequence i owns response_offsets[i] .. response_offsets[i+1].
#pragma once

#include <map>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "core/fields.h"
#include "rl/types.h"

namespace mantissa {

struct AlgorithmConfig {
  std::string advantage = "grpo";        // see compute_advantages
  bool dynamic_sampling = false;         // see drop_without_spread
  int64_t max_gen_batches = 10;          // rollouts of a step with dynamic_sampling
  std::string overlong = "zero_reward";  // see apply_overlong
  int64_t overlong_buffer = 0;
  double overlong_penalty = 1.0;
  std::string policy_loss = "grpo";             // grpo, gspo, cispo, pg: see policy_loss
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
  /// Combinations that would do nothing or something else than their names say; `n` is rollout.n. Throws
  /// Error naming the keys.
  void validate(int64_t n) const;
  /// Whether correction weights are current_over_rollout (else old_over_rollout).
  bool corrects_current() const;
};

// ---- advantage.cpp ----------------------------------------------------------------------------------------

/// zero_reward: truncated answers (Finish::kLength) get reward 0. soft_punish (DAPO, arXiv 2503.14476): an
/// answer of length l loses overlong_penalty * min(1, max(0, l - (limit - overlong_buffer)) /
/// overlong_buffer), a truncated one the whole penalty; `limit` is rollout.max_new_tokens. mask and keep
/// leave rewards alone. Comes after the reward and before anything reads it.
void apply_overlong(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config, int64_t limit);
/// Dynamic sampling (DAPO): removes the groups whose rewards are all equal, possibly all of them. Such a
/// group has only zero advantages. Returns how many. The loop then samples more prompts, max_gen_batches
/// rollouts a step at most.
int64_t drop_without_spread(std::vector<RolloutGroup>& groups);
/// TrainBatch::loss_mask of a completion: 0 when it is truncated and overlong is `mask`, else 1. A masked
/// sequence still counts in its group's mean; it leaves the loss and its denominators.
float loss_mask(const Completion& completion, const AlgorithmConfig& config);

/// Fills in advantages from rewards r of each group's n samples, in fp64:
///
///   grpo          (r - mean) / (std + 1e-6), std with n - 1 (verl)
///   drgrpo        r - mean (Dr. GRPO, arXiv 2503.20783)
///   rloo          n / (n - 1) (r - mean) = r - mean of the others (arXiv 2402.14740)
///   reinforce_pp  (r - M) / sqrt(max(V, 1e-8)), M and V the mean and population variance of r over all
///                 tokens of all groups, i.e. each sample weighs its response length (REINFORCE++,
///                 arXiv 2501.03262, whitened as OpenRLHF does)
///
/// No spread (in the group; in the batch for reinforce_pp) gives exactly 0. The first three refuse groups of
/// one. Returns how many groups were without spread. Errors: a group of one, a reward that is not finite.
int64_t compute_advantages(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config);

// ---- policy_loss.cpp, correction.cpp; inputs and stats: algorithm.cpp -------------------------------------

/// One micro-batch. All floating tensors have the type of logprobs (fp32; fp64 in gradient checks).
struct LossInputs {
  Var logprobs, entropy;                  // [N]
  Tensor old_logprobs, rollout_logprobs;  // [N]; not read by sft_loss
  Tensor reference_logprobs;              // [N], read only when kl_coef > 0
  Tensor advantages;                      // [S]; not read by sft_loss
  Tensor mask;                            // [S] 1, or 0 for sequences left out of the loss
  Tensor inverse_lengths;                 // [S] 1 / number of scored tokens
  Tensor response_offsets;                // [S+1] int32
  /// Sequences with mask 1 and their tokens in the whole mini-batch, over micro-batches and ranks. 0 where
  /// everything is masked: the loss is 0 then. Negative means not set, an error.
  double sequences = -1, tokens = -1;
  /// Of seq_mean_token_sum_norm: loss_norm_constant, or rollout.max_new_tokens when that is 0.
  double norm_constant = 0;
};

/// What the host knows of a micro-batch, copied to `backend` in fp32: everything but logprobs, entropy and
/// the three numbers. old_logprobs and reference_logprobs stay undefined while the batch has none.
LossInputs make_loss_inputs(Backend& backend, const TrainBatch& batch);

/// A metric in parts: the micro-batches' sum / denominator add up to the mini-batch's value.
struct LossStat {
  std::string name;
  Tensor sum;  // [1], fp32 or fp64
  double denominator = 1;
};

struct LossOut {
  Var loss;  // [1]; this micro-batch's share: shares add up to the loss of the mini-batch
  std::vector<LossStat> stats;
};

/// loss = sum_t c_t (w_t l_t + kl_coef KL_t - entropy_coef H_t), over the N scored tokens. m is the mask, A
/// the advantage of the token's sequence i of length n_i.
///
/// loss_aggregation: token_mean c = m / tokens; seq_mean_token_mean c = m / (n_i sequences);
/// seq_mean_token_sum_norm c = m / (norm_constant sequences), as Dr. GRPO.
///
/// policy_loss, with r = exp(clamp(logprobs - old_logprobs, +-20)) and clip(r) = clamp(r, 1 - clip_low, 1 + clip_high):
///
///   grpo   l = max(-A r, -A clip(r)); with dual_clip c > 0 at most c |A|, which only binds for A < 0 (PPO)
///   gspo   the same with r = exp(mean over the sequence of logprobs - old_logprobs) (arXiv 2507.18071);
///          every token carries r's value and the gradient r d(logprobs_t)
///   cispo  l = -sg(clip(r)) A logprobs (arXiv 2506.13585)
///   pg     l = -A logprobs
///
/// correction, a weight w without gradient. Its ratio is explicit: correction_ratio old_over_rollout
/// (pi_old / mu; the clip losses, whose r covers pi / pi_old) or current_over_rollout (pi / mu; pg); auto
/// takes the one named here. x_t = log ratio of the token, q = exp(clamp(x_t, +-20)) and
/// Q = exp(clamp(sum of the sequence's x_t, +-20)):
///
///   none w = 1 | token_is q | token_tis min(q, high) | token_mis q if low <= q <= high, else 0
///   seq_is Q | seq_tis min(Q, high) | seq_mis Q if low <= Q <= high, else 0
///   geo_mis 1 if low <= exp(mean of the x_t) <= high, else 0
///
/// Tokens with w = 0 stay in the denominators, and in the KL and entropy terms.
///
/// kl_estimator, with d = clamp(logprobs - reference_logprobs, +-20): k1 d, k2 d^2 / 2, k3 exp(-d) + d - 1.
///
/// Stats (a "token mean" is over tokens with mask 1): actor/pg_loss (sum c w l), actor/kl_loss (sum c KL,
/// when kl_coef > 0); token means actor/entropy, actor/ppo_kl (old - current), actor/pg_clipfrac (the clip is
/// active; cispo: r outside its bounds; pg: 0), actor/pg_clipfrac_lower (dual clip active),
/// rollout_corr/rollout_is_mean (w), rollout_corr/rollout_is_mean_square, rollout_corr/kept_fraction (w > 0)
/// and rollout_corr/rollout_is_ratio_fraction_{high,low} (the ratio lies beyond correction_{high,low}; 0 for
/// none).
LossOut policy_loss(Tape& tape, const LossInputs& in, const AlgorithmConfig& config);

/// Warm start: loss = -sum m logprobs / tokens, the mean negative log-likelihood of response tokens. Stats:
/// sft/loss, sft/entropy. Reads logprobs, entropy, mask, response_offsets, tokens.
LossOut sft_loss(Tape& tape, const LossInputs& in);

/// Sums the stats of a mini-batch's micro-batches (reads them from the device: after backward, not before).
class LossStats {
 public:
  void add(const LossOut& out);
  /// Parts so far, by name; sums of them over ranks are the whole.
  std::map<std::string, double>& parts() { return parts_; }
  /// The metrics: the parts, with mean_square replaced by rollout_corr/rollout_is_std and
  /// rollout_corr/rollout_is_eff_sample_size = mean^2 / mean_square, the share of tokens that still count.
  std::map<std::string, double> metrics() const;

 private:
  std::map<std::string, double> parts_;
};

}  // namespace mantissa
