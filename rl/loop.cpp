// The training loop, in reading order:
//
//   prompts -> engine (rollout) -> reward -> advantage -> batcher -> trainer (old log-probs; correction, loss, scaled
//   backward) -> step or skip -> (weights are shared: nothing to sync) -> metrics, evaluation, checkpoint
//
// The supervised warm start is the same loop without its first half: solutions take the place of completions.
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "core/text.h"
#include "rl/algorithm/advantage.h"
#include "rl/data_parallel.h"
#include "rl/estimate.h"
#include "rl/exact.h"
#include "rl/health.h"
#include "rl/logging/console.h"
#include "rl/logging/log.h"
#include "rl/reward/grading.h"
#include "rl/rollout_weights.h"
#include "rl/run.h"
#include "rl/sample_dump.h"
#include "rl/selftest.h"
#include "rl/train/first_difference.h"
#include "rl/train/mismatch.h"
#include "rl/unread_keys.h"

namespace mantissa {
namespace {

/// What the loss of every update reports.
const std::vector<const char*> kPolicyStats = {"actor/entropy", "actor/pg_clipfrac", "actor/pg_clipfrac_lower",
                                               "actor/pg_loss", "actor/ppo_kl"};
const std::vector<const char*> kSftStats = {"sft/entropy", "sft/loss"};

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
  MinMaxMean scores, rewards;  // of the samples whose grade did not fail; as graded, and after overlong handling
  MinMaxMean lengths, prompts;
  std::map<std::string, MinMaxMean> named;  // of reward.NAME, by itself
  int64_t clipped = 0, overflowed = 0;
  void put(Metrics& metrics) const {
    scores.put(metrics, "critic/score");
    rewards.put(metrics, "critic/rewards");
    metrics.set("critic/overlong_penalty/mean", scores.mean() - rewards.mean());
    for (const auto& [name, r] : named) metrics.set("reward/" + name + "/mean", r.mean());
    lengths.put(metrics, "response_length");
    metrics.set("response_length/clip_ratio", double(clipped) / double(lengths.count));
    prompts.put(metrics, "prompt_length");
    metrics.set("rollout/overflowed", double(overflowed) / double(lengths.count));
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
  const RolloutWeights weights(run);
  sample_own(*run.engine, groups, int(run.config.rollout.n),
             {.sampling = run.config.rollout.sampling,
              .stop = run.stop_rule(),
              .keys = {uint64_t(run.config.run.seed), counter},
              .policy_version = run.policy_version,
              .record_routes = run.records_routes,
              .cancelled = [&run] { return run.comm.activity().beat(), false; }},
             run.comm);
  run.check_cache();
  return groups;
}

/// Warns where every grade of a reward failed, and ends the run after its max_failed_steps such rollouts in a row. One
/// that had nothing to grade in a rollout goes on as before it.
void watch_failures(Run& run, const std::vector<GradeTally>& own) {
  for (const GradeTally& tally : own) {
    const std::vector<double> all = run.comm.reduce({double(tally.grades), double(tally.failed)});
    if (all[0] == 0) continue;
    int64_t& rollouts = run.failed_rewards[tally.name];
    rollouts = all[1] == all[0] ? rollouts + 1 : 0;
    if (rollouts == 0) continue;
    std::string reason;  // the first of any rank
    for (const std::string& r : run.comm.gather(tally.reason))
      if (reason.empty()) reason = r;
    const std::string which = tally.name + ".kind " + tally.kind;
    if (run.comm.main())
      log_warning(str("step ", run.step + 1, ": ", which, " failed on every answer",
                      tally.weight != 0 ? ", so it trains on none of them: " : ": ", reason));
    check(tally.max_failed_steps == 0 || rollouts < tally.max_failed_steps, which, ": every grade of ", rollouts,
          " rollouts in a row failed (", tally.name, ".max_failed_steps): ", reason);
  }
}

/// Grades the samples of this rank and exchanges them for all.
void reward(Run& run, std::vector<RolloutGroup>& groups, RewardStats& stats, Metrics& metrics) {
  run.enter("reward");
  Timer timer(metrics, "timing_s/reward");
  Metrics own;
  const std::vector<GradeTally> tallies = grade_samples(run.config.reward, groups, own);
  run.idle.meet();
  share_samples(groups, run.comm);
  add_counters(metrics, own, run.comm);
  watch_failures(run, tallies);
  stats.overflowed += run.watch_overflow(groups);
  for (RolloutGroup& group : groups) {
    for (RolloutSample& sample : group.samples) {
      stats.lengths.add(double(sample.completion.ids.size()));
      stats.clipped += sample.completion.finish == Finish::kLength;
      auto reward = sample.rewards.begin();
      for (const auto& [name, config] : run.config.reward.named) {
        MinMaxMean& own = stats.named[name];  // null where nothing is added
        if (const double r = *reward++; !std::isnan(r)) own.add(r);
      }
    }
    stats.prompts.add(double(group.prompt.ids.size()));
  }
  for (RolloutGroup& group : groups)
    for (RolloutSample& sample : group.samples) sample.score = sample.reward;
  apply_overlong(groups, run.config.algorithm, run.config.rollout.sampling.max_new_tokens);
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples) {
      if (is_failure(sample.status)) continue;
      stats.scores.add(sample.score);
      stats.rewards.add(sample.reward);
    }
}

Metrics draft_counters(const EngineStats& stats) {
  Metrics counters;
  counters.set("draft/proposed", double(stats.drafted));
  counters.set("draft/accepted", double(stats.accepted));
  return counters;
}

/// The groups to train on, with rewards and advantages. The metrics are those of all that were sampled,
/// whatever dynamic sampling leaves out.
std::vector<RolloutGroup> collect(Run& run, Metrics& metrics) {
  const AlgorithmConfig& algorithm = run.config.algorithm;
  const size_t wanted = size_t(run.config.train.prompts_per_step);
  std::vector<RolloutGroup> groups;
  RewardStats stats;
  int64_t rounds = 0;
  DroppedGroups dropped;
  uint64_t digest = 0;
  do {
    run.idle.start();
    std::vector<RolloutGroup> next = rollout(run, rounds++, metrics);
    reward(run, next, stats, metrics);
    if (run.engine->guesses()) add_counters(metrics, draft_counters(run.engine->stats()), run.comm);
    digest = rollout_digest(next, digest);
    if (algorithm.dynamic_sampling) dropped += drop_without_spread(next, algorithm);
    std::move(next.begin(), next.end(), std::back_inserter(groups));
  } while (algorithm.dynamic_sampling && groups.size() < wanted && rounds < algorithm.max_gen_batches);
  stats.put(metrics);
  metrics.set("rollout/digest", double(digest));
  if (algorithm.dynamic_sampling) {
    metrics.set("train/num_gen_batches", double(rounds));
    metrics.set("train/surplus_groups", double(groups.size() - std::min(groups.size(), wanted)));
    if (groups.size() > wanted) groups.resize(wanted);
    metrics.set("train/masked_groups", double(dropped.masked));
    metrics.set("train/kept_groups", double(groups.size()));
  }
  Timer timer(metrics, "timing_s/adv");
  metrics.set("reward/zero_spread_groups", double(dropped.without_spread + compute_advantages(groups, algorithm)));
  MinMaxMean advantages;
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples)
      if (loss_mask(sample, algorithm) > 0) advantages.add(sample.advantage);
  if (advantages.count > 0) advantages.put(metrics, "critic/advantages");
  return groups;
}

