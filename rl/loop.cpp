// The training loop, in reading order:
//
//   prompts -> engine (rollout) -> reward -> advantage -> batcher -> trainer (old log-probs; correction, loss, scaled
//   backward) -> step or skip -> (weights are shared: nothing to sync) -> metrics, evaluation, checkpoint
//
// The supervised warm start is the same loop without its first half: solutions take the place of completions.
#include <cmath>
#include <cstdio>

#include "rl/grading.h"
#include "rl/log.h"
#include "rl/mismatch.h"
#include "rl/run.h"
#include "rl/selftest.h"

namespace mantissa {
namespace {

/// Purpose of a random stream that derives from the run's seed; sampling keys use (seed, step).
constexpr uint64_t kShuffleStream = 0x51;

struct MinMaxMean {
  double sum = 0.0, min = INFINITY, max = -INFINITY;
  int64_t count = 0;
  void add(double x) {
    sum += x, min = std::min(min, x), max = std::max(max, x), ++count;
  }
  double mean() const { return sum / double(count); }
  void put(Metrics& metrics, const std::string& name) const {
    metrics.set(name + "/mean", mean());
    metrics.set(name + "/max", max);
    metrics.set(name + "/min", min);
  }
};

std::vector<RolloutGroup> rollout(Run& run, Metrics& metrics) {
  Timer timer(metrics, "timing_s/gen");
  std::vector<RolloutGroup> groups;
  std::vector<Request> requests;
  for (int64_t index : run.cursor->next(run.config.train.prompts_per_step)) {
    groups.push_back({run.prompts[size_t(index)], {}});
    requests.push_back({.prompt = &run.prompts[size_t(index)], .n = int(run.config.rollout.n)});
  }
  const RolloutConfig& rollout = run.config.rollout;
  auto completions = run.engine->generate(requests, {.temperature = rollout.temperature,
                                                     .top_p = rollout.top_p,
                                                     .top_k = rollout.top_k,
                                                     .max_new_tokens = rollout.max_new_tokens,
                                                     .stop_ids = run.stop_ids,
                                                     .keys = {uint64_t(run.config.run.seed), uint64_t(run.step)},
                                                     .policy_version = run.policy_version,
                                                     .cancelled = {}});
  for (size_t i = 0; i < groups.size(); ++i)
    for (Completion& completion : completions[i]) {
      completion.text = run.tokenizer->decode(completion.ids, true);
      groups[i].samples.emplace_back().completion = std::move(completion);
    }
  return groups;
}

void reward(Run& run, std::vector<RolloutGroup>& groups, Metrics& metrics) {
  Timer timer(metrics, "timing_s/reward");
  MinMaxMean scores, lengths, prompts;
  int64_t clipped = 0;
  grade_samples(run.config.reward, groups, metrics);
  for (RolloutGroup& group : groups) {
    for (RolloutSample& sample : group.samples) {
      const bool overlong = sample.completion.finish == Finish::kLength;
      lengths.add(double(sample.completion.ids.size()));
      clipped += overlong;
    }
    prompts.add(double(group.prompt.ids.size()));
  }
  apply_overlong(groups, run.config.algorithm);
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples) scores.add(sample.reward);
  scores.put(metrics, "critic/score");
  lengths.put(metrics, "response_length");
  metrics.set("response_length/clip_ratio", double(clipped) / double(lengths.count));
  prompts.put(metrics, "prompt_length");
}

std::vector<MiniBatch> make_batches(Run& run, std::vector<TrainSequence> sequences) {
  RandomStream random(uint64_t(run.config.run.seed), mix64(kShuffleStream) ^ uint64_t(run.step));
  shuffle(sequences, random);
  return make_mini_batches(sequences, run.config.train.mini_batch_size, run.config.train.micro_batch_tokens);
}

void measure_mismatch(const std::vector<MiniBatch>& batches, Metrics& metrics) {
  std::vector<float> mu, old;
  std::vector<int32_t> offsets{0};
  for (const MiniBatch& mini : batches)
    for (const TrainBatch& batch : mini.micro) {
      for (size_t s = 1; s < batch.response_offsets.size(); ++s)
        offsets.push_back(int32_t(mu.size()) + batch.response_offsets[s]);
      mu.insert(mu.end(), batch.rollout_logprobs.begin(), batch.rollout_logprobs.end());
      old.insert(old.end(), batch.old_logprobs.begin(), batch.old_logprobs.end());
    }
  if (mu.empty()) return;  // dynamic sampling left nothing
  for (const auto& [name, value] : mismatch_metrics(mismatch_stats(mu, old, offsets))) metrics.set(name, value);
}

/// All optimizer steps of one training step; statistics are means over them.
void update(Run& run, const std::vector<MiniBatch>& batches, const Trainer::Loss& loss, Metrics& metrics) {
  Timer timer(metrics, "timing_s/update_actor");
  std::map<std::string, double> sums;
  StepReport last;
  double loss_sum = 0.0, norm_sum = 0.0;
  int64_t updates = 0, skipped = 0;
  for (int64_t epoch = 0; epoch < run.config.train.epochs; ++epoch)
    for (const MiniBatch& mini : batches) {
      const UpdateReport report = run.trainer->update(mini, loss);
      last = report.step;
      ++updates;
      if (report.step.skipped) {
        ++skipped;
        log_warning(str("step ", run.step + 1, ": overflow at loss scale ", report.step.loss_scale, ", update skipped; first: ",
                        report.overflow));
        continue;
      }
      ++run.policy_version;
      loss_sum += report.loss;
      norm_sum += report.step.grad_norm;
      for (const auto& [name, value] : report.stats) sums[name] += value;
    }
  const double clean = double(updates - skipped);  // 0 / 0 is NaN, written as null: nothing was measured
  metrics.set("actor/pg_loss", loss_sum / clean);
  metrics.set("actor/grad_norm", norm_sum / clean);
  metrics.set("actor/lr", last.lr);
  for (const auto& [name, value] : sums) metrics.set(name, value / clean);
  metrics.set("scaler/scale", last.loss_scale);
  metrics.set("scaler/skipped", double(skipped));
  metrics.set("scaler/skipped_total", double(last.skips_total));
  metrics.set("training/policy_version", double(run.policy_version));
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') out += '\\', out += char(c);
    else if (c < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      out += escape;
    } else out += char(c);
  }
  return out + "\"";
}

