#include "rl/config.h"

#include <algorithm>
#include <filesystem>
#include <iterator>

#include "core/text.h"
#include "rl/logging/metric_table.h"

namespace mantissa {
namespace {

/// A number between 1 and `most`.
bool is_number(const std::string& text, int most) {
  return !text.empty() && text.size() < 6 && text.find_first_not_of("0123456789") == text.npos && text[0] != '0' &&
         std::stoi(text) <= most;
}

bool is_device_name(const std::string& name) {
  return name == "auto" || name == "cpu" || name == "cuda" ||
         (name.starts_with("cuda:") && (is_number(name.substr(5), 99999) || name == "cuda:0"));
}

}  // namespace

void RunSection::fields(Fields& f) {
  f.field("name", name, not_decisive("name of the run, and of its directory under runs/"));
  f.field("output_dir", output_dir, not_decisive("where the run writes; empty: runs/<name>"));
  f.field("seed", seed, "the one seed: data order, sampling, initialisation", at_least(0));
  f.field("device", device, not_decisive("auto (a GPU when there is one), cpu, cuda or cuda:N"));
}

void ModelSection::fields(Fields& f) {
  f.field("path", path,
          "Hugging Face directory, .gguf file, RUN/checkpoints/step_N, builtin:NAME or "
          "random:CONFIG.json");
}

void DistributedConfig::fields(Fields& f) {
  f.field("gpus", gpus, not_decisive("processes that share the run, one a GPU of this machine; auto: all its GPUs"));
  f.choice(
      "shard", shard, {"optimizer", "parameters"},
      not_decisive("of what each rank keeps its part: masters and moments; or with them weights and gradients, which "
                   "are whole layer by layer while they are worked on"));
  f.choice(
      "gather", gather, {"auto", "whole", "unit"},
      not_decisive("with shard: parameters, the weights that a rollout reads: put together for its time, or layer by "
                   "layer in each of its steps, which is slow; auto: whole where they fit beside a KV cache"));
  f.field("experts", experts,
          not_decisive("ranks that share out the experts of a mixture, so that each holds some of them for all: a "
                       "divisor of the ranks and of the number of experts; 1: every rank holds all"),
          between(1, 65536));
  f.field("overlap", overlap,
          not_decisive("gradients are summed over ranks beside the last backward of an update; false: after it, to the "
                       "same bits"));
  f.choice("offload", offload, {"none", "optimizer"},
           not_decisive("optimizer: masters and moments lie in host memory and pass through the device in each step"));
}

namespace {

/// Metrics that not every run has, by how their names begin, and what they need. Run::check_best knows those that the
/// model and the device decide.
struct MetricNeeds {
  bool met;
  std::string needs;
  std::vector<std::string> metrics;
};

std::vector<MetricNeeds> metric_needs(const RunConfig& c) {
  const bool sft = c.train.mode == "sft";
  std::vector<MetricNeeds> all = {
      {sft, "train.mode: sft", {"sft/"}},
      {!sft,
       "train.mode: grpo",
       {"rollout/",
        "draft/",
        "critic/",
        "reward/",
        "response_length/",
        "prompt_length/",
        "train/",
        "rollout_corr/",
        "training/rollout_",
        "training/idle_sequences",
        "moe/route_agreement",
        "exact/",
        "lora/",
        "actor/",
        "selftest/k3_kl_trend",
        "timing_s/gen",
        "timing_s/reward",
        "timing_s/adv",
        "timing_s/old_log_prob",
        "timing_s/ref"}},
      {c.algorithm.kl_coef > 0,
       "algorithm.kl_coef above 0",
       {"actor/kl_loss", "actor/reference_kl", "actor/kl_coef", "timing_s/ref"}},
      {c.algorithm.dynamic_sampling, "algorithm.dynamic_sampling", {"train/"}},
      {c.rollout.draft != "none", "rollout.draft", {"draft/"}},
      {c.precision.match == "auto" || c.precision.match == "exact", "precision.match: exact", {"exact/"}},
      {c.lora.merged() && c.lora.rollout == "merged_in_place", "lora.rollout: merged_in_place", {"lora/"}},
      {c.optim.lr == 0, "optim.lr: 0", {"selftest/"}},
      {c.eval.every > 0, "eval.every and eval.files", {"val-", "timing_s/testing"}},
      {!sft || c.eval.every > 0, "train.mode: grpo or eval.every", {"verifier/"}},
  };
  const std::string& best = c.checkpoint.best;
  if (const std::string name = best.substr(best.find('/') + 1); best.starts_with("reward/") && name.ends_with("/mean"))
    all.push_back({c.reward.named.contains(name.substr(0, name.find('/'))), "a reward of this name", {best}});
  return all;
}

/// checkpoint.best is a metric that the run has; of evaluations one of a set of eval.files, of as many samples as are
/// drawn.
void validate_best(const RunConfig& c) {
  const std::string& best = c.checkpoint.best;
  if (best.empty()) return;
  check(find_metric(best) != nullptr, "checkpoint.best: no metric is called \"", best, "\"; docs/tour.md lists them");
  for (const MetricNeeds& part : metric_needs(c))
    for (const std::string& metric : part.metrics)
      check(part.met || !best.starts_with(metric), "checkpoint.best: must be a metric of this run, got ", best,
            ", which needs ", part.needs);
  const bool of_evaluation = best.starts_with("val-");
  check(of_evaluation || c.checkpoint.every > 0 || c.checkpoint.at_end || !c.train.stop.empty(),
        "checkpoint.best: ", best,
        " is looked at where checkpoints are written, which needs checkpoint.every or checkpoint.at_end");
  if (!of_evaluation) return;
  const std::vector<std::string> sets = set_names(c.eval.files);
  const std::string of_set = best.substr(best.find('/') + 1);
  check(std::ranges::any_of(sets, [&](const std::string& set) { return of_set.starts_with(set + "/"); }),
        "checkpoint.best: ", best, " is of none of the sets of eval.files: ", join(sets));
  const size_t at = best.find("/acc/") == best.npos ? best.npos : best.rfind('@');  // a set's name may have one, too
  check(at == best.npos || (best.substr(at) + "/").starts_with(str('@', c.eval.n, '/')), "checkpoint.best: ", best,
        " must be a metric @", c.eval.n, ", the samples of a problem (eval.n)");
  const std::string measure = best.substr(0, at).substr(best.rfind('/', at) + 1);
  check(at == best.npos || measure == "mean" || measure == "pass" || measure == "maj", "checkpoint.best: ", best,
        " must be of mean, pass or maj, the measures of an evaluation");
}

void validate_lora(const RunConfig& c) {
  parse_targets(c.lora.targets, "lora.targets");
  check(!c.lora.init.empty(), "lora.init: must be kaiming, gaussian or an adapter to go on from, got an empty string");
  if (!c.lora.active()) return;
  check(c.distributed.shard == "optimizer",
        "distributed.shard: must be optimizer with an adapter (lora.rank), whose frozen weights every rank holds, got ",
        c.distributed.shard);
  check(
      !c.lora.merged() || c.precision.match != "exact",
      "lora.rollout: under precision.match: exact it must be adapter, which alone gives rollouts the bits of training, "
      "got ",
      c.lora.rollout);
  check(c.lora.rollout != "merged_in_place" || c.distributed.experts == 1,
        "distributed.experts: must be 1 under lora.rollout: merged_in_place, whose checkpoints hold the weights as the "
        "first rank has them, got ",
        c.distributed.experts);
  check(c.lora.rollout != "merged_in_place" || c.precision.train == c.precision.rollout,
        "lora.rollout: merged_in_place needs equal precision.train and precision.rollout, got ", c.precision.train,
        " and ", c.precision.rollout);
}

}  // namespace

void RunConfig::validate() const {
  check(!model.path.empty(), "model.path: required, got an empty string");
  check(!run.name.empty() || !run.output_dir.empty(), "run.name: required when run.output_dir is empty");
  for (const std::filesystem::path& part : std::filesystem::path(run.name))
    check(part != "." && part != "..", "run.name: names a directory under runs/, got ", run.name);
  check(!data.files.empty(), "data.files: at least one file is required");
  if (train.mode == "sft") data.check_response_format();
  check(eval.every == 0 || !eval.files.empty(), "eval.files: required when eval.every is not 0, got none");
  if (const std::string again = repeated_file(eval.files); !again.empty()) fail("eval.files: ", again);
  check(!eval.before_training || !eval.files.empty(),
        "eval.files: required when eval.before_training is true, got none");
  if (train.mode == "grpo") {
    const int64_t sequences = train.prompts_per_step * rollout.n;
    check(sequences % train.mini_batch_size == 0,
          "train.mini_batch_size: must divide train.prompts_per_step * rollout.n = ", sequences, ", got ",
          train.mini_batch_size);
    check(rollout.sampling.temperature >= kMinTemperature, "rollout.temperature: must be at least ", kMinTemperature,
          " in training, got ", rollout.sampling.temperature);
    algorithm.validate(rollout.n);
    check(algorithm.overlong_buffer <= rollout.sampling.max_new_tokens, "algorithm.overlong_buffer: must not exceed ",
          "rollout.max_new_tokens = ", rollout.sampling.max_new_tokens, ", got ", algorithm.overlong_buffer);
  } else {
    check(train.prompts_per_step % train.mini_batch_size == 0,
          "train.mini_batch_size: must divide train.prompts_per_step = ", train.prompts_per_step, ", got ",
          train.mini_batch_size);
  }
  for (const std::string& name : train.stop) {
    check(train.mode == "grpo", "train.stop: belongs to train.mode grpo");
    check(std::ranges::count(kStopConditions, name) > 0, "train.stop: no condition is called \"", name,
          "\"; there are ", join({std::begin(kStopConditions), std::end(kStopConditions)}));
    check(name != "far_from_reference" || algorithm.kl_coef > 0,
          "train.stop: far_from_reference needs a reference model, which algorithm.kl_coef: 0 leaves out");
  }
  validate_best(*this);
  check(eval.temperature == 0 || eval.temperature >= kMinTemperature,
        "eval.temperature: must be 0 (greedy) or at least ", kMinTemperature, ", got ", eval.temperature);
  if (data.answer_key.empty() && (train.mode == "grpo" || !eval.files.empty()))
    reward.each([](const RewardConfig& one) {
      check(!reads_gold(one), "data.answer_key: required by reward.kind ", one.kind, ", got an empty string");
    });
  check(!data.answer_key.empty() || train.mode != "sft" || !data.response_has("{answer}"),
        "data.answer_key: required by {answer} in data.response_format, got an empty string");
  check(is_device_name(run.device), "run.device: must be auto, cpu, cuda or cuda:N, got \"", run.device, '"');
  check(distributed.gpus == "auto" || is_number(distributed.gpus, 4096),
        "distributed.gpus: must be auto or a number between 1 and 4096, got \"", distributed.gpus, '"');
  validate_lora(*this);
  precision.validate();
  reward.validate();
}

}  // namespace mantissa
