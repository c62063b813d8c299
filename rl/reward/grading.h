// Grading of whole rollouts: every sample on some thread, and what became of the answers as counts.
#pragma once

#include <span>

#include "rl/reward/rewards.h"
#include "rl/types.h"

namespace mantissa {

/// Fills in the rewards and the extracted answer of every sample from its text: the first answer that one of the
/// rewards extracts. Adds to the metrics verifier/{parsed,unparsed,no_answer,timeout,error}: grades by their status.
void grade_samples(const RewardsConfig& config, std::span<RolloutGroup> groups, Metrics& metrics);

}  // namespace mantissa
