// The training loop, in reading order:
//
//   prompts -> engine (rollout) -> reward -> advantage -> batcher -> trainer (old log-probs; correction, loss, scaled
//   backward) -> step or skip -> (weights are shared: nothing to sync) -> metrics, evaluation, checkpoint
//
// The supervised warm start is the same loop without its first half: solutions take the place of completions.
#include <cmath>

#include "core/json.h"
#include "rl/algorithm/advantage.h"
#include "rl/algorithm/policy_loss.h"
#include "rl/data_parallel.h"
#include "rl/logging/console.h"
#include "rl/logging/log.h"
#include "rl/reward/grading.h"
#include "rl/run.h"
#include "rl/selftest.h"
#include "rl/train/mismatch.h"

namespace mantissa {
namespace {

/// Purpose of a random stream that derives from the run's seed; sampling keys use (seed, step).
constexpr uint64_t kShuffleStream = 0x51;

struct MinMaxMean {
  double sum = 0.0, min = INFINITY, max = -INFINITY;
  int64_t count = 0;
  void add(double x) { sum += x, min = std::min(min, x), max = std::max(max, x), ++count; }
  double mean() const { return sum / double(count); }
  void put(Metrics& metrics, const std::string& name) const {
    metrics.set(name + "/mean", mean());
    metrics.set(name + "/max", max);
    metrics.set(name + "/min", min);
  }
};

/// What the metrics say of everything that was sampled in a step.
struct RewardStats {
  MinMaxMean rewards, lengths, prompts;
  int64_t clipped = 0;
  void put(Metrics& metrics) const {
    rewards.put(metrics, "critic/score");
    lengths.put(metrics, "response_length");
    metrics.set("response_length/clip_ratio", double(clipped) / double(lengths.count));
    prompts.put(metrics, "prompt_length");
  }
};

/// The next prompts, and samples of those that this rank has to answer. `round` counts the rollouts of a step, so that
/// a prompt drawn twice in it gets other random numbers.
std::vector<RolloutGroup> rollout(Run& run, int64_t round, Metrics& metrics) {
  run.enter("rollout");
  Timer timer(metrics, "timing_s/gen");
  std::vector<RolloutGroup> groups;
  for (int64_t index : run.cursor->next(run.config.train.prompts_per_step))
    groups.push_back({run.prompts[size_t(index)], {}});
  const uint64_t counter = uint64_t(run.step) | uint64_t(round) << 32;
  sample_own(*run.engine, *run.tokenizer, groups, int(run.config.rollout.n),
             {.sampling = run.config.rollout.sampling,
              .stop_ids = run.stop_ids,
              .keys = {uint64_t(run.config.run.seed), counter},
              .policy_version = run.policy_version,
              .cancelled = [&run] { return run.comm.activity().beat(), false; }},
             run.comm);
  run.check_cache();
  return groups;
}

/// Grades the samples of this rank and exchanges them for all.
void reward(Run& run, std::vector<RolloutGroup>& groups, RewardStats& stats, Metrics& metrics) {
  run.enter("reward");
  Timer timer(metrics, "timing_s/reward");
  Metrics counters;
  grade_samples(run.config.reward, groups, counters);
  run.idle.meet();
  share_samples(groups, run.comm);
  const double failed_before = metrics.get("verifier/error");
  add_counters(metrics, counters, run.comm);
  const double failed = metrics.get("verifier/error") - (std::isnan(failed_before) ? 0.0 : failed_before);
  if (failed == double(groups.size() * size_t(run.config.rollout.n)) && run.comm.main())
    log_warning(str("step ", run.step + 1, ": reward.kind ", run.config.reward.kind,
                    " failed on every answer, so all rewards are 0"));
  for (RolloutGroup& group : groups) {
    for (RolloutSample& sample : group.samples) {
      stats.lengths.add(double(sample.completion.ids.size()));
      stats.clipped += sample.completion.finish == Finish::kLength;
    }
    stats.prompts.add(double(group.prompt.ids.size()));
  }
  apply_overlong(groups, run.config.algorithm, run.config.rollout.sampling.max_new_tokens);
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples) stats.rewards.add(sample.reward);
}

/// The groups to train on, with rewards and advantages. The metrics are those of all that were sampled,
/// whatever dynamic sampling leaves out.
std::vector<RolloutGroup> collect(Run& run, Metrics& metrics) {
  const AlgorithmConfig& algorithm = run.config.algorithm;
  const size_t wanted = size_t(run.config.train.prompts_per_step);
  std::vector<RolloutGroup> groups;
  RewardStats stats;
  int64_t rounds = 0, dropped = 0;
  do {
    run.idle.start();
    std::vector<RolloutGroup> next = rollout(run, rounds++, metrics);
    reward(run, next, stats, metrics);
    if (algorithm.dynamic_sampling) dropped += drop_without_spread(next);
    std::move(next.begin(), next.end(), std::back_inserter(groups));
  } while (algorithm.dynamic_sampling && groups.size() < wanted && rounds < algorithm.max_gen_batches);
  stats.put(metrics);
  if (algorithm.dynamic_sampling) {
    metrics.set("train/num_gen_batches", double(rounds));
    metrics.set("train/surplus_groups", double(groups.size() - std::min(groups.size(), wanted)));
    if (groups.size() > wanted) groups.resize(wanted);
    metrics.set("train/kept_groups", double(groups.size()));
  }
  Timer timer(metrics, "timing_s/adv");
  metrics.set("reward/zero_spread_groups", double(dropped + compute_advantages(groups, algorithm)));
  MinMaxMean advantages;
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples) advantages.add(sample.advantage);
  if (advantages.count > 0) advantages.put(metrics, "critic/advantages");
  return groups;
}

