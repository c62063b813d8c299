#include "rl/config_keys.h"

#include <algorithm>
#include <cmath>

#include "core/text.h"

namespace mantissa {
namespace {

constexpr const char* kIntroduction = R"(# Keys of a config

Made by `build/bin/trainer --keys > docs/config.md`; a test keeps it so. `trainer --keys optim rollout.max` prints a part of it, and
`trainer --config FILE --print-config` every key with the value that a run would have.

A config is one YAML file of sections with keys. A key that is left out has its default; a key that does not exist is an error that
names the line and the nearest key. On the command line `section.key=value` goes over the file: `optim.lr=3e-6`,
`eval.files=[a.jsonl,b.jsonl]`, `data.system=""`. A list of one text may be written without brackets.

Paths (`model.path`, `data.files`, `eval.files`, `run.output_dir` and programs that a reward runs) are relative to the directory that
the trainer is started in, wherever the config lies; `~` is not expanded.

A key that is set and would not be read is refused where the run has nothing of what it asks for (`lora.alpha` without `lora.rank`),
and named in the log where it only shapes what another key switches off (`algorithm.kl_estimator` with `algorithm.kl_coef: 0`).

Several rewards have names of your own, `reward: {NAME: {kind: math, weight: 0.5}, OTHER: {kind: format}}`: each has the keys of `reward`
inside its name (`reward.NAME.kind`), and those that stand as `reward.NAME` below. What an evaluation counts as correct does not depend on
weights: of the rewards of a row those decide that know it best, math, exact and code before command and python, and format last. Where
several know it equally well, all of them must call it correct; a reward with a negative weight decides nothing. An answer counts as one
that could not be graded where a reward that decides failed; training leaves out an answer where a reward failed whose weight is not 0.

A run that is resumed must find its keys as they were, but for those marked *free on resume*.
)";

constexpr const char* kName = "NAME";  // of any reward that has one

/// Collects keys and values of a section.
class KeyLister final : public Fields {
 public:
  KeyLister(std::string section, std::vector<ConfigKey>& out) : section_(std::move(section)), out_(out) {}
  void field(const char* key, bool& value, const Help& help) override {
    add(key, value ? "true" : "false", "true or false", "", help);
  }
  void field(const char* key, int64_t& value, const Help& help, Range range) override {
    // The bounds of the type say nothing about the key.
    if (range.low <= -2147483648.0) range.low = -INFINITY;
    if (range.high >= 2147483647.0) range.high = INFINITY;
    const bool free = std::isinf(range.low) && std::isinf(range.high);
    add(key, shortest(value), "integer", free ? "" : rule_of<int64_t>(range), help);
  }
  void field(const char* key, double& value, const Help& help, Range range) override {
    add(key, shortest(value), "number", rule_of<double>(range), help);
  }
  void field(const char* key, std::string& value, const Help& help) override {
    add(key, str('"', value, '"'), "text", "", help);
  }
  void choice(const char* key, std::string& value, const std::vector<std::string>& choices, const Help& help) override {
    add(key, value, join(choices, " | "), "", help);
  }
  void field(const char* key, std::vector<std::string>& value, const Help& help) override {
    add(key, "[" + join(value) + "]", "list of texts", "", help);
  }

