// Correction weights for the rollout-training mismatch: the w of policy_loss (rl/algorithm.h has the
// formulas).
#pragma once

#include "rl/algorithm.h"

namespace mantissa {

/// Constants [N]; all undefined for correction `none`, whose weight is 1.
struct Correction {
  Var weight;
  Var high, low;  // 1 where the ratio lies above correction_high, below correction_low
};
Correction correction_weights(Tape& tape, const LossInputs& in, const AlgorithmConfig& config);

}  // namespace mantissa