void dump_samples(Run& run, const std::vector<RolloutGroup>& groups) {
  int64_t left = run.config.logging.samples;
  for (const RolloutGroup& group : groups) {
    if (left-- <= 0) return;
    const RolloutSample& sample = group.samples.front();
    run.log_sample(str("{\"step\": ", run.step + 1, ", \"id\": ", group.prompt.id, ", \"prompt\": ", quoted(group.prompt.text),
                       ", \"response\": ", quoted(sample.completion.text), ", \"answer\": ", quoted(group.prompt.answer),
                       ", \"extracted\": ", quoted(sample.extracted), ", \"reward\": ", sample.reward, "}"));
  }
}

void grpo_step(Run& run, Metrics& metrics) {
  std::vector<RolloutGroup> groups = rollout(run, metrics);
  reward(run, groups, metrics);
  metrics.set("reward/zero_spread_groups", double(compute_advantages(groups, run.config.algorithm)));

  std::vector<TrainSequence> sequences;
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples)
      sequences.push_back({.prompt = &group.prompt,
                           .completion = &sample.completion,
                           .advantage = sample.advantage,
                           .loss_mask = loss_mask(sample.completion, run.config.algorithm)});
  std::vector<MiniBatch> batches = make_batches(run, std::move(sequences));
  {
    Timer timer(metrics, "timing_s/old_log_prob");
    for (MiniBatch& mini : batches) run.trainer->score(mini);
  }
  measure_mismatch(batches, metrics);
  const AlgorithmConfig& algorithm = run.config.algorithm;
  const double norm = double(algorithm.loss_norm_constant ? algorithm.loss_norm_constant : run.config.rollout.max_new_tokens);
  update(run, batches, [&](Tape& tape, const LossInputs& in) {
    LossInputs inputs = in;
    inputs.norm_constant = norm;
    return policy_loss(tape, inputs, algorithm);
  }, metrics);
  dump_samples(run, groups);
}

