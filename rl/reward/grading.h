// Grading of whole rollouts: every sample on some thread, and what became of the answers as counts.
#pragma once

#include <span>

#include "rl/reward/reward.h"
#include "rl/types.h"

namespace mantissa {

/// Fills in reward and extracted of every sample from its text. Adds to the metrics
/// verifier/{parsed,unparsed,no_answer,timeout,error}: answers by the status of their grade.
void grade_samples(const RewardConfig& config, std::span<RolloutGroup> groups, Metrics& metrics);

}  // namespace mantissa