 private:
  void add(const char* key, std::string text, std::string type, std::string rule, const Help& help) {
    out_.push_back({section_ + "." + key, std::move(text), std::move(type), std::move(rule), help.text, help.decisive});
  }
  std::string section_;
  std::vector<ConfigKey>& out_;
};

std::string section_of(const std::string& name) {
  return name.substr(0, name.find('.'));
}
std::string leaf_of(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

std::string line_of(const ConfigKey& key) {
  return str("- `", key.name, "` (", key.type, key.rule.empty() ? "" : ", ", key.rule, "; default `", key.text, "`",
             key.decisive ? "" : "; free on resume", "): ", key.meaning, "\n");
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

/// The keys of a config, behind those of `reward` the ones that only a reward with a name has.
std::vector<ConfigKey> reference_keys() {
  RunConfig config;
  config.reward.named[kName];
  std::vector<ConfigKey> keys = config_keys(), of_named = config_keys(config);
  std::erase_if(of_named, [&](const ConfigKey& key) {
    return section_of(key.name) != "reward" ||
           std::ranges::count(keys, "reward." + leaf_of(key.name), &ConfigKey::name) > 0;
  });
  const auto last =
      std::find_if(keys.rbegin(), keys.rend(), [](const auto& k) { return section_of(k.name) == "reward"; });
  keys.insert(last.base(), of_named.begin(), of_named.end());
  return keys;
}

/// A prefix as the reference has it: "reward.x.weight" is reward.NAME.weight, "reward.x.kind" reward.kind.
std::string as_listed(const std::string& prefix, const std::vector<ConfigKey>& keys) {
  std::vector<std::string> forms = {prefix};
  if (const size_t dot = prefix.find('.', 7); prefix.starts_with("reward.") && dot != prefix.npos)
    forms.insert(forms.end(), {str("reward.", kName, prefix.substr(dot)), "reward" + prefix.substr(dot)});
  for (const std::string& form : forms)
    if (std::ranges::any_of(keys, [&](const ConfigKey& key) { return key.name.starts_with(form); })) return form;
  fail("no key begins with \"", prefix, "\"; the nearest is \"", nearest_key(prefix), "\"");
}

}  // namespace

std::vector<ConfigKey> config_keys(RunConfig config) {
  std::vector<ConfigKey> keys;
  config.sections([&](const char* name, auto& section) {
    KeyLister lister(name, keys);
    section.fields(lister);
  });
  return keys;
}

std::string KeyDifference::text(const std::string& relation) const {
  return str(key.name, ": ", first, ", ", relation, " ", key.name, ": ", second);
}

std::vector<KeyDifference> different_keys(const std::vector<ConfigKey>& first, const std::vector<ConfigKey>& second) {
  const auto text_in = [](const std::vector<ConfigKey>& keys, const std::string& name) {
    const auto key = std::ranges::find(keys, name, &ConfigKey::name);
    return key == keys.end() ? "not there" : key->text;
  };
  std::vector<KeyDifference> apart;
  for (const ConfigKey& key : first)
    if (const std::string other = text_in(second, key.name); other != key.text) apart.push_back({key, key.text, other});
  for (const ConfigKey& key : second)
    if (const std::string other = text_in(first, key.name); other == "not there" && key.text != other)
      apart.push_back({key, other, key.text});
  return apart;
}

std::string describe_keys(const std::vector<std::string>& prefixes) {
  const std::vector<ConfigKey> keys = reference_keys();
  std::string out = prefixes.empty() ? kIntroduction : "", section;
  std::vector<std::string> listed;
  for (const std::string& prefix : prefixes) listed.push_back(as_listed(prefix, keys));
  for (const ConfigKey& key : keys) {
    const auto begins = [&](const std::string& prefix) { return key.name.starts_with(prefix); };
    if (!prefixes.empty() && std::ranges::none_of(listed, begins)) continue;
    if (section != section_of(key.name)) {
      section = section_of(key.name);
      out += str(out.empty() ? "" : "\n", "## ", section, "\n\n");
    }
    out += line_of(key);
  }
  return out;
}

const std::vector<std::pair<std::string, std::string>>& foreign_keys() {
  static const std::vector<std::pair<std::string, std::string>> known = {
      // TRL's GRPOConfig and the Trainer under it
      {"learning_rate", "optim.lr"},
      {"lr_scheduler_type", "optim.schedule"},
      {"warmup_ratio", "optim.warmup_steps"},
      {"max_grad_norm", "optim.grad_clip"},
      {"adam_beta1", "optim.beta1"},
      {"adam_beta2", "optim.beta2"},
      {"adam_epsilon", "optim.eps"},
      {"num_generations", "rollout.n"},
      {"max_completion_length", "rollout.max_new_tokens"},
      {"max_tokens", "rollout.max_new_tokens"},
      {"max_prompt_length", "data.max_prompt_tokens"},
      {"beta", "algorithm.kl_coef"},
      {"epsilon", "algorithm.clip_low"},
      {"epsilon_high", "algorithm.clip_high"},
      {"delta", "algorithm.dual_clip"},
      {"loss_type", "algorithm.loss_aggregation"},
      {"scale_rewards", "algorithm.advantage"},
      {"importance_sampling_level", "algorithm.policy_loss"},
      {"mask_truncated_completions", "algorithm.overlong"},
      {"num_iterations", "train.epochs"},
      {"num_train_epochs", "train.steps"},
      {"max_steps", "train.steps"},
      {"per_device_train_batch_size", "train.mini_batch_size"},
      {"gradient_accumulation_steps", "train.mini_batch_size"},
      {"gradient_checkpointing", "train.recompute"},
      {"bf16", "precision.train"},
      {"fp16", "precision.train"},
      {"dtype", "precision.train"},
      {"torch_dtype", "precision.train"},
      {"model_name_or_path", "model.path"},
      {"lora_r", "lora.rank"},
      {"lora_alpha", "lora.alpha"},
      {"lora_dropout", "lora.dropout"},
      {"lora_target_modules", "lora.targets"},
      {"save_steps", "checkpoint.every"},
      {"save_total_limit", "checkpoint.keep"},
      {"eval_steps", "eval.every"},
      {"eval_on_start", "eval.before_training"},
      {"report_to", "logging.tensorboard"},
      {"log_completions", "logging.samples"},
      {"reward_funcs", "reward.kind"},
      // verl
      {"train_batch_size", "train.prompts_per_step"},
      {"ppo_mini_batch_size", "train.mini_batch_size"},
      {"ppo_max_token_len_per_gpu", "train.micro_batch_tokens"},
      {"ppo_micro_batch_size_per_gpu", "train.micro_batch_tokens"},
      {"ppo_epochs", "train.epochs"},
      {"total_training_steps", "train.steps"},
      {"total_epochs", "train.steps"},
      {"adv_estimator", "algorithm.advantage"},
      {"loss_mode", "algorithm.policy_loss"},
      {"loss_agg_mode", "algorithm.loss_aggregation"},
      {"kl_loss_coef", "algorithm.kl_coef"},
      {"kl_loss_type", "algorithm.kl_estimator"},
      {"entropy_coeff", "algorithm.entropy_coef"},
      {"clip_ratio_low", "algorithm.clip_low"},
      {"clip_ratio_high", "algorithm.clip_high"},
      {"clip_ratio_c", "algorithm.dual_clip"},
      {"filter_groups", "algorithm.dynamic_sampling"},
      {"max_num_gen_batches", "algorithm.max_gen_batches"},
      {"rollout_is_threshold", "algorithm.correction_high"},
      {"tis_imp_ratio_cap", "algorithm.correction_high"},
      {"max_response_length", "rollout.max_new_tokens"},
      {"response_length", "rollout.max_new_tokens"},
      {"gpu_memory_utilization", "rollout.memory_fraction"},
      {"max_num_seqs", "rollout.max_batch"},
      {"train_files", "data.files"},
      {"val_files", "eval.files"},
      {"custom_reward_function", "reward.kind"},
      {"reward_manager", "reward.kind"},
      {"test_freq", "eval.every"},
      {"val_before_train", "eval.before_training"},
      {"save_freq", "checkpoint.every"},
      {"max_actor_ckpt_to_keep", "checkpoint.keep"},
      {"lora_rank", "lora.rank"},
      {"target_modules", "lora.targets"},
      {"lora_adapter_path", "lora.init"},
      {"experiment_name", "run.name"},
      {"project_name", "run.name"},
      {"default_local_dir", "run.output_dir"},
      {"n_gpus_per_node", "distributed.gpus"},
      {"enable_gradient_checkpointing", "train.recompute"},
      {"lr_warmup_steps", "optim.warmup_steps"},
  };
  return known;
}

std::string nearest_key(const std::string& name) {
  const std::string section = section_of(name), leaf = leaf_of(name);
  for (const auto& [foreign, ours] : foreign_keys())
    if (foreign == leaf) return ours;
  const std::vector<ConfigKey> keys = config_keys();
  const auto distance = [&](const ConfigKey& key) {
    // A key of another section has to be clearly more alike.
    return edit_distance(leaf, leaf_of(key.name)) + (section_of(key.name) == section ? 0 : 1 + leaf.size() / 4);
  };
  return std::min_element(keys.begin(), keys.end(),
                          [&](const ConfigKey& a, const ConfigKey& b) {
                            const bool same_a = leaf_of(a.name) == leaf, same_b = leaf_of(b.name) == leaf;
                            return same_a != same_b ? same_a : distance(a) < distance(b);
                          })
      ->name;
}

}  // namespace mantissa
