// Health: whether a run still learns, seen in its metrics. A condition that holds for kPatience steps in a row (where
// one step leaves no doubt, in that one) is said once, with its reason and the key to change, and once more when it is
// over; meanwhile its name stands in the console line. train.stop names those that end the run. It looks at metrics
// alone, as metrics.jsonl has them, and changes no number; a run that resumes looks at those of the steps before
// first, so that it ends where it would have ended. A metric that a step does not have (null: no token was forwarded)
// leaves its conditions as they were.
//
//   rollout_overflow    no sample of a step has finite log-probs (rollout/overflowed); said at the first such step
//   equal_rewards       every advantage of a step is 0 (not said where every grade failed, no sample has finite
//                       log-probs, or dynamic sampling left out groups whose rewards differ but whose answers are
//                       masked)
//   truncated           at least 95 % of the responses hit rollout.max_new_tokens
//   entropy_collapse    the entropy is below a tenth of what it was in the first steps
//   length_collapse     responses are below a quarter of the length that they had in the first steps
//   mismatch            rollout and training are apart by more than 0.1 nats a token (rollout_corr/k3_kl)
//   far_from_reference  the policy is more than 1 nat a token from the reference model (actor/reference_kl)
//   large_updates       the policy moves too far in a step: more than half of the tokens are clipped, or their
//                       log-probs move by more than half a nat on average
//   reward_falling      the mean reward of ten steps is less than half as far above the lowest reward of any sample so
//                       far (or above 0, if none was negative) as that of the best ten
#pragma once

#include <cmath>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "rl/config.h"

namespace mantissa {

class Health {
 public:
  static constexpr int kPatience = 3;

  explicit Health(const RunConfig& config);
  Health(const Health&) = delete;
  Health& operator=(const Health&) = delete;
  /// After each step of reinforcement learning. Returns what there is to say, a line each.
  std::vector<std::string> look(const Metrics& metrics);
  /// Names of the conditions that hold, in the order above.
  std::vector<std::string> holding() const;
  /// What to say of a run that train.stop ends now; empty: it goes on.
  std::string stop_reason() const;

 private:
  struct Condition {
    std::string name, advice;
    std::function<std::optional<bool>(const Metrics&)> holds;  // nothing where the step cannot tell
    int patience = kPatience;
    int steps = 0;        // in a row that it holds
    int steps_since = 0;  // in a row that it does not
    bool said = false;
  };
  /// Mean of the first values of a metric; it is not known before there are enough.
  struct First {
    const char* metric;
    double sum = 0;
    int count = 0;
    void add(const Metrics& metrics);
    std::optional<bool> below(double share, const Metrics& metrics) const;
  };
  std::optional<bool> reward_falling() const;

  const std::vector<std::string> stop_;
  std::vector<Condition> conditions_;
  First entropy_{"actor/entropy"}, length_{"response_length/mean"};
  std::deque<double> rewards_;      // the last ten
  double best_reward_ = -INFINITY;  // mean of the best ten
  double lowest_reward_ = 0;        // of any sample, 0 where none was negative
};

}  // namespace mantissa
