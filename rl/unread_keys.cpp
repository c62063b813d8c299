#include "rl/unread_keys.h"

#include <algorithm>

#include "core/text.h"

namespace mantissa {
namespace {

/// Where `unread` holds, the run does not read these keys; "algorithm." stands for a section.
struct Rule {
  bool unread;
  std::vector<std::string> keys;
  std::string why;
};

/// Keys of the rewards whose grades cannot fail, that say what follows where all do.
std::vector<std::string> failure_keys(const RewardsConfig& rewards) {
  std::vector<std::string> keys;
  const auto add = [&](const std::string& name, const RewardConfig& reward) {
    if (reward.kind != "command" && reward.kind != "code" && reward.kind != "python")
      keys.push_back(name + ".max_failed_steps");
  };
  if (rewards.named.empty()) add("reward", rewards.one);
  for (const auto& [name, named] : rewards.named) add("reward." + name, named.reward);
  return keys;
}

std::vector<Rule> refusals(const RunConfig& c) {
  const bool sft = c.train.mode == "sft", adapter = c.lora.active();
  return {
      {!adapter,
       {"lora.alpha", "lora.targets", "lora.dropout", "lora.init", "lora.rollout"},
       "where there is no adapter (lora.rank: 0)"},
      {!sft, {"lora.dropout"}, "in grpo, whose rollouts have none"},
      {sft, {"lora.rollout"}, "in sft, whose evaluations compute as training does"},
      {sft, {"moe.replay"}, "in sft, which has no rollout"},
      {c.precision.match == "exact",
       {"moe.replay"},
       "under precision.match: exact, where rollout and training choose the same experts"},
      {c.distributed.shard == "optimizer",
       {"distributed.gather"},
       "where weights are whole (distributed.shard: optimizer)"},
      {!c.samples(), {"distributed.gather", "rollout.draft"}, "in sft without evaluations, which samples nothing"},
      {c.train.inject_overflow_step <= 0,
       {"train.inject_overflow_parameter"},
       "where none is injected (train.inject_overflow_step)"},
  };
}

/// Of section scaler.
std::vector<Rule> scaler_notices(const RunConfig& c) {
  const std::string& mode = c.scaler.mode;
  const std::vector<std::string> dynamics = {"scaler.growth_factor", "scaler.backoff_factor", "scaler.growth_interval",
                                             "scaler.min_scale"};
  std::vector<std::string> all = dynamics;
  all.insert(all.begin(), "scaler.init_scale");
  return {{mode == "off", all, "with scaler.mode: off"},
          {mode == "static", dynamics, "with scaler.mode: static"},
          {mode == "auto" && c.precision.train_dtype() != Dtype::kF16, all,
           "with scaler.mode: auto, which is off for " + c.precision.train}};
}

/// Of section eval.
std::vector<Rule> eval_notices(const RunConfig& c) {
  const int64_t steps = c.train.steps, every = c.eval.every;
  const bool before = c.eval.before_training;
  const std::string too_few = str("with train.steps: ", steps);
  return {{every == 0 && !before, {"eval."}, "with eval.every: 0 and eval.before_training: false"},
          {every > steps && !before, {"eval."}, too_few},
          {every > steps && before, {"eval.every"}, too_few},
          {(every > 0 || before) && c.eval.temperature == 0,
           {"eval.top_p"},
           "with eval.temperature: 0, which takes the likeliest token"}};
}

/// Of section distributed and of train.deterministic.
std::vector<Rule> notices_of_place(const RunPlace& place) {
  return {{place.ranks == 1,
           {"distributed.shard", "distributed.gather", "distributed.overlap"},
           "with one rank, which has all weights and gradients"},
          {place.cpu, {"train.deterministic"}, "on the CPU, where the same inputs always give the same bits"},
          {place.cpu,
           {"distributed.offload"},
           "but in checkpoints (checkpoint.background) on the CPU, whose memory is that of the host"}};
}

/// Whether training loop or evaluations look at checkpoint.best, as far as the config says.
bool looks_at_best(const RunConfig& c) {
  const CheckpointConfig& checkpoint = c.checkpoint;
  const int64_t steps = c.train.steps;
  if (checkpoint.best.starts_with("val-")) return c.eval.every <= steps || c.eval.before_training;
  const bool saves = checkpoint.at_end || (checkpoint.every > 0 && checkpoint.every <= steps) || !c.train.stop.empty();
  return steps > 0 && saves;
}

/// Of sections optim, scaler, eval and checkpoint.
std::vector<Rule> notices_of_both_modes(const RunConfig& c) {
  const int64_t steps = c.train.steps, updates = steps * c.planned_updates();
  return {
      {c.optim.schedule == "constant", {"optim.min_lr_ratio"}, "with optim.schedule: constant"},
      {c.optim.schedule != "constant" && c.optim.warmup_steps >= updates,
       {"optim.schedule", "optim.min_lr_ratio"},
       str("with optim.warmup_steps: ", c.optim.warmup_steps, ", which the ", updates,
           " updates of the run do not end")},
      {c.optim.lr == 0,
       {"optim.schedule", "optim.warmup_steps", "optim.min_lr_ratio", "optim.beta1", "optim.beta2", "optim.eps",
        "optim.weight_decay"},
       "with optim.lr: 0, which moves no weight"},
      {c.checkpoint.every > steps, {"checkpoint.every"}, str("with train.steps: ", steps)},
      {!looks_at_best(c), {"checkpoint.best"}, str("with train.steps: ", steps, ", which ends before it is looked at")},
      {c.train.inject_overflow_step > steps, {"train.inject_overflow_step"}, str("with train.steps: ", steps)},
      {c.checkpoint.every == 0 && !c.checkpoint.at_end && c.checkpoint.best.empty(),
       {"checkpoint.keep", "checkpoint.background"},
       "with checkpoint.every: 0 and checkpoint.at_end: false, unless the run is stopped"},
  };
}

std::vector<Rule> notices(const RunConfig& c, const RunPlace& place) {
  const Match match = place.match;
  const bool sft = c.train.mode == "sft", evaluates = c.samples();
  const AlgorithmConfig& a = c.algorithm;
  std::vector<Rule> rules = {
      {!evaluates,
       {"rollout.", "reward.", "algorithm.", "logging.samples", "precision.kv_cache", "precision.match",
        "precision.on_difference", "exact.check"},
       "in sft without evaluations, which samples nothing"},
      {!evaluates && c.precision.rollout != c.precision.train,
       {"precision.rollout"},
       "in sft without evaluations, which samples nothing"},
      {sft && evaluates,
       {"rollout.n", "rollout.temperature", "rollout.top_p", "rollout.top_k", "reward.max_failed_steps", "algorithm.",
        "logging.samples", "precision.on_difference", "exact.check"},
       "in sft, which samples in evaluations alone"},
      {!sft,
       {"data.solution_key", "data.response_format", "data.strip_calculator_marks"},
       "in grpo, which reads no solutions"},
      {!sft && match != Match::kExact,
       {"exact.check", "precision.on_difference"},
       str("under precision.match: ", name_of(match))},
      {sft && c.eval.files.empty() && !c.data.response_has("{answer}"),
       {"data.answer_key"},
       "in sft without eval.files and with a data.response_format that has no {answer}"},
      {sft && !c.data.response_has("{solution}"),
       {"data.solution_key", "data.strip_calculator_marks"},
       "with a data.response_format that has no {solution}"},
      {!sft && a.kl_coef == 0, {"algorithm.kl_estimator"}, "with algorithm.kl_coef: 0"},
      {!sft && a.correction == "none",
       {"algorithm.correction_ratio", "algorithm.correction_high"},
       "with algorithm.correction: none"},
      {!sft && match == Match::kExact && !a.corrects_current() && a.correction_low <= 1 && a.correction_high >= 1,
       {"algorithm.correction"},
       "under precision.match: exact, where the rollout's log-probs are training's and every weight is 1"},
      {!sft && a.policy_loss == "pg",
       {"algorithm.clip_low", "algorithm.clip_high"},
       "with algorithm.policy_loss: pg, which clips nothing"},
      {!sft && a.policy_loss != "pg" && a.policy_loss != "dppo" && c.planned_updates() == 1,
       {"algorithm.clip_low", "algorithm.clip_high", "algorithm.dual_clip"},
       "where a step has one update (train.mini_batch_size, train.epochs), whose ratios are all 1"},
      {!sft && (a.correction == "token_is" || a.correction == "seq_is"),
       {"algorithm.correction_high"},
       "but in metrics with algorithm.correction: " + a.correction + ", which bounds no weight"},
      {!sft && !a.dynamic_sampling, {"algorithm.max_gen_batches"}, "without algorithm.dynamic_sampling"},
      {evaluates && c.rollout.sampling.stop.empty(), {"rollout.keep_stop"}, "without rollout.stop"},
      {evaluates && c.rollout.cache_tokens > 0, {"rollout.memory_fraction"}, "with rollout.cache_tokens"},
      {!sft, failure_keys(c.reward), "where the reward runs no program, whose grades alone can fail"},
  };
  for (std::vector<Rule> more : {notices_of_both_modes(c), scaler_notices(c), eval_notices(c), notices_of_place(place)})
    for (Rule& rule : more) rules.push_back(std::move(rule));
  return rules;
}

struct SetKey {
  std::string name, default_text, text;
};

/// config_keys of a config that sets nothing, with rewards of the same names.
std::vector<ConfigKey> default_keys(const RunConfig& config) {
  RunConfig defaults;
  for (const auto& [name, reward] : config.reward.named) defaults.reward.named[name];
  return config_keys(defaults);
}

/// The keys whose value is not the default.
std::vector<SetKey> set_keys(const RunConfig& config) {
  const std::vector<ConfigKey> before = default_keys(config), now = config_keys(config);
  std::vector<SetKey> keys;
  for (size_t i = 0; i < now.size(); ++i)
    if (now[i].text != before[i].text) keys.push_back({now[i].name, before[i].text, now[i].text});
  return keys;
}

bool covers(const std::string& rule, const std::string& key) {
  return rule.ends_with('.') ? key.starts_with(rule) : key == rule;
}

/// Those of the keys that a rule says are not read, in its order.
std::vector<SetKey> caught(const Rule& rule, const std::vector<SetKey>& keys) {
  std::vector<SetKey> found;
  if (!rule.unread) return found;
  for (const std::string& name : rule.keys)
    for (const SetKey& key : keys)
      if (covers(name, key.name)) found.push_back(key);
  return found;
}

}  // namespace

void refuse_unread_keys(const RunConfig& config) {
  const std::vector<SetKey> keys = set_keys(config);
  for (const Rule& rule : refusals(config))
    for (const SetKey& key : caught(rule, keys))
      fail(key.name, ": must be ", key.default_text, " ", rule.why, ", got ", key.text);
}

std::vector<ConfigKey> effective_keys(const RunConfig& config) {
  std::vector<Rule> rules = refusals(config);
  for (const Rule& rule : scaler_notices(config)) rules.push_back(rule);
  rules.push_back({true, config.reward.misplaced(), {}});
  rules.push_back({config.algorithm.overlong != "soft_punish", {"algorithm.overlong_penalty"}, {}});
  rules.push_back({config.data.prompt_template != "chat", {"data.chat_template"}, {}});
  rules.push_back({config.lora.from_directory(), {"lora.rank", "lora.alpha", "lora.targets"}, {}});
  const std::vector<ConfigKey> defaults = default_keys(config);
  std::vector<ConfigKey> keys = config_keys(config);
  for (size_t i = 0; i < keys.size(); ++i)
    for (const Rule& rule : rules)
      if (rule.unread && std::ranges::any_of(rule.keys, [&](const auto& name) { return covers(name, keys[i].name); }))
        keys[i].text = defaults[i].text;
  return keys;
}

std::vector<std::string> unread_keys(const RunConfig& config, const RunPlace& place) {
  const std::vector<SetKey> keys = set_keys(config);
  std::vector<std::string> lines;
  for (const Rule& rule : notices(config, place)) {
    std::vector<std::string> names;
    for (const SetKey& key : caught(rule, keys)) names.push_back(key.name);
    if (!names.empty()) lines.push_back(str(join(names), ": without effect ", rule.why));
  }
  const OptimConfig& optim = config.optim;
  const int64_t updates = config.train.steps * config.planned_updates();
  if (optim.lr > 0 && updates > 0 && optim.warmup_steps > updates)
    lines.push_back(str("optim.lr: never reached, since optim.warmup_steps is ", optim.warmup_steps,
                        " and the run has ", updates, " updates"));
  return lines;
}

}  // namespace mantissa
