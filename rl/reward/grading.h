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

/// How one reward fared with the answers of a rollout.
struct GradeTally {
  std::string name;  // "reward", or "reward.NAME" of several
  std::string kind;
  double weight = 1;
  int64_t max_failed_steps = 0;  // as its config has it
  int64_t grades = 0, failed = 0;
  std::string reason = {};  // of the first that failed
};

/// Fills in the rewards of every sample from its text. Whether it is correct, of several rewards those say that know it
/// best: all of kinds math, exact and code that grade its row; where there are none, all of kinds command and python;
/// else all of kind format. One with a negative weight says nothing, and where nobody does the sample is not correct.
///
/// A failure has two sides. Of `verdict` it is one where a reward that decides failed: the sample counts as not graded
/// in evaluations. Of `status` it is one where a reward with another weight than 0 failed: the sum is not known, so
/// advantages and loss leave the sample out (rl/algorithm/advantage.h). Neither touches the other.
///
/// The extracted answer and the reason are those of the first of the deciding rewards that extracts one, else of the
/// first of all that does, or of the first that decides; the reason is that of the failure where there is one of either
/// side. A failed one is NaN among the named rewards. Adds to the metrics
/// verifier/{parsed,unparsed,no_answer,timeout,error}: grades, one of each reward, by their status. Returns a tally of
/// each reward.
std::vector<GradeTally> grade_samples(const RewardsConfig& config, std::span<RolloutGroup> groups, Metrics& metrics);

}  // namespace mantissa