void sft_step(Run& run, Metrics& metrics) {
  const std::vector<int64_t> indices = run.cursor->next(run.config.train.prompts_per_step);
  std::vector<Completion> solutions;
  solutions.reserve(indices.size());
  std::vector<TrainSequence> sequences;
  for (int64_t index : indices) {
    Completion& solution = solutions.emplace_back();
    solution.ids = run.tokenizer->encode(run.prompts[size_t(index)].solution);
    solution.ids.push_back(run.stop_ids.front());
    sequences.push_back({.prompt = &run.prompts[size_t(index)], .completion = &solution});
  }
  std::vector<MiniBatch> batches = make_batches(run, std::move(sequences));
  update(run, batches, [](Tape& tape, const LossInputs& in) { return sft_loss(tape, in); }, metrics);
}

std::string console_line(const Run& run, const Metrics& m, double seconds_per_step) {
  const int64_t left = int64_t(seconds_per_step * double(run.config.train.steps - run.step));
  char head[192], eta[32];
  std::snprintf(eta, sizeof eta, "%02d:%02d:%02d", int(left / 3600), int(left / 60 % 60), int(left % 60));
  if (run.sft()) {
    std::snprintf(head, sizeof head, "step %lld/%lld | loss %.4f | grad %.3f | lr %.2e", (long long)run.step,
                  (long long)run.config.train.steps, m.get("actor/pg_loss"), m.get("actor/grad_norm"), m.get("actor/lr"));
  } else {
    std::snprintf(head, sizeof head, "step %lld/%lld | score %.3f | len %.1f | kl %.1e | clip %.3f | grad %.3f",
                  (long long)run.step, (long long)run.config.train.steps, m.get("critic/score/mean"),
                  m.get("response_length/mean"), m.get("rollout_corr/k3_kl"), m.get("actor/pg_clipfrac"),
                  m.get("actor/grad_norm"));
  }
  char tail[128];
  std::snprintf(tail, sizeof tail, " | scale %g%s | %.2f s | %.0f tok/s | eta %s", m.get("scaler/scale"),
                m.get("scaler/skipped") > 0 ? " SKIPPED" : "", m.get("timing_s/step"), m.get("perf/throughput"), eta);
  return std::string(head) + tail;
}

}  // namespace

bool train(Run& run, const std::function<bool()>& stop) {
  const RunConfig& config = run.config;
  if (run.step == 0 && config.eval.before_training && !run.eval_sets.empty()) evaluate(run);
  SelfTest self_test(run);
  double seconds = 0.0;
  int64_t done = 0, saved = -1;
  while (run.step < config.train.steps) {
    if (stop()) {
      if (saved != run.step) run.save();
      log_info(str("stopped after step ", run.step, "; go on with the same command and --resume auto"));
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
    const double tokens = run.sft() ? 0.0
                                    : metrics.get("response_length/mean") *
                                          double(config.train.prompts_per_step * config.rollout.n);
    metrics.set("perf/throughput", tokens / metrics.get("timing_s/step"));
    metrics.set("perf/max_memory_allocated_gb", double(run.exec.backend().memory().peak) * 1e-9);
    self_test.check(run, metrics);
    run.log_step(metrics);
    log_info(console_line(run, metrics, seconds / double(done)));
    if (config.eval.every && run.step % config.eval.every == 0) evaluate(run);
    if (config.checkpoint.every && run.step % config.checkpoint.every == 0) {
      run.save();
      saved = run.step;
    }
  }
  if (saved != run.step) run.save();
  run.export_model();
  return true;
}

}  // namespace mantissa