std::vector<MiniBatch> make_batches(Run& run, std::vector<TrainSequence> sequences, Packed packed, Metrics& metrics) {
  int64_t tokens = 0;
  for (const TrainSequence& s : sequences) tokens += int64_t(s.prompt->ids.size() + s.completion->ids.size());
  metrics.set("perf/total_num_tokens", double(tokens));
  return run.pack(std::move(sequences), packed);
}

/// Over the sequences of all ranks that were forwarded again: all, or under exact those that were checked; less those
/// that overflowed. Nulls where there are none.
void measure_mismatch(Run& run, LogprobSides sides, Metrics& metrics) {
  sides.keep_finite();
  for (std::vector<float>* values : {&sides.rollout, &sides.old}) concatenate(*values, run.comm);
  concatenate(sides.lengths, run.comm);
  const bool none = sides.rollout.empty();
  const MismatchStats stats = none ? MismatchStats() : mismatch_stats(sides.rollout, sides.old, sides.offsets());
  for (const auto& [name, value] : mismatch_metrics(stats)) metrics.set(name, none ? NAN : value);
}

/// Over the same sequences.
void measure_routes(Run& run, const std::vector<MiniBatch>& batches, Metrics& metrics) {
  if (!run.records_routes) return;
  RouteCounts counts;
  for (const MiniBatch& mini : batches)
    for (size_t i = 0; i < mini.device.size(); ++i)
      if (mini.device[i].same_routes.defined()) counts.add(mini.micro[i], mini.device[i].same_routes);
  const std::vector<double> all = run.comm.reduce({double(counts.pairs), double(counts.same)});
  metrics.set("moe/route_agreement", all[1] / all[0]);
}