std::vector<MiniBatch> make_batches(Run& run, std::vector<TrainSequence> sequences, Metrics& metrics) {
  int64_t tokens = 0;
  for (const TrainSequence& s : sequences) tokens += int64_t(s.prompt->ids.size() + s.completion->ids.size());
  metrics.set("perf/total_num_tokens", double(tokens));
  RandomStream random(uint64_t(run.config.run.seed), mix64(kShuffleStream) ^ uint64_t(run.step));
  shuffle(sequences, random);
  return make_mini_batches(sequences, run.config.train.mini_batch_size, run.config.train.micro_batch_tokens,
                           {run.comm.rank(), run.comm.size()});
}

void measure_mismatch(Run& run, const std::vector<MiniBatch>& batches, Metrics& metrics) {
  std::vector<float> mu, old;
  std::vector<int32_t> lengths, offsets{0};
  for (const MiniBatch& mini : batches)
    for (const TrainBatch& batch : mini.micro) {
      for (size_t s = 1; s < batch.response_offsets.size(); ++s)
        lengths.push_back(batch.response_offsets[s] - batch.response_offsets[s - 1]);
      mu.insert(mu.end(), batch.rollout_logprobs.begin(), batch.rollout_logprobs.end());
      old.insert(old.end(), batch.old_logprobs.begin(), batch.old_logprobs.end());
    }
  for (std::vector<float>* values : {&mu, &old}) concatenate(*values, run.comm);
  concatenate(lengths, run.comm);
  if (mu.empty()) return;  // dynamic sampling left nothing
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  for (const auto& [name, value] : mismatch_metrics(mismatch_stats(mu, old, offsets))) metrics.set(name, value);
}

/// All optimizer steps of one training step; statistics are means over those that were taken.
void update(Run& run, std::vector<MiniBatch>& batches, const Trainer::Loss& loss, Metrics& metrics) {
  run.enter("update");
  Timer timer(metrics, "timing_s/update_actor");
  const std::string prefix = run.sft() ? "sft/" : "actor/";
  std::map<std::string, double> sums;
  double norm_sum = 0.0, lr = NAN, scale = run.optimizer->read_state().loss_scale;
  int64_t taken = 0, skipped = 0, empty = 0;
  for (int64_t epoch = 0; epoch < run.config.train.epochs; ++epoch)
    for (MiniBatch& mini : batches) {
      const UpdateReport report = run.trainer->update(mini, loss);
      empty += report.empty;
      if (report.empty) continue;
      lr = report.step.lr;
      scale = report.step.loss_scale;
      skipped += report.step.skipped;
      for (const auto& [name, value] : report.stats) sums[name] += report.step.skipped ? 0.0 : value;
      if (report.step.skipped) {
        if (run.comm.main())
          log_warning(str("step ", run.step + 1, ": overflow at loss scale ", scale,
                          ", update skipped; first: ", report.overflow));
        continue;
      }
      ++taken;
      ++run.policy_version;
      norm_sum += report.step.grad_norm;
    }
  // Where no step was taken 0 / 0 is written as null.
  for (const auto& [name, value] : sums) metrics.set(name, value / double(taken));
  metrics.set(prefix + "grad_norm", norm_sum / double(taken));
  metrics.set(prefix + "lr", lr);
  metrics.set("scaler/scale", scale);
  metrics.set("scaler/skipped", double(skipped));
  metrics.set("scaler/skipped_total", double(run.optimizer->read_state().skips_total));
  metrics.set("training/empty_mini_batches", double(empty));
  metrics.set("training/policy_version", double(run.policy_version));
}

