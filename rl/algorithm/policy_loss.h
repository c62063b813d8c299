// Policy losses, and the loss of the supervised warm start: from the log-probs of a micro-batch to its share of the
// loss. Everything is composed from ops; the host touches no token. Invariant: when old_logprobs (of dppo:
// rollout_logprobs) equals logprobs bit for bit, every ratio is exactly 1 and nothing is clipped.
#pragma once

#include "rl/algorithm/algorithm.h"
#include "rl/algorithm/loss.h"

namespace mantissa {

/// loss = sum_t c_t (w_t l_t + kl_coef KL_t - entropy_coef H_t), over the N scored tokens. m is the mask, A the
/// advantage of the token's sequence i of length n_i, w the weight of rl/algorithm/correction.h. Tokens with w = 0 stay
/// in the denominators, and in the KL and entropy terms.
///
/// loss_aggregation, c:
///
///   token_mean               m / tokens
///   seq_mean_token_mean      m / (n_i sequences)
///   seq_mean_token_sum_norm  m / (norm_constant sequences), as Dr. GRPO
///
/// policy_loss, l, with r = exp(clamp(logprobs - old_logprobs, +-20)) and
/// clip(r) = clamp(r, 1 - clip_low, 1 + clip_high):
///
///   grpo   max(-A r, -A clip(r)); with dual_clip c > 0 at most c |A|, which only binds for A < 0 (PPO)
///   gspo   the same with r = exp(mean over the sequence of logprobs - old_logprobs) (arXiv 2507.18071);
///          every token carries r's value and the gradient r d(logprobs_t)
///   cispo  -sg(clip(r)) A logprobs (arXiv 2506.13585)
///   pg     -A logprobs
///   dppo   -keep A exp(clamp(logprobs - rollout_logprobs, +-20)), a trust region on the difference of probabilities
///          d = exp(logprobs) - exp(rollout_logprobs) (DPPO, arXiv 2602.04879): keep is 0 where the update would take d
///          further out, A > 0 and d > clip_high or A < 0 and d < -clip_low, else 1. Its ratio is against the policy
///          that sampled, so it has no correction weight
///
/// kl_estimator, KL, with d = clamp(logprobs - reference_logprobs, +-20): k1 d, k2 d^2 / 2, k3 exp(-d) + d - 1.
///
/// Stats:
///
///   actor/pg_loss  sum of c w l
///   actor/kl_loss  sum of c KL, when kl_coef > 0
///
/// and as means over the tokens with mask 1 that were forwarded:
///
///   actor/entropy
///   actor/reference_kl                                 KL, when kl_coef > 0
///   actor/ppo_kl                                       old - current
///   actor/pg_clipfrac                                  the clip is active; cispo: r lies outside its bounds; pg: 0;
///                                                      dppo: keep is 0
///   actor/pg_clipfrac_lower                            dual_clip is active
///   rollout_corr/rollout_is_mean, ..._mean_square      w, and its square
///   rollout_corr/kept_fraction                         w > 0
///   rollout_corr/rollout_is_ratio_fraction_{high,low}  the ratio lies beyond correction_{high,low}; 0 for none
LossOut policy_loss(Tape& tape, const LossInputs& in, const AlgorithmConfig& config);

/// Warm start: loss = -sum m logprobs / tokens, the mean negative log-likelihood of response tokens. Stats: sft/loss,
/// sft/entropy. Reads logprobs, entropy, mask, response_offsets and tokens.
LossOut sft_loss(Tape& tape, const LossInputs& in);

}  // namespace mantissa
