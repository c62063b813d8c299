// Evaluation: k samples a problem, graded, summed up as avg@k, pass@k and maj@k. Used by `evaluate` and by
// the loop's own evaluation.
//
// With c of n samples of a problem correct, the mean over problems of
//   avg@n   c / n
//   pass@k  1 - C(n-c, k) / C(n, k): the chance that k samples drawn without replacement hold a correct one
//   (unbiased for k <= n) maj@n   1 if the most frequent extracted answer is correct (samples without an
//   answer do not vote; of several most
//           frequent answers, the share of them that is correct)
#pragma once

#include <span>
#include <vector>

#include "rl/engine.h"
#include "rl/reward.h"
#include "rl/tokenizer.h"

namespace mantissa {

struct EvalResult {
  int64_t k = 0;                     // samples a problem
  std::vector<RolloutGroup> groups;  // one a problem, in order: texts, rewards, extracted answers
  double avg = 0.0;                  // avg@k
  double pass = 0.0;                 // pass@k with k = all samples: problems with a correct one
  double majority = 0.0;             // maj@k
  double mean_reward = 0.0;
  double mean_length = 0.0;  // response tokens
  double truncated = 0.0;    // share of responses that hit the limit

  /// pass@j for any j in [1, k].
  double pass_at(int64_t j) const;
};

/// A response counts as correct when its reward is at least this.
inline constexpr double kCorrect = 0.5;

/// Share of correct samples.
double pass_rate(const RolloutGroup& group);
/// 1 - C(n-c, k) / C(n, k), for 0 <= c <= n and 1 <= k <= n.
double pass_at_k(int64_t n, int64_t c, int64_t k);
/// maj@n of one problem's samples (reward and extracted answer).
double majority_correct(std::span<const RolloutSample> samples);

/// Samples k responses to every prompt, decodes and grades them. Sample j draws with counter (prompt id, j,
/// position) under options.keys. An empty span gives zeros.
EvalResult evaluate_prompts(Engine& engine, const Tokenizer& tokenizer, std::span<const Prompt> prompts,
                            int k, const GenerateOptions& options, const RewardConfig& reward);

}  // namespace mantissa