LogprobSides sides_of(const std::vector<MiniBatch>& batches) {
  LogprobSides sides;
  for (const MiniBatch& mini : batches)
    for (const TrainBatch& batch : mini.micro) sides.add(batch);
  return sides;
}

/// What is checked where mu stands for pi_old; where a token differs, the model is run again in both forms.
ExactCheck exact_check(Run& run, std::vector<MiniBatch>& batches) {
  const auto locate = [&run](const TrainBatch& batch, size_t sequence, int64_t token) {
    if (run.model->params.in_parts()) return std::string("distributed.shard: optimizer would say where in the model");
    if (run.model->decoder->shares_experts()) return std::string("distributed.experts: 1 would say where in the model");
    Exec side(run.exec.backend());
    side.match = run.match;
    return first_difference(run.exec, side, *run.model, batch, sequence, token, run.trainer->options().logprobs,
                            run.config.precision.engine(run.match));
  };
  return ExactCheck(*run.trainer, batches,
                    {.all = run.config.exact.check == "all",
                     .stop = run.config.precision.on_difference == "stop",
                     .seed = uint64_t(run.config.run.seed),
                     .step = run.step + 1,
                     .locate = locate});
}

/// All optimizer steps of one training step. Statistics are means over those that were taken; token means are over
/// those of them that forwarded a token. `first` says where the first update of all has its old log-probs from;
/// `exact`, where there is one, sees its forward before its step.
void update(Run& run, std::vector<MiniBatch>& batches, OldLogprobs first, ExactCheck* exact, Metrics& metrics) {
  run.enter("update");
  Timer timer(metrics, "timing_s/update_actor");
  const std::string prefix = run.sft() ? "sft/" : "actor/";
  const Trainer::Loss loss = run.loss();
  std::map<std::string, double> sums;
  const StepState before = run.optimizer->read_state();
  // The schedule goes by what was planned, less what overflowed.
  const int64_t missed = run.step * run.config.planned_updates() - int64_t(before.skips_total) - before.adam_step;
  run.optimizer->set_missed(std::max<int64_t>(missed, 0));
  double norm_sum = 0.0, lr = NAN, scale = before.loss_scale;
  int64_t taken = 0, forwarded = 0, skipped = 0, empty = 0;
  OldLogprobs old = first;
  for (int64_t epoch = 0; epoch < run.config.train.epochs; ++epoch)
    for (MiniBatch& mini : batches) {
      // Under exact a mini-batch without a token in the loss needs no log-probs; the first check waits for the next.
      const bool waits = exact && mini.tokens == 0;
      const OldLogprobs source = waits ? OldLogprobs::kScored : std::exchange(old, OldLogprobs::kScored);
      const bool checked = exact && source == OldLogprobs::kOwnForward;
      const auto inspect = [&](const MiniBatch& m) { exact->check_forward(m); };
      const UpdateReport report =
          run.trainer->update(mini, loss, source, checked ? inspect : std::function<void(const MiniBatch&)>());
      if (checked && report.step.skipped) exact->check_forward(mini);  // scored again with the weights as they were
      empty += report.empty;
      if (report.empty) continue;
      lr = report.step.lr;
      scale = report.step.loss_scale;
      skipped += report.step.skipped;
      for (const auto& [name, value] : report.stats) sums[name] += report.step.skipped ? 0.0 : value;
      if (report.step.skipped) {
        if (run.comm.main())
          log_warning(str("step ", run.step + 1, ": overflow at loss scale ", shortest(scale),
                          ", update skipped; first: ", report.overflow));
        continue;
      }
      ++taken;
      forwarded += mini.forwarded > 0;
      ++run.policy_version;
      norm_sum += report.step.grad_norm;
    }
  // Where no step was taken 0 / 0 is written as null, and so is what every update reports.
  if (sums.empty())
    for (const char* name : run.sft() ? kSftStats : kPolicyStats) sums[name] = 0.0;
  for (const auto& [name, value] : sums) metrics.set(name, value / double(name == "actor/pg_loss" ? taken : forwarded));
  metrics.set(prefix + "grad_norm", norm_sum / double(taken));
  metrics.set(prefix + "lr", lr);
  metrics.set("scaler/scale", scale);
  metrics.set("scaler/skipped", double(skipped));
  metrics.set("scaler/skipped_total", double(run.optimizer->read_state().skips_total));
  metrics.set("training/empty_mini_batches", double(empty));
  metrics.set("training/policy_version", double(run.policy_version));
}

