// Evaluation during training: the sets of eval.files, one line of eval.jsonl.
#include <cmath>

#include "rl/evaluate.h"
#include "rl/logging/log.h"
#include "rl/logging/metrics.h"
#include "rl/rollout_weights.h"
#include "rl/run.h"

namespace mantissa {
namespace {

constexpr uint64_t kEvalSeed = 0xe7a1;  // apart from the seed of rollouts

void put(Metrics& metrics, const std::string& name, double value, const Interval& interval) {
  metrics.set("val-core/" + name, value);
  metrics.set("val-aux/" + name + "/low", interval.low);
  metrics.set("val-aux/" + name + "/high", interval.high);
}

/// Warns of answers that could not be graded. Where there are no others, the set has no accuracy.
void watch_failures(const Run& run, const std::string& set, std::span<const ProblemResult> problems, EvalSummary& s) {
  int64_t ungraded = 0;
  std::string reason;
  for (const ProblemResult& problem : problems) {
    ungraded += problem.ungraded();
    if (!problem.failure.empty()) reason = problem.failure;
  }
  if (ungraded == 0) return;
  const int64_t all = s.problems * s.samples;
  if (run.comm.main())
    log_warning(str("evaluation after step ", run.step, ", ", set, ": ", ungraded, " of ", all,
                    " answers could not be graded", ungraded < all ? " and count as wrong: " : ": ", reason));
  if (ungraded < all) return;
  s.avg = s.pass = s.majority = s.mean_reward = NAN;
  s.avg_interval = s.pass_interval = s.majority_interval = {NAN, NAN};
}

/// Responses are as long as in a rollout, and drawn by the settings of `eval` alone.
SamplingConfig sampling_of(const EvalConfig& eval, const SamplingConfig& rollout) {
  SamplingConfig sampling = rollout;
  sampling.temperature = eval.temperature;
  sampling.top_p = eval.top_p;
  sampling.top_k = 0;
  return sampling;
}

}  // namespace

void evaluate(Run& run) {
  run.enter_between("evaluation");
  const EvalConfig& eval = run.config.eval;
  Metrics metrics;
  metrics.set("step", double(run.step));
  for (const EvalSet& set : run.eval_sets) {
    EvalSummary s;
    {
      Timer timer(metrics, "timing_s/testing");
      const RolloutWeights weights(run);
      const std::vector<RolloutGroup> groups =
          sample_and_grade(*run.engine, set.prompts, int(eval.n),
                           {.sampling = sampling_of(eval, run.config.rollout.sampling),
                            .stop = run.stop_rule(),
                            .keys = {mix64(uint64_t(run.config.run.seed) ^ kEvalSeed), 0},
                            .policy_version = run.policy_version,
                            .cancelled = [&run] { return run.comm.activity().beat(), false; }},
                           run.config.reward, metrics, run.comm);
      run.check_cache();
      std::vector<ProblemResult> problems;
      for (const RolloutGroup& group : groups) problems.push_back(problem_result(group));
      s = summarize(problems);
      watch_failures(run, set.name, problems, s);
    }
    const std::string at = str("@", eval.n);
    put(metrics, set.name + "/acc/mean" + at, s.avg, s.avg_interval);
    put(metrics, set.name + "/acc/pass" + at, s.pass, s.pass_interval);
    put(metrics, set.name + "/acc/maj" + at, s.majority, s.majority_interval);
    metrics.set("val-aux/" + set.name + "/reward/mean", s.mean_reward);
    metrics.set("val-aux/" + set.name + "/response_length/mean", s.mean_length);
    metrics.set("val-aux/" + set.name + "/response_length/clip_ratio", s.truncated);
    log_info(str("evaluation after step ", run.step, ", ", set.name, ": mean", at, " ", s.avg, " [", s.avg_interval.low,
                 ", ", s.avg_interval.high, "], pass", at, " ", s.pass, ", maj", at, " ", s.majority, " (", s.problems,
                 " problems)"));
  }
  run.log_evaluation(metrics);
  if (run.note_best(metrics)) run.save();
}

}  // namespace mantissa
