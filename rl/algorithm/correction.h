// Correction weights for the rollout-training mismatch: the w of rl/algorithm/policy_loss.h, without gradient.
//
// The ratio is explicit, correction_ratio: old_over_rollout (pi_old / mu) for the clip losses, whose r covers the rest,
// or current_over_rollout (pi / mu) for pg; auto takes the one that belongs to the policy loss. With x_t = log ratio of
// the token, q = exp(clamp(x_t, +-20)) and Q = exp(clamp(sum of the sequence's x_t, +-20)):
//
//   none       w = 1
//   token_is   w = q                                   seq_is   w = Q
//   token_tis  w = min(q, high)                        seq_tis  w = min(Q, high)
//   token_mis  w = q if low <= q <= high, else 0       seq_mis  w = Q if low <= Q <= high, else 0
//   geo_mis    w = 1 if low <= exp(mean of the sequence's x_t) <= high, else 0
//
// A name is a scope (token, sequence, geometric mean of a sequence) and what is done with ratios beyond the bounds:
// nothing ("_is", plain importance sampling), truncation ("_tis") or masking ("_mis").
#pragma once

#include "rl/algorithm/algorithm.h"
#include "rl/algorithm/loss.h"

namespace mantissa {

/// Log-ratios of corrections and losses are clamped to +- this before exp: e^20 = 4.9e8 is finite in fp32, and its
/// square, which the statistics take, as well.
inline constexpr double kMaxLogRatio = 20;

/// Constants [N], all undefined for correction `none`.
struct Correction {
  Var weight;     // undefined: 1
  Var kept;       // 0 where the weight was masked; undefined: 1
  Var high, low;  // 1 where the ratio lies above correction_high, below correction_low; undefined: 0
};
Correction correction_weights(Tape& tape, const LossInputs& in, const AlgorithmConfig& config);

}  // namespace mantissa
