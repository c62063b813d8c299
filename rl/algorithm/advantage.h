// Advantages from rewards, and what becomes of truncated answers.
#pragma once

#include <vector>

#include "rl/algorithm/algorithm.h"
#include "rl/types.h"

namespace mantissa {

/// What AlgorithmConfig::overlong does to rewards; comes after grading and before anything reads them.
///
///   zero_reward  truncated answers (Finish::kLength) get at most reward 0: a lower one stays
///   soft_punish  an answer of length l loses overlong_penalty * min(1, max(0, l - (limit - overlong_buffer)) /
///                overlong_buffer), a truncated one the whole penalty; `limit` is rollout.max_new_tokens
///                (DAPO, arXiv 2503.14476)
///   mask, keep   rewards stay as they are
void apply_overlong(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config, int64_t limit);
struct DroppedGroups {
  int64_t without_spread = 0;
  int64_t masked = 0;  // have a spread, but no sample in the loss
  void operator+=(const DroppedGroups& more) {
    without_spread += more.without_spread;
    masked += more.masked;
  }
};
/// Dynamic sampling (DAPO): removes the groups whose graded samples all have the same reward, and those without a
/// sample in the loss (loss_mask 0), possibly all groups: they have nothing to tell apart. Rewards are those that
/// advantages are made of; soft_punish alone goes by the scores, as DAPO does. Returns how many were removed. The loop
/// then samples more prompts, in at most max_gen_batches rollouts a step.
DroppedGroups drop_without_spread(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config);
/// TrainBatch::loss_mask of a sample: 0 when its grade failed, or when it is truncated and overlong is `mask`, else 1.
/// A masked sequence leaves the loss and its denominators; a truncated one still counts in its group's mean.
float loss_mask(const RolloutSample& sample, const AlgorithmConfig& config);

/// Fills in advantages from rewards r of each group's n samples, in fp64. A sample whose grade failed (is_failure) has
/// no reward: it is none of the n, counts in no mean or variance, and its advantage is 0.
///
///   grpo          (r - mean) / (std + 1e-6), std with n - 1 (verl)
///   drgrpo        r - mean (Dr. GRPO, arXiv 2503.20783)
///   rloo          n / (n - 1) (r - mean) = r - mean of the others (arXiv 2402.14740)
///   reinforce_pp  (r - M) / sqrt(max(V, 1e-8)), M and V the mean and population variance of r over all tokens of
///                 all groups, so that a sample counts by the length of its response (REINFORCE++, arXiv 2501.03262,
///                 whitened as OpenRLHF does)
///
/// No spread (in the group; in the batch for reinforce_pp) gives exactly 0, and so does one sample that is graded alone
/// of its group (but for reinforce_pp). Returns how many groups had no spread.
/// Errors: a group of one (the first three), a reward that is not finite.
int64_t compute_advantages(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config);

}  // namespace mantissa
