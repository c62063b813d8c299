// Keys that a run does not read: each rule with values that it lets pass and values that it does not.
#include "rl/unread_keys.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/message.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

const Strings kSft = {"train.mode=sft", "train.mini_batch_size=64"};
const Strings kEvaluates = {"eval.files=e", "eval.every=5"};

Strings operator+(Strings list, const Strings& more) {
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

RunConfig config_of(const Strings& overrides) {
  return parse_run_config("run: {}", "F", Strings{"model.path=m", "data.files=f"} + overrides);
}
std::string refusal(const Strings& overrides) {
  return message_of([&] { config_of(overrides); });
}
/// The notices of a run on two GPUs under fast.
Strings said(const Strings& overrides, Match match = Match::kFast) {
  return unread_keys(config_of(overrides), {.match = match, .ranks = 2});
}

const char* const kNothingToCorrect =
    "algorithm.correction: without effect under precision.match: exact, where the rollout's log-probs are training's "
    "and every weight is 1";

TEST(UnreadKeys, ShippedConfigsHaveNone) {
  int files = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(std::filesystem::path(MANTISSA_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const RunConfig config = load_run_config(entry.path(), {});
    const bool corrects = config.algorithm.correction != "none" && config.algorithm.policy_loss != "pg";
    Strings fast, exact;
    if (corrects) exact.push_back(kNothingToCorrect);
    const ScalerConfig& scaler = config.scaler;
    if (config.precision.train == "bf16" && scaler.growth_interval != ScalerConfig().growth_interval)
      for (Strings* lines : {&fast, &exact})  // of the FP16 config beside it
        lines->push_back("scaler.growth_interval: without effect with scaler.mode: auto, which is off for bf16");
    EXPECT_EQ(unread_keys(config, {.match = Match::kFast, .ranks = 2}), fast) << entry.path();
    EXPECT_EQ(unread_keys(config, {.match = Match::kExact, .ranks = 2}), exact) << entry.path();
    ++files;
  }
  EXPECT_GE(files, 30);
}

TEST(UnreadKeys, WhatTheRunHasNotIsRefused) {
  struct Case {
    Strings overrides;
    std::string message;  // behind "F: "; empty: it passes
  };
  const std::string no_adapter = " where there is no adapter (lora.rank: 0), got ",
                    nothing = " in sft without evaluations, which samples nothing, got ";
  const Strings parts = {"distributed.shard=parameters", "distributed.gather=unit"};
  const std::vector<Case> cases = {
      {{"lora.alpha=32"}, "lora.alpha: must be 16" + no_adapter + "32"},
      {{"lora.alpha=32", "lora.rank=8"}, ""},
      {{"lora.alpha=16"}, ""},
      {{"lora.targets=q_proj"}, "lora.targets: must be [all-linear]" + no_adapter + "[q_proj]"},
      {{"lora.targets=q_proj", "lora.init=some/adapter"}, ""},
      {{"lora.init=gaussian"}, "lora.init: must be \"kaiming\"" + no_adapter + "\"gaussian\""},
      {{"lora.init=gaussian", "lora.rank=8"}, ""},
      {{"lora.rollout=merged"}, "lora.rollout: must be adapter" + no_adapter + "merged"},
      {{"lora.rollout=merged", "lora.rank=8"}, ""},
      {kSft + Strings{"lora.dropout=0.1"}, "lora.dropout: must be 0" + no_adapter + "0.1"},
      {kSft + Strings{"lora.dropout=0.1", "lora.rank=8"}, ""},
      {{"lora.dropout=0.1", "lora.rank=8"}, "lora.dropout: must be 0 in grpo, whose rollouts have none, got 0.1"},
      {kSft + Strings{"lora.rollout=merged", "lora.rank=8"},
       "lora.rollout: must be adapter in sft, whose evaluations compute as training does, got merged"},
      {kSft + Strings{"moe.replay=rollout"}, "moe.replay: must be none in sft, which has no rollout, got rollout"},
      {{"moe.replay=rollout", "precision.match=exact"},
       "moe.replay: must be none under precision.match: exact, where rollout and training choose the same experts, got "
       "rollout"},
      {{"moe.replay=rollout"}, ""},
      {{"distributed.gather=unit"},
       "distributed.gather: must be auto where weights are whole (distributed.shard: optimizer), got unit"},
      {parts, ""},
      {kSft + parts, "distributed.gather: must be auto" + nothing + "unit"},
      {kSft + parts + kEvaluates, ""},
      {kSft + Strings{"rollout.draft=history"}, "rollout.draft: must be none" + nothing + "history"},
      {kSft + Strings{"rollout.draft=history", "eval.files=e"}, "rollout.draft: must be none" + nothing + "history"},
      {kSft + Strings{"rollout.draft=history", "eval.files=e", "eval.before_training=true"}, ""},
      {kSft + Strings{"rollout.draft=history"} + kEvaluates, ""},
      {{"rollout.draft=history"}, ""},
      {{"train.inject_overflow_parameter=embedding.weight"},
       "train.inject_overflow_parameter: must be \"layers.0.down.weight\" where none is injected "
       "(train.inject_overflow_step), got \"embedding.weight\""},
      {{"train.inject_overflow_parameter=embedding.weight", "train.inject_overflow_step=1"}, ""},
      {{"eval.before_training=true"}, "eval.files: required when eval.before_training is true, got none"},
      {{"eval.before_training=true", "eval.files=e"}, ""},
      {{"eval.before_training=true", "eval.files=[e,f,e]"}, "eval.files: \"e\" is named twice"},
      {{"train.stop=far_from_reference"},
       "train.stop: far_from_reference needs a reference model, which algorithm.kl_coef: 0 leaves out"},
      {{"train.stop=far_from_reference", "algorithm.kl_coef=0.01"}, ""},
  };
  for (const Case& c : cases)
    EXPECT_EQ(refusal(c.overrides), c.message.empty() ? "" : "F: " + c.message) << testing::PrintToString(c.overrides);
}

struct SwitchedOff {
  Strings off, on;  // on: what makes a run read the keys
  std::string line;
};
void expect_said(const std::vector<SwitchedOff>& cases) {
  for (const SwitchedOff& c : cases) {
    EXPECT_EQ(said(c.off), Strings{c.line});
    EXPECT_EQ(said(c.off + c.on), Strings{}) << c.line;
  }
}

TEST(UnreadKeys, EvaluationsThatNeverComeAreSaid) {
  expect_said({
      {{"eval.files=e"},
       {"eval.every=2"},
       "eval.files: without effect with eval.every: 0 and eval.before_training: false"},
      {{"eval.files=e"},
       {"eval.before_training=true"},
       "eval.files: without effect with eval.every: 0 and eval.before_training: false"},
      {kEvaluates + Strings{"eval.n=4", "eval.top_p=0.9", "eval.temperature=0"},
       {"eval.temperature=0.5"},
       "eval.top_p: without effect with eval.temperature: 0, which takes the likeliest token"},
      {{"eval.n=4", "eval.limit=9", "eval.temperature=0", "eval.top_p=1"},
       kEvaluates + Strings{"eval.temperature=1"},
       "eval.limit, eval.n, eval.temperature, eval.top_p: without effect with eval.every: 0 and eval.before_training: "
       "false"},
      {kSft + Strings{"eval.n=4"},
       {"eval.files=e", "eval.before_training=true"},
       "eval.n: without effect with eval.every: 0 and eval.before_training: false"},
      {{"eval.files=e", "eval.n=4", "eval.every=101"},
       {"train.steps=101"},
       "eval.every, eval.files, eval.n: without effect with train.steps: 100"},
      {{"eval.files=e", "eval.n=4", "eval.every=101", "eval.before_training=true"},
       {"train.steps=101"},
       "eval.every: without effect with train.steps: 100"},
  });
}

TEST(UnreadKeys, WhatAnotherKeySwitchesOffIsSaid) {
  const Strings fast = {"exact.check=all", "precision.on_difference=warn"};
  expect_said({
      {{"data.solution_key=worked", "data.response_format=So {solution}", "data.strip_calculator_marks=true"},
       kSft,
       "data.solution_key, data.response_format, data.strip_calculator_marks: without effect in grpo, which reads no solutions"},
      {{"algorithm.kl_estimator=k1"},
       {"algorithm.kl_coef=0.1"},
       "algorithm.kl_estimator: without effect with algorithm.kl_coef: 0"},
      {{"algorithm.correction_high=3", "algorithm.correction_ratio=old_over_rollout"},
       {"algorithm.correction=token_tis"},
       "algorithm.correction_ratio, algorithm.correction_high: without effect with algorithm.correction: none"},
      {{"algorithm.max_gen_batches=3"},
       {"algorithm.dynamic_sampling=true"},
       "algorithm.max_gen_batches: without effect without algorithm.dynamic_sampling"},
      {{"rollout.keep_stop=false"}, {"rollout.stop=x"}, "rollout.keep_stop: without effect without rollout.stop"},
      {{"optim.min_lr_ratio=0.1"},
       {"optim.schedule=cosine"},
       "optim.min_lr_ratio: without effect with optim.schedule: constant"},
      {{"reward.max_failed_steps=5"},
       {"reward.kind=command", "reward.command=c"},
       "reward.max_failed_steps: without effect where the reward runs no program, whose grades alone can fail"},
      {{"reward.a.kind=math", "reward.a.max_failed_steps=5", "reward.b.kind=code"},
       {"reward.a.kind=code"},
       "reward.a.max_failed_steps: without effect where the reward runs no program, whose grades alone can fail"},
      {{"checkpoint.every=101"}, {"train.steps=101"}, "checkpoint.every: without effect with train.steps: 100"},
      {{"checkpoint.keep=5", "checkpoint.background=false", "checkpoint.at_end=false"},
       {"checkpoint.every=10"},
       "checkpoint.keep, checkpoint.background: without effect with checkpoint.every: 0 and checkpoint.at_end: false, "
       "unless the run is stopped"},
      {{"optim.schedule=linear", "optim.min_lr_ratio=0.1", "optim.warmup_steps=400"},
       {"train.steps=101"},
       "optim.schedule, optim.min_lr_ratio: without effect with optim.warmup_steps: 400, which the 400 updates of the "
       "run do not end"},
      {{"optim.lr=0", "optim.weight_decay=0.1", "optim.warmup_steps=10"},
       {"optim.lr=1e-5"},
       "optim.warmup_steps, optim.weight_decay: without effect with optim.lr: 0, which moves no weight"},
      {{"train.mini_batch_size=512", "algorithm.clip_high=0.28", "algorithm.dual_clip=3"},
       {"train.mini_batch_size=256"},
       "algorithm.clip_high, algorithm.dual_clip: without effect where a step has one update (train.mini_batch_size, "
       "train.epochs), whose ratios are all 1"},
      {{"train.mini_batch_size=512", "algorithm.clip_low=0.1"},
       {"train.epochs=2"},
       "algorithm.clip_low: without effect where a step has one update (train.mini_batch_size, train.epochs), whose "
       "ratios are all 1"},
      {kSft + Strings{"data.response_format={answer}", "data.solution_key=worked"},
       {"data.response_format={solution}={answer}"},
       "data.solution_key: without effect with a data.response_format that has no {solution}"},
      {{"algorithm.correction=seq_is", "algorithm.correction_high=3"},
       {"algorithm.correction=seq_tis"},
       "algorithm.correction_high: without effect but in metrics with algorithm.correction: seq_is, which bounds no "
       "weight"},
  });
  EXPECT_EQ(said({"algorithm.clip_high=0.28", "algorithm.policy_loss=pg"}),
            Strings{"algorithm.clip_high: without effect with algorithm.policy_loss: pg, which clips nothing"});
  for (const char* loss : {"grpo", "gspo", "cispo", "dppo"})
    EXPECT_EQ(said({"algorithm.clip_high=0.28", str("algorithm.policy_loss=", loss)}), Strings{}) << loss;
  for (const char* correction : {"token_is", "token_tis", "token_mis", "seq_is", "seq_tis", "seq_mis", "geo_mis"}) {
    const Strings corrects = {str("algorithm.correction=", correction)};
    EXPECT_EQ(said(corrects, Match::kExact), Strings{kNothingToCorrect});
    for (const Match match : {Match::kFast, Match::kPeer}) EXPECT_EQ(said(corrects, match), Strings{});
    EXPECT_EQ(said(corrects + Strings{"algorithm.policy_loss=pg"}, Match::kExact), Strings{});
    const bool bounds = !std::string(correction).ends_with("_is");
    EXPECT_EQ(said(corrects + Strings{"algorithm.correction_high=0.5"}, Match::kExact).size(), bounds ? 0u : 1u);
  }
  EXPECT_EQ(said({"rollout.memory_fraction=0.3", "rollout.cache_tokens=4096"}),
            Strings{"rollout.memory_fraction: without effect with rollout.cache_tokens"});
  EXPECT_EQ(said({"rollout.memory_fraction=0.3"}), Strings{});
  EXPECT_EQ(said(fast), Strings{"exact.check, precision.on_difference: without effect under precision.match: fast"});
  EXPECT_EQ(said(fast, Match::kPeer).size(), 1u);
  EXPECT_EQ(said(fast, Match::kExact), Strings{});
}

TEST(UnreadKeys, AnOverflowBehindTheLastStepIsSaid) {
  EXPECT_EQ(said({"train.inject_overflow_step=101"}),
            Strings{"train.inject_overflow_step: without effect with train.steps: 100"});
  EXPECT_EQ(said({"train.inject_overflow_step=100"}), Strings{});
}

TEST(UnreadKeys, AWarmUpThatNeverReachesTheLearningRateIsSaid) {
  const std::string grpo = "optim.lr: never reached, since optim.warmup_steps is 401 and the run has 400 updates";
  const std::string sft = "optim.lr: never reached, since optim.warmup_steps is 401 and the run has 100 updates";
  EXPECT_EQ(said({"optim.warmup_steps=401"}), Strings{grpo});
  EXPECT_EQ(said({"optim.warmup_steps=400"}), Strings{}) << "the last update has it";
  EXPECT_EQ(said({"optim.warmup_steps=401", "train.epochs=2"}), Strings{});
  EXPECT_EQ(said({"optim.warmup_steps=401", "train.steps=0"}), Strings{}) << "a run that trains nothing";
  EXPECT_EQ(said(kSft + Strings{"optim.warmup_steps=401"}), Strings{sft});
  EXPECT_EQ(said({"optim.schedule=linear", "optim.warmup_steps=401"}),
            (Strings{"optim.schedule: without effect with optim.warmup_steps: 401, which the 400 updates of the run do "
                     "not end",
                     grpo}));
}

TEST(UnreadKeys, AKeyBesideNamedRewardsIsTold) {
  EXPECT_EQ(refusal({"reward.a.kind=math", "reward.b.kind=format", "reward.kind=exact"}),
            "override reward.kind=exact: reward.kind stands beside rewards that have names (a, b): must be inside one "
            "of them");
  EXPECT_EQ(refusal({"reward.a.kind=math", "reward.a.timeout_s=5"}),
            "F: reward.a: reward.timeout_s: belongs to reward.kind command, code and python, got 5 with kind math");
}

TEST(UnreadKeys, EffectiveKeysLeaveOutWhatNothingReads) {
  const auto texts = [](const RunConfig& config) {
    Strings all;
    for (const ConfigKey& key : effective_keys(config)) all.push_back(key.name + ": " + key.text);
    return all;
  };
  for (const Strings& base : {Strings{}, Strings{"reward.a.kind=math", "reward.b.kind=python", "reward.b.path=p"}}) {
    RunConfig config = config_of(base);
    const Strings unset = texts(config);
    config.lora.alpha = 32, config.lora.targets = {"q_proj"}, config.data.chat_template = "qwen3";
    config.algorithm.overlong_penalty = 2, config.distributed.gather = "whole";
    (base.empty() ? config.reward.one : config.reward.named["a"].reward).timeout_s = 5;
    EXPECT_EQ(texts(config), unset);
    config.lora.rank = 8;
    EXPECT_NE(texts(config), unset) << "an adapter reads its keys";
  }
  const Strings goes_on = {"lora.init=/an/adapter"};
  EXPECT_EQ(texts(config_of(goes_on)), texts(config_of(goes_on + Strings{"lora.rank=8", "lora.alpha=32"})));
  EXPECT_NE(texts(config_of({})), texts(config_of({"optim.lr=1e-3"})));
  const Strings wide = {"precision.train=bf16", "precision.rollout=bf16"}, scaler = {"scaler.growth_interval=50"};
  EXPECT_EQ(texts(config_of(wide)), texts(config_of(wide + scaler)));
  EXPECT_NE(texts(config_of({})), texts(config_of(scaler)));
}

TEST(UnreadKeys, TheScalersNumbersAreReadUnderItsMode) {
  const Strings set = {"scaler.init_scale=1024", "scaler.growth_interval=50"};
  EXPECT_EQ(said(set + Strings{"scaler.mode=off"}),
            Strings{"scaler.init_scale, scaler.growth_interval: without effect with scaler.mode: off"});
  EXPECT_EQ(said(set + Strings{"scaler.mode=static"}),
            Strings{"scaler.growth_interval: without effect with scaler.mode: static"});
  for (const std::string type : {"fp16", "bf16", "fp32"}) {
    const Strings in_type = set + Strings{"precision.train=" + type, "precision.rollout=" + type};
    EXPECT_EQ(said(in_type + Strings{"scaler.mode=dynamic"}), Strings{});
    EXPECT_EQ(said(in_type),
              type == "fp16" ? Strings{}
                             : Strings{"scaler.init_scale, scaler.growth_interval: without effect with scaler.mode: "
                                       "auto, which is off for " +
                                       type});
  }
}

TEST(UnreadKeys, WhatRanksAndTheDeviceDoNotReadIsSaid) {
  const auto said_on = [](const Strings& overrides, int ranks, bool cpu) {
    return unread_keys(config_of(overrides), {.ranks = ranks, .cpu = cpu});
  };
  const Strings ranks = {"distributed.shard=parameters", "distributed.gather=unit", "distributed.overlap=false"};
  EXPECT_EQ(said_on(ranks, 1, false), Strings{"distributed.shard, distributed.gather, distributed.overlap: without "
                                              "effect with one rank, which has all weights and gradients"});
  EXPECT_EQ(said_on(ranks, 2, true), Strings{});
  const Strings device = {"train.deterministic=false", "distributed.offload=optimizer"};
  EXPECT_EQ(said_on(device, 1, true),
            (Strings{"train.deterministic: without effect on the CPU, where the same inputs always give the same bits",
                     "distributed.offload: without effect but in checkpoints (checkpoint.background) on the CPU, whose "
                     "memory is that of the host"}));
  EXPECT_EQ(said_on(device, 1, false), Strings{});
}

TEST(UnreadKeys, ABestThatIsNeverLookedAtIsSaid) {
  const std::string line = "checkpoint.best: without effect with train.steps: 100, which ends before it is looked at";
  const Strings evaluation = {"eval.files=e", "eval.every=101", "checkpoint.best=val-core/e/acc/mean@1"};
  EXPECT_EQ(said(evaluation).front(), line);
  EXPECT_EQ(said(evaluation + Strings{"train.steps=101"}), Strings{});
  EXPECT_EQ(said(evaluation + Strings{"eval.before_training=true"}).size(), 1u) << "eval.every alone";
  const Strings step = {"checkpoint.every=101", "checkpoint.at_end=false", "checkpoint.best=critic/score/mean"};
  const std::string every = "checkpoint.every: without effect with train.steps: 100";
  EXPECT_EQ(said(step), (Strings{every, line}));
  EXPECT_EQ(said(step + Strings{"train.steps=101"}), Strings{});
  EXPECT_EQ(said(step + Strings{"train.stop=truncated"}), Strings{every}) << "which saves, too";
  EXPECT_EQ(said(step + Strings{"checkpoint.at_end=true"}), Strings{every}) << "the checkpoint of the end";
  EXPECT_EQ(said({"checkpoint.best=critic/score/mean"}), Strings{});
  EXPECT_EQ(said({"checkpoint.best=critic/score/mean", "train.steps=0"}).size(), 1u);
}

TEST(UnreadKeys, AWarmStartSaysWhatItHasNoUseFor) {
  const Strings set = {"rollout.temperature=0.9",     "rollout.max_new_tokens=64", "algorithm.kl_coef=0.01",
                       "reward.answer.kind=exact",    "logging.samples=2",         "exact.check=all",
                       "precision.on_difference=warn"};
  EXPECT_EQ(said(kSft + set + Strings{"precision.match=fast"}),
            Strings{"rollout.temperature, rollout.max_new_tokens, reward.answer.kind, algorithm.kl_coef, "
                    "logging.samples, precision.match, precision.on_difference, exact.check: without effect in sft "
                    "without evaluations, which samples nothing"});
  EXPECT_EQ(said(kSft + kEvaluates + set + Strings{"precision.match=fast"}),
            Strings{"rollout.temperature, algorithm.kl_coef, logging.samples, precision.on_difference, exact.check: "
                    "without effect in sft, which samples in evaluations alone"});
  const Strings types = {"precision.rollout=bf16", "precision.kv_cache=fp32", "precision.residual=fp32"};
  EXPECT_EQ(said(kSft + types),
            (Strings{"precision.kv_cache: without effect in sft without evaluations, which samples nothing",
                     "precision.rollout: without effect in sft without evaluations, which samples nothing"}));
  EXPECT_EQ(said(kSft + types + kEvaluates), Strings{});
  EXPECT_EQ(said(kSft + Strings{"precision.train=bf16", "precision.rollout=bf16"}), Strings{}) << "a BF16 twin";
  EXPECT_EQ(said(set, Match::kExact), Strings{});
  const Strings answer = {"data.answer_key=gold"};
  EXPECT_EQ(said(kSft + answer), Strings{"data.answer_key: without effect in sft without eval.files and with a "
                                         "data.response_format that has no {answer}"});
  EXPECT_EQ(said(kSft + answer + kEvaluates), Strings{});
  EXPECT_EQ(said(kSft + answer + Strings{"data.response_format={answer}"}), Strings{});
}

}  // namespace
}  // namespace mantissa
