// Evaluation: n samples of each problem, graded, summed up as avg@n, pass@k and maj@n. Used by the program `evaluate`
// and by the evaluations that training makes (section `eval`).
//
// With c of n samples of a problem correct (RolloutSample::correct; truncated ones too count by their text), the mean
// over problems of
//   avg@n   c / n
//   pass@k  1 - C(n-c, k) / C(n, k): the chance that k samples drawn without replacement hold a correct one
//           (unbiased for k <= n)
//   maj@n   1 if the most frequent extracted answer is correct (samples without an answer do not vote; of
//           several most frequent answers, the share of them that is correct)
//
// Intervals are 95 % percentile bootstrap: problems are drawn with replacement 2,000 times.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "core/comm.h"
#include "core/fields.h"
#include "rl/reward/rewards.h"
#include "rl/rollout/engine.h"

namespace mantissa {

/// Evaluation during training: section `eval` of a config.
struct EvalConfig {
  int64_t every = 0;  // steps; 0 = never
  bool before_training = false;
  std::vector<std::string> files;  // empty: none
  int64_t limit = 0;
  int64_t n = 1;
  double temperature = 0.6, top_p = 0.95;
  void fields(Fields& f);
};

/// What counts of one problem's samples: sums over them.
struct ProblemResult {
  int64_t row = 0;  // Prompt::id
  int64_t samples = 0, correct = 0, truncated = 0;
  int64_t tokens = 0;  // of the responses
  double reward = 0.0;
  double majority = 0.0;                   // maj@samples of this problem
  std::vector<GradeStatus> statuses = {};  // the verdicts of the samples; empty: not known
  std::string failure = {};                // why the last of those without a grade has none

  /// Samples that could not be graded: they count as wrong in the numbers above.
  int64_t ungraded() const { return std::ranges::count_if(statuses, is_failure); }
  double pass_rate() const { return double(correct) / double(samples); }
};

ProblemResult problem_result(const RolloutGroup& group);

struct Interval {
  double low = 0.0, high = 0.0;
};

/// Means over problems. No problem at all gives zeros.
struct EvalSummary {
  int64_t problems = 0, samples = 0;             // samples a problem
  double avg = 0.0, pass = 0.0, majority = 0.0;  // avg@n, pass@n, maj@n
  Interval avg_interval, pass_interval, majority_interval;
  double mean_reward = 0.0;
  double mean_length = 0.0;  // response tokens
  double truncated = 0.0;    // share of responses that hit the limit
};

/// All problems have the same number of samples.
EvalSummary summarize(std::span<const ProblemResult> problems);
/// pass@k over problems, for 1 <= k <= samples.
double pass_at(std::span<const ProblemResult> problems, int64_t k);
/// 1 - C(n-c, k) / C(n, k), for 0 <= c <= n and 1 <= k <= n.
double pass_at_k(int64_t n, int64_t c, int64_t k);
/// maj@n of one problem's samples, by what of them is correct and the extracted answers.
double majority_correct(std::span<const RolloutSample> samples);
/// Of the mean of `values`. The same values in the same order give the same interval.
Interval bootstrap_interval(std::span<const double> values);

/// A name for each file: its stem, or the path as it is where two stems are equal.
std::vector<std::string> set_names(const std::vector<std::string>& files);

/// Samples k responses to every prompt and grades them: one group per prompt, in order. Ranks share the work, and all
/// get all. Sample j draws with counter (prompt id, j, position) under options.keys; options.stop must have a
/// tokenizer. Adds verifier/* to the metrics (grading.h).
std::vector<RolloutGroup> sample_and_grade(Engine& engine, std::span<const Prompt> prompts, int k,
                                           const GenerateOptions& options, const RewardsConfig& reward,
                                           Metrics& metrics, Comm& comm = single_comm());

}  // namespace mantissa