void grpo_step(Run& run, Metrics& metrics) {
  const AlgorithmConfig& algorithm = run.config.algorithm;
  const std::vector<RolloutGroup> groups = collect(run, metrics);
  std::vector<TrainSequence> sequences;
  if (run.config.lora.rollout == "merged_in_place" && run.model->adapter)
    metrics.set("lora/base_drift", base_drift(run));
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples)
      sequences.push_back({.prompt = &group.prompt,
                           .completion = &sample.completion,
                           .sample = int32_t(&sample - group.samples.data()),
                           .advantage = sample.advantage,
                           .loss_mask = loss_mask(sample, algorithm)});
  const Packed packed = algorithm.idle_without_advantage() ? Packed::kWithLoss : Packed::kAll;
  std::vector<MiniBatch> batches = make_batches(run, std::move(sequences), packed, metrics);
  int64_t idle = 0;
  for (const MiniBatch& mini : batches) idle += mini.idle;
  metrics.set("training/idle_sequences", double(idle));
  std::optional<ExactCheck> exact;
  if (run.match == Match::kExact) exact.emplace(exact_check(run, batches));
  // Passes over a rollout after the first see other weights, and need the log-probs beside them from the start.
  const OldLogprobs first = exact || run.config.train.epochs == 1 ? OldLogprobs::kOwnForward : OldLogprobs::kScored;
  {
    run.enter("old log-probs");
    run.idle.start();
    Timer timer(metrics, "timing_s/old_log_prob");
    if (exact)
      exact->prepare();
    else
      for (size_t i = first == OldLogprobs::kOwnForward; i < batches.size(); ++i)
        run.trainer->fill_old_logprobs(batches[i]);
    run.idle.meet();
  }
  if (algorithm.kl_coef > 0) {
    run.enter("reference log-probs");
    Timer timer(metrics, "timing_s/ref");
    for (MiniBatch& mini : batches) run.trainer->fill_reference_logprobs(mini);
    metrics.set("actor/kl_coef", algorithm.kl_coef);
  }
  update(run, batches, first, exact ? &*exact : nullptr, metrics);
  measure_mismatch(run, exact ? exact->sides() : sides_of(batches), metrics);
  measure_routes(run, batches, metrics);
  if (exact) {
    const ExactCounts& counts = exact->counts();
    const std::vector<double> all = run.comm.reduce({double(counts.checked), double(counts.differing)});
    metrics.set("exact/checked_tokens", all[0]);
    metrics.set("exact/differing_tokens", all[1]);
  }
  dump_samples(run, groups, batches);
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
  std::vector<MiniBatch> batches = make_batches(run, std::move(sequences), Packed::kAll, metrics);
  update(run, batches, OldLogprobs::kScored, nullptr, metrics);
}

