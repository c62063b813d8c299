// Grading of whole rollouts: every sample on some thread, and what became of the answers as counts.
#pragma once

#include <span>
#include <vector>

#include "rl/reward/rewards.h"
#include "rl/types.h"

namespace mantissa {

/// Grades of all answers in order, by any kind of reward, on all cores. Throws Error only where the reward itself
/// cannot be had: a Python file that does not import.
std::vector<Grade> grade_answers(const RewardConfig& config, std::span<const Answer> answers);

/// Fills in the rewards of every sample from its text; the extracted answer and the reason are those of the first
/// reward that extracts an answer, or of the first. Adds to the metrics
/// verifier/{parsed,unparsed,no_answer,timeout,error}: grades by their status.
void grade_samples(const RewardsConfig& config, std::span<RolloutGroup> groups, Metrics& metrics);

}  // namespace mantissa
