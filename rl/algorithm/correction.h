// Correction weights for the rollout-training mismatch: the w of policy_loss (rl/algorithm/algorithm.h has the
// formulas).
#pragma once

#include "rl/algorithm/algorithm.h"

namespace mantissa {

/// Log-ratios of corrections and losses are clamped to +- this before exp: e^20 = 4.9e8 is finite in fp32
/// with room for its square.
inline constexpr double kMaxLogRatio = 20;

/// Constants [N], all undefined for correction `none`.
struct Correction {
  Var weight;     // undefined: 1
  Var kept;       // 0 where the weight was masked; undefined: 1
  Var high, low;  // 1 where the ratio lies above correction_high, below correction_low; undefined: 0
};
Correction correction_weights(Tape& tape, const LossInputs& in, const AlgorithmConfig& config);

}  // namespace mantissa