/// Why a step took no optimizer step, as far as its metrics tell.
std::string why_idle(const Metrics& metrics, bool sft) {
  if (metrics.get("scaler/skipped") > 0) return "since every update overflowed";
  if (!sft && std::isnan(metrics.get("critic/score/mean"))) return "since no answer could be graded";
  if (metrics.get("train/masked_groups") > 0)
    return "since groups had equal rewards or truncated answers alone, which algorithm.overlong: mask leaves out";
  if (metrics.get("training/empty_mini_batches") > 0) return "since every token was left out of the loss";
  return "since no group had a spread of rewards";
}

}  // namespace

bool train(Run& run, const std::function<bool()>& stop) {
  const RunConfig& config = run.config;
  for (const std::string& text : unread_keys(config, {run.match, run.comm.size(), run.exec.backend().name() == "cpu"}))
    log_info(text);
  if (run.step > 0 && run.step >= config.train.steps)
    log_info(str("step ", run.step, " is made and train.steps is ", config.train.steps, ": nothing is left to train"));
  const bool begins = run.step == 0 && run.saved_step != 0;  // a checkpoint of step 0 follows the evaluation
  if (config.train.chooses_recompute() && run.step < config.train.steps) {
    const Backend& device = run.exec.backend();
    run.trainer->set_recompute(choose_recompute(config, device, capacity_of(device, run.comm.size()), run.comm));
  }
  if (begins && config.eval.before_training && !run.eval_sets.empty()) evaluate(run);
  SelfTest self_test(run);
  Health health(config);
  if (run.directory && !run.sft()) run.directory->each_step([&](const Metrics& metrics) { health.look(metrics); });
  bool idle_said = false;
  double seconds = 0.0;
  int64_t done = 0;
  while (run.step < config.train.steps) {
    if (run.comm.reduce({double(stop())}, Reduce::kMax)[0] > 0) {  // whoever was asked to, all stop
      run.save();
      run.finish_saving();
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
    if (run.policy_version == 0 && run.comm.main() && !std::exchange(idle_said, true))
      log_warning(str("step ", run.step, ": no optimizer step was taken, ", why_idle(metrics, run.sft())));
    if (!run.sft() && run.comm.main())
      for (const std::string& line : health.look(parse_metrics(to_json_line(metrics))))
        log_warning(str("step ", run.step, ": ", line));
    log_info(console_line(metrics, {.sft = run.sft(),
                                    .step = run.step,
                                    .steps = config.train.steps,
                                    .seconds_per_step = seconds / double(done),
                                    .notes = join(health.holding())}));
    if (config.eval.every && run.step % config.eval.every == 0) evaluate(run);
    const bool at_end = config.checkpoint.at_end && run.step == config.train.steps;
    if (at_end || (config.checkpoint.every && run.step % config.checkpoint.every == 0)) {
      run.note_best(metrics);
      run.save();
    }
    const std::string reason =  // the first rank's word
        config.train.stop.empty() ? "" : run.comm.broadcast(health.stop_reason());
    if (reason.empty()) continue;
    run.note_best(metrics);
    run.save();
    run.finish_saving();
    fail("train.stop ended the run after step ", run.step, ": ", reason);
  }
  if (config.checkpoint.at_end) run.save();
  run.finish_saving();
  run.check_end();
  run.export_model();
  return true;
}

}  // namespace mantissa
