#include "rl/health.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/text.h"

namespace mantissa {
namespace {

constexpr int kFirstSteps = 5;
constexpr size_t kWindow = 10;

/// Whether a metric is beyond a limit; nothing where the step has none.
std::optional<bool> above(double limit, double value) {
  if (!std::isfinite(value)) return {};
  return value > limit;
}

std::optional<bool> overflowed(const Metrics& m) {
  return above(1 - 1e-9, m.get("rollout/overflowed"));
}

std::optional<bool> equal_rewards(const Metrics& m) {
  if (overflowed(m).value_or(false)) return {};               // what was graded was drawn by no policy
  if (!std::isfinite(m.get("critic/score/mean"))) return {};  // every grade failed: there is no reward to be equal
  if (m.get("train/masked_groups") > 0) return {};            // rewards that differ, of truncated answers
  if (m.get("train/kept_groups") == 0) return true;           // dynamic sampling left none to have an advantage
  const double least = m.get("critic/advantages/min"), most = m.get("critic/advantages/max");
  if (!std::isfinite(least) || !std::isfinite(most)) return {};
  return least == 0 && most == 0;
}

}  // namespace

Health::Health(const RunConfig& config) : stop_(config.train.stop) {
  const std::string limit = std::to_string(config.rollout.sampling.max_new_tokens);
  const std::string named = str("(", config.lora.active() ? "lora.init" : "model.path", " names it)");
  conditions_ = {
      {"rollout_overflow",
       "no sample has finite log-probs, since the forward pass overflows in every one: nothing can be learned. Mostly "
       "the weights have grown too large: begin a new run from an earlier checkpoint " +
           named +
           " with a lower optim.lr. Where a model does so at step 1, fp16 is too narrow for it: see precision.rollout and "
           "precision.residual",
       overflowed, 1},
      {"equal_rewards",
       "there is nothing to prefer. samples.jsonl shows responses and extracted answers: if all are wrong, the "
       "problems are too hard or reward.kind does not read the answers; `evaluate --keep` picks problems that are "
       "solved sometimes",
       [](const Metrics& m) { return equal_rewards(m); }},
      {"truncated",
       "almost no response comes to its end: raise rollout.max_new_tokens (" + limit +
           "), or, where responses run on behind the answer, see that the prompt (data.template) is in the model's "
           "format and that its config.json names the end-of-sequence token",
       [](const Metrics& m) { return above(0.95 - 1e-9, m.get("response_length/clip_ratio")); }},
      {"entropy_collapse",
       "samples of a problem become alike: lower optim.lr, or raise algorithm.entropy_coef, algorithm.clip_high or "
       "rollout.temperature",
       [this](const Metrics& m) { return entropy_.below(0.1, m); }},
      {"length_collapse",
       "the policy may have found that short answers are rewarded: look at samples.jsonl and at what the reward accepts",
       [this](const Metrics& m) { return length_.below(0.25, m); }},
      {"mismatch",
       "rollout and training disagree about the samples: see precision.* (fp16 on both sides is nearest), or correct "
       "for it with algorithm.correction",
       [](const Metrics& m) { return above(0.1, m.get("rollout_corr/k3_kl")); }},
      {"far_from_reference",
       "the policy has left the model that it began with: raise algorithm.kl_coef, or lower optim.lr",
       [](const Metrics& m) { return above(1, m.get("actor/reference_kl")); }},
      {"large_updates",
       "the learning rate is too high, or a rollout is used too often: lower optim.lr or train.epochs, or raise "
       "train.mini_batch_size",
       [](const Metrics& m) {
         const auto clipped = above(0.5, m.get("actor/pg_clipfrac"));
         const auto moved = above(0.5, std::abs(m.get("actor/ppo_kl")));
         return clipped.value_or(false) ? clipped : moved;
       }},
      {"reward_falling",
       "it was higher before: begin a new run from a checkpoint before the fall " + named +
           " with a lower optim.lr or with algorithm.kl_coef",
       [this](const Metrics&) { return reward_falling(); }},
  };
}

void Health::First::add(const Metrics& metrics) {
  const double value = metrics.get(metric);
  if (count == kFirstSteps || !std::isfinite(value)) return;
  sum += value;
  ++count;
}

std::optional<bool> Health::First::below(double share, const Metrics& metrics) const {
  const double value = metrics.get(metric);
  if (count < kFirstSteps || !std::isfinite(value)) return {};
  return value < share * sum / kFirstSteps;
}

std::optional<bool> Health::reward_falling() const {
  if (rewards_.size() < kWindow) return {};
  const double mean = std::accumulate(rewards_.begin(), rewards_.end(), 0.0) / double(kWindow);
  const double rounding = 1e-9 * std::abs(lowest_reward_);  // rewards that are all equal have fallen by none
  return best_reward_ - mean > 0.5 * (best_reward_ - lowest_reward_) + rounding;
}

std::vector<std::string> Health::look(const Metrics& metrics) {
  entropy_.add(metrics);
  length_.add(metrics);
  if (const double lowest = metrics.get("critic/score/min"); std::isfinite(lowest))
    lowest_reward_ = std::min(lowest_reward_, lowest);
  if (const double reward = metrics.get("critic/score/mean"); std::isfinite(reward)) {
    rewards_.push_back(reward);
    if (rewards_.size() > kWindow) rewards_.pop_front();
    if (rewards_.size() == kWindow)
      best_reward_ = std::max(best_reward_, std::accumulate(rewards_.begin(), rewards_.end(), 0.0) / double(kWindow));
  }
  std::vector<std::string> lines;
  for (Condition& c : conditions_) {
    const std::optional<bool> now = c.holds(metrics);
    if (!now) continue;
    c.steps = *now ? c.steps + 1 : 0;
    c.steps_since = *now ? 0 : c.steps_since + 1;
    if (!c.said && c.steps == c.patience) {
      c.said = true;
      lines.push_back(str(c.name, c.patience > 1 ? str(" for ", c.patience, " steps: ") : ": ", c.advice));
    } else if (c.said && c.steps_since == c.patience) {
      c.said = false;
      lines.push_back(c.name + " is over");
    }
  }
  return lines;
}

std::vector<std::string> Health::holding() const {
  std::vector<std::string> names;
  for (const Condition& c : conditions_)
    if (c.said) names.push_back(c.name);
  return names;
}

std::string Health::stop_reason() const {
  for (const Condition& c : conditions_)
    if (c.said && std::ranges::find(stop_, c.name) != stop_.end()) return c.name + ": " + c.advice;
  return "";
}

}  // namespace mantissa