void dump_samples(Run& run, const std::vector<RolloutGroup>& groups) {
  int64_t left = run.config.logging.samples;
  for (const RolloutGroup& group : groups) {
    if (left-- <= 0) return;
    const RolloutSample& sample = group.samples.front();
    run.log_sample(JsonObject(JsonEscapes::kCodes)
                       .add("step", run.step + 1)
                       .add("id", group.prompt.id)
                       .add("prompt", group.prompt.text)
                       .add("response", sample.completion.text)
                       .add("answer", group.prompt.answer)
                       .add("extracted", sample.extracted)
                       .add("reward", sample.reward)
                       .str());
  }
}

void grpo_step(Run& run, Metrics& metrics) {
  const AlgorithmConfig& algorithm = run.config.algorithm;
  const std::vector<RolloutGroup> groups = collect(run, metrics);
  std::vector<TrainSequence> sequences;
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples)
      sequences.push_back({.prompt = &group.prompt,
                           .completion = &sample.completion,
                           .advantage = sample.advantage,
                           .loss_mask = loss_mask(sample.completion, algorithm)});
  std::vector<MiniBatch> batches = make_batches(run, std::move(sequences), metrics);
  {
    run.enter("old log-probs");
    run.idle.start();
    Timer timer(metrics, "timing_s/old_log_prob");
    for (MiniBatch& mini : batches) run.trainer->fill_old_logprobs(mini);
    run.idle.meet();
  }
  measure_mismatch(run, batches, metrics);
  if (algorithm.kl_coef > 0) {
    run.enter("reference log-probs");
    Timer timer(metrics, "timing_s/ref");
    for (MiniBatch& mini : batches) run.trainer->fill_reference_logprobs(mini);
    metrics.set("actor/kl_coef", algorithm.kl_coef);
  }
  const double norm =
      double(algorithm.loss_norm_constant ? algorithm.loss_norm_constant : run.config.rollout.sampling.max_new_tokens);
  update(
      run, batches,
      [&](Tape& tape, const LossInputs& in) {
        LossInputs inputs = in;
        inputs.norm_constant = norm;
        return policy_loss(tape, inputs, algorithm);
      },
      metrics);
  dump_samples(run, groups);
}

void sft_step(Run& run, Metrics& metrics) {
  const std::vector<int64_t> indices = run.cursor->next(run.config.train.prompts_per_step);
  std::vector<Completion> solutions;
  solutions.reserve(indices.size());
  std::vector<TrainSequence> sequences;
  for (int64_t index : indices) {
    Completion& solution = solutions.emplace_back();
    solution.ids = run.prompts[size_t(index)].solution_ids;
    sequences.push_back({.prompt = &run.prompts[size_t(index)], .completion = &solution});
  }
  std::vector<MiniBatch> batches = make_batches(run, std::move(sequences), metrics);
  update(run, batches, [](Tape& tape, const LossInputs& in) { return sft_loss(tape, in); }, metrics);
}

}  // namespace

bool train(Run& run, const std::function<bool()>& stop) {
  const RunConfig& config = run.config;
  const bool begins = run.step == 0 && run.saved_step != 0;  // a checkpoint of step 0 follows the evaluation
  if (begins && config.eval.before_training && !run.eval_sets.empty()) evaluate(run);
  SelfTest self_test(run);
  double seconds = 0.0;
  int64_t done = 0;
  while (run.step < config.train.steps) {
    if (run.comm.reduce({double(stop())}, Reduce::kMax)[0] > 0) {  // whoever was asked to, all stop
      run.save();
      log_info(str("stopped after step ", run.step, "; the same command with --resume auto goes on"));
      return false;
    }
    Metrics metrics;
    metrics.set("step", double(run.step + 1));
    if (run.step + 1 == config.train.inject_overflow_step)
      run.trainer->inject_overflow(config.train.inject_overflow_parameter);
    {
      Timer timer(metrics, "timing_s/step");
      run.sft() ? sft_step(run, metrics) : grpo_step(run, metrics);
    }
    ++run.step;
    ++done;
    seconds += metrics.get("timing_s/step");
    metrics.set("perf/throughput", metrics.get("perf/total_num_tokens") / metrics.get("timing_s/step"));
    metrics.set("perf/max_memory_allocated_gb",
                run.comm.reduce({double(run.exec.backend().memory().peak)}, Reduce::kMax)[0] * 1e-9);
    if (run.comm.size() > 1)
      metrics.set("perf/idle_fraction", run.idle.fraction(run.comm, metrics.get("timing_s/step")));
    self_test.check(run, metrics);
    run.log_step(metrics);
    log_info(console_line(
        metrics,
        {.sft = run.sft(), .step = run.step, .steps = config.train.steps, .seconds_per_step = seconds / double(done)}));
    if (config.eval.every && run.step % config.eval.every == 0) evaluate(run);
    if (config.checkpoint.every && run.step % config.checkpoint.every == 0) run.save();
  }
  run.save();
  run.export_model();
  return true;
}

}  // namespace mantissa
