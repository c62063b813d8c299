#include "rl/algorithm/advantage.h"

#include <algorithm>
#include <cmath>
#include <ranges>

#include "core/error.h"

namespace mantissa {
namespace {

using Samples = std::vector<RolloutSample>;

bool is_graded(const RolloutSample& sample) {
  return !is_failure(sample.status);
}

/// Those that have a reward: a grade that failed says nothing of its answer.
auto graded(auto& samples) {
  return samples | std::views::filter(is_graded);
}

/// Whether those of the samples that count differ in their rewards.
template <class Counts>
bool has_spread(const Samples& samples, const Counts& counts, double RolloutSample::*reward = &RolloutSample::reward) {
  const auto first = std::ranges::find_if(samples, counts);
  return std::any_of(first, samples.end(),
                     [&](const RolloutSample& s) { return counts(s) && s.*reward != (*first).*reward; });
}

/// The advantages that compare the samples of one prompt.
void compare_in_group(Samples& samples, const std::string& advantage) {
  const double n = double(std::ranges::count_if(samples, is_graded));
  double mean = 0, squares = 0;
  for (const RolloutSample& s : graded(samples)) mean += s.reward / n;
  for (const RolloutSample& s : graded(samples)) squares += (s.reward - mean) * (s.reward - mean);

  double scale = 1;  // drgrpo
  if (advantage == "grpo") scale = 1 / (std::sqrt(squares / (n - 1)) + 1e-6);
  if (advantage == "rloo") scale = n / (n - 1);
  for (RolloutSample& s : graded(samples)) s.advantage = scale * (s.reward - mean);
}

/// reinforce_pp: every token carries its sample's reward; whitened over all tokens of the batch.
void whiten_over_batch(std::vector<RolloutGroup>& groups) {
  const auto sum_over_tokens = [&](auto f) {
    double sum = 0;
    for (const RolloutGroup& group : groups)
      for (const RolloutSample& s : graded(group.samples)) sum += double(s.completion.ids.size()) * f(s.reward);
    return sum;
  };
  const double tokens = sum_over_tokens([](double) { return 1.0; });
  if (tokens == 0) return;
  const double mean = sum_over_tokens([](double r) { return r; }) / tokens;
  const double variance = sum_over_tokens([&](double r) { return (r - mean) * (r - mean); }) / tokens;
  const double scale = 1 / std::sqrt(std::max(variance, 1e-8));
  for (RolloutGroup& group : groups)
    for (RolloutSample& s : graded(group.samples)) s.advantage = scale * (s.reward - mean);
}

/// True when all rewards of the batch are equal.
bool all_equal(const std::vector<RolloutGroup>& groups) {
  const RolloutSample* first = nullptr;
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& s : graded(group.samples)) {
      if (first == nullptr) first = &s;
      if (s.reward != first->reward) return false;
    }
  return true;
}

}  // namespace

void apply_overlong(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config, int64_t limit) {
  const bool zero = config.overlong == "zero_reward", soft = config.overlong == "soft_punish";
  if (!zero && !soft) return;
  const double begin = double(limit - config.overlong_buffer), buffer = double(config.overlong_buffer);
  for (RolloutGroup& group : groups)
    for (RolloutSample& s : group.samples) {
      const bool truncated = s.completion.finish == Finish::kLength;
      if (zero && truncated) s.reward = std::min(s.reward, 0.0);
      if (!soft) continue;
      const double over = (double(s.completion.ids.size()) - begin) / buffer;
      s.reward -= config.overlong_penalty * (truncated ? 1.0 : std::clamp(over, 0.0, 1.0));
    }
}

DroppedGroups drop_without_spread(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config) {
  const auto reward = config.overlong == "soft_punish" ? &RolloutSample::score : &RolloutSample::reward;
  const auto in_loss = [&](const RolloutSample& s) { return loss_mask(s, config) > 0; };
  const auto equal = [&](const RolloutGroup& group) { return !has_spread(group.samples, is_graded, reward); };
  const auto masked = [&](const RolloutGroup& group) { return std::ranges::none_of(group.samples, in_loss); };
  DroppedGroups dropped;
  dropped.without_spread = int64_t(std::erase_if(groups, equal));
  dropped.masked = int64_t(std::erase_if(groups, masked));
  return dropped;
}

float loss_mask(const RolloutSample& sample, const AlgorithmConfig& config) {
  const bool overlong = config.overlong == "mask" && sample.completion.finish == Finish::kLength;
  return overlong || !is_graded(sample) ? 0.0f : 1.0f;
}

int64_t compute_advantages(std::vector<RolloutGroup>& groups, const AlgorithmConfig& config) {
  const bool batch_wide = config.advantage == "reinforce_pp";
  const size_t least = batch_wide ? 1 : 2;
  int64_t without_spread = 0;
  for (RolloutGroup& group : groups) {
    check(group.samples.size() >= least, "[advantage] ", config.advantage, " needs at least ", least,
          " samples per prompt (rollout.n): prompt ", group.prompt.id, " has ", group.samples.size());
    for (RolloutSample& s : group.samples) {
      check(std::isfinite(s.reward), "[advantage] rewards must be finite: prompt ", group.prompt.id, " has ", s.reward);
      s.advantage = 0;
    }
    without_spread += !has_spread(group.samples, is_graded);
  }

  if (batch_wide) {
    if (!all_equal(groups)) whiten_over_batch(groups);
  } else {
    for (RolloutGroup& group : groups)
      if (has_spread(group.samples, is_graded)) compare_in_group(group.samples, config.advantage);
  }
  return without_spread;
}

}  // namespace mantissa
