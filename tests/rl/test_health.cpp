// Health: a condition is said once when it begins and once when it is over, with the key to change, and train.stop ends
// the run by it.
#include "rl/health.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/error.h"
#include "core/file.h"
#include "rl/run.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

/// A step that is well.
Metrics well() {
  Metrics m;
  m.set("critic/score/mean", 0.5);
  m.set("critic/score/min", 0);
  m.set("critic/score/max", 1);
  m.set("response_length/mean", 40);
  m.set("response_length/clip_ratio", 0.1);
  m.set("actor/entropy", 1.0);
  m.set("actor/pg_clipfrac", 0.01);
  m.set("actor/ppo_kl", 0.001);
  m.set("actor/reference_kl", 0.01);
  m.set("rollout_corr/k3_kl", 1e-6);
  m.set("critic/advantages/min", -0.5);
  m.set("critic/advantages/max", 0);
  m.set("reward/zero_spread_groups", 64);  // reinforce_pp with one sample a prompt
  return m;
}

TEST(Health, ARunThatIsWellIsQuiet) {
  Health health(RunConfig{});
  for (int step = 0; step < 40; ++step) EXPECT_EQ(health.look(well()), Lines{});
  EXPECT_EQ(health.holding(), Lines{});
  for (int step = 0; step < 10; ++step) EXPECT_EQ(health.look(Metrics()), Lines{}) << "nothing was measured";
}

TEST(Health, EachConditionBeginsAndEndsOnce) {
  const struct {
    const char *name, *metric, *key;
    double value;
  } cases[] = {
      {"equal_rewards", "critic/advantages/min", "evaluate --keep", 0},
      {"equal_rewards", "train/kept_groups", "evaluate --keep", 0},
      {"truncated", "response_length/clip_ratio", "rollout.max_new_tokens (", 1},
      {"entropy_collapse", "actor/entropy", "algorithm.entropy_coef", 0.05},
      {"length_collapse", "response_length/mean", "samples.jsonl", 5},
      {"mismatch", "rollout_corr/k3_kl", "precision.", 0.5},
      {"far_from_reference", "actor/reference_kl", "algorithm.kl_coef", 2},
      {"large_updates", "actor/pg_clipfrac", "optim.lr", 0.9},
      {"large_updates", "actor/ppo_kl", "optim.lr", -0.9},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.metric);
    Health health(RunConfig{});
    for (int step = 0; step < 6; ++step) health.look(well());
    Metrics ill = well();
    ill.set(c.metric, c.value);
    EXPECT_EQ(health.look(ill), Lines{});
    EXPECT_EQ(health.look(ill), Lines{});
    const Lines begins = health.look(ill);
    ASSERT_EQ(begins.size(), 1u);
    EXPECT_TRUE(begins[0].starts_with(c.name)) << begins[0];
    EXPECT_NE(begins[0].find(c.key), std::string::npos) << begins[0];
    EXPECT_EQ(health.holding(), Lines{c.name});
    EXPECT_EQ(health.look(ill), Lines{});
    Metrics unknown = ill;
    unknown.set(c.metric, NAN);
    if (std::string(c.name) != "large_updates" && std::string(c.metric) != "train/kept_groups") {
      for (int step = 0; step < 4; ++step) EXPECT_EQ(health.look(unknown), Lines{}) << "null says nothing";
    }
    EXPECT_EQ(health.holding(), Lines{c.name});
    EXPECT_EQ(health.look(well()), Lines{});
    EXPECT_EQ(health.look(well()), Lines{});
    EXPECT_EQ(health.look(well()), Lines{std::string(c.name) + " is over"});
    EXPECT_EQ(health.holding(), Lines{});
  }
}

TEST(Health, ARolloutOfNothingButOverflowsIsSaidAtOnceAndNotCalledEqual) {
  Health health(RunConfig{});
  Metrics ill = well();
  ill.set("rollout/overflowed", 0.9);
  EXPECT_EQ(health.look(ill), Lines{}) << "the others are learned from";
  ill.set("rollout/overflowed", 1);
  ill.set("critic/advantages/min", 0);
  const Lines begins = health.look(ill);
  ASSERT_EQ(begins.size(), 1u);
  EXPECT_TRUE(begins[0].starts_with("rollout_overflow: ")) << begins[0];
  EXPECT_NE(begins[0].find("optim.lr"), std::string::npos) << begins[0];
  for (int step = 0; step < 4; ++step) EXPECT_EQ(health.look(ill), Lines{});
  EXPECT_EQ(health.holding(), Lines{"rollout_overflow"});
  EXPECT_EQ(health.look(well()), Lines{}) << "no metric, as in a run of an earlier version";
  ill.set("rollout/overflowed", 0);
  EXPECT_EQ(health.look(ill), Lines{"rollout_overflow is over"});
}

TEST(Health, AFallingReward) {
  Health health(RunConfig{});
  for (int step = 0; step < 12; ++step) health.look(well());
  Metrics ill = well();
  ill.set("critic/score/mean", 0.05);
  Lines said;
  for (int step = 0; step < 12 && said.empty(); ++step) said = health.look(ill);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_TRUE(said[0].starts_with("reward_falling")) << said[0];
}

TEST(Health, NegativeRewardsFallByHalfOfTheWayDown) {
  // Scores of -1 and 1 in place of 0 and 1: 0.5 is 0, and what fell below 0.25 is below -0.5.
  const auto falls = [](double before, double after) {
    Health health(RunConfig{});
    Metrics m = well();
    m.set("critic/score/min", std::min(-1.0, before));
    m.set("critic/score/mean", before);
    for (int step = 0; step < 20; ++step) health.look(m);
    EXPECT_EQ(health.holding(), Lines{}) << before;
    m.set("critic/score/mean", after);
    for (int step = 0; step < 20; ++step) health.look(m);
    return health.holding() == Lines{"reward_falling"};
  };
  EXPECT_TRUE(falls(0, -0.52));
  EXPECT_FALSE(falls(0, -0.48));
  EXPECT_TRUE(falls(-0.4, -0.72));
  EXPECT_FALSE(falls(-0.4, -0.68));
  EXPECT_FALSE(falls(-1, -1)) << "nothing was ever right";
  EXPECT_FALSE(falls(std::nextafter(-1.1, 0), std::nextafter(-1.1, -2))) << "but for rounding";
}

TEST(Health, StopsByWhatTheConfigNames) {
  RunConfig config;
  config.train.stop = {"truncated"};
  Health health(config);
  Metrics ill = well();
  ill.set("critic/advantages/min", 0);
  for (int step = 0; step < 4; ++step) health.look(ill);
  EXPECT_EQ(health.holding(), Lines{"equal_rewards"});
  EXPECT_EQ(health.stop_reason(), "");
  ill.set("response_length/clip_ratio", 1);
  for (int step = 0; step < 4; ++step) health.look(ill);
  EXPECT_TRUE(health.stop_reason().starts_with("truncated: "));
}

TEST(Health, FirstStepsWithoutTokensDoNotCount) {
  Health health(RunConfig{});
  Metrics unknown = well();
  unknown.set("actor/entropy", NAN);
  for (int step = 0; step < 4; ++step) health.look(unknown);
  for (int step = 0; step < 5; ++step) health.look(well());
  Metrics ill = well();
  ill.set("actor/entropy", 0.15);  // above a tenth of 1.0, below a tenth of nothing else
  for (int step = 0; step < 6; ++step) EXPECT_EQ(health.look(ill), Lines{});
  ill.set("actor/entropy", 0.09);
  for (int step = 0; step < 3; ++step) health.look(ill);
  EXPECT_EQ(health.holding(), Lines{"entropy_collapse"});
}

// ---- in a run -----------------------------------------------------------------------------------------------

class HealthOfRuns : public testing::Test {
 protected:
  /// Trains by the overrides, to the end or until `most` steps are made; returns what stood on standard error, with the
  /// error that ended it.
  std::string train(std::vector<std::string> overrides, const std::string& resume = "", int64_t most = 1 << 20) {
    const fs::path data = fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl";
    overrides.insert(overrides.begin(),
                     {"run.output_dir=" + (dir_ / "run").string(), "data.files=" + data.string(), "data.limit=8",
                      "run.device=cpu", "model.path=builtin:arithmetic", "rollout.n=4", "rollout.max_new_tokens=24",
                      "train.steps=8", "train.prompts_per_step=4", "train.mini_batch_size=8", "optim.lr=1e-5"});
    testing::internal::CaptureStderr();
    const std::string error = message_of([&] {
      mantissa::Run run(parse_run_config("run: {}", "test", overrides), {.resume = resume});
      mantissa::train(run, [&] { return run.step == most; });
    });
    return testing::internal::GetCapturedStderr() + error;
  }
  std::vector<std::string> checkpoints() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_ / "run/checkpoints")) names.push_back(entry.path().filename());
    std::ranges::sort(names);
    return names;
  }
  TempDir dir_;
};

TEST_F(HealthOfRuns, TruncationIsSaidOnTheConsoleAndStopsTheRun) {
  const std::string log = train({"rollout.max_new_tokens=2", "train.stop=[truncated]"});
  EXPECT_NE(log.find("step 3: truncated for 3 steps"), std::string::npos) << log;
  EXPECT_NE(log.find("rollout.max_new_tokens (2)"), std::string::npos) << log;
  EXPECT_NE(log.find("| equal_rewards, truncated | eta"), std::string::npos) << log;
  EXPECT_NE(log.find("train.stop ended the run after step 3: truncated"), std::string::npos) << log;
  EXPECT_EQ(checkpoints(), Lines{"step_3"});
}

TEST_F(HealthOfRuns, TheCheckpointOfTheEndMayBeTheBest) {
  train({"checkpoint.every=2", "train.steps=3", "checkpoint.best=training/policy_version"});
  EXPECT_EQ(fs::read_symlink(dir_ / "run/checkpoints/best").filename(), "step_3");
}

TEST_F(HealthOfRuns, AResumedRunStopsWhereItWouldHaveStopped) {
  const std::vector<std::string> cut{"rollout.max_new_tokens=2", "train.stop=[truncated]"};
  train(cut, "", 2);
  const std::string log = train(cut, "auto");
  EXPECT_NE(log.find("train.stop ended the run after step 3: truncated"), std::string::npos) << log;
}

TEST_F(HealthOfRuns, TruncatedAnswersThatAreMaskedAreNotCalledEqual) {
  const std::string log =
      train({"rollout.max_new_tokens=6", "rollout.temperature=4", "algorithm.overlong=mask",
             "algorithm.dynamic_sampling=true", "algorithm.max_gen_batches=1", "reward.kind=command", "reward.batch=1",
             "train.steps=4", "reward.command=echo $(($(cksum | cut -d ' ' -f 1) % 2))", "train.stop=[equal_rewards]"});
  EXPECT_NE(log.find("no optimizer step was taken, since groups had equal rewards or truncated answers alone"),
            std::string::npos)
      << log;
  EXPECT_EQ(log.find("equal_rewards"), std::string::npos) << log;
  const std::string metrics = read_file(dir_ / "run/metrics.jsonl");
  EXPECT_EQ(metrics.find("\"train/masked_groups\": 0,"), std::string::npos) << metrics;
}

TEST_F(HealthOfRuns, ARunGoesOnWhereSomeRolloutsOverflow) {
  const std::string log = train({"optim.lr=1", "algorithm.kl_coef=0.1", "train.steps=3", "checkpoint.at_end=false",
                                 "checkpoint.export_model=false"});
  EXPECT_NE(log.find("update skipped"), std::string::npos) << log;
  EXPECT_EQ(std::ranges::count(read_file(dir_ / "run/metrics.jsonl"), '\n'), 3) << log;
}

TEST_F(HealthOfRuns, WhatNoEvaluationCanDoIsSaidBeforeTheFirstStep) {
  std::ofstream(dir_ / "long.jsonl") << "{\"problem\": \"" << std::string(90, '1') << "\", \"answer\": 1}\n";
  const std::string files = "eval.files=" + (dir_ / "long.jsonl").string();
  std::string log = train({files, "eval.every=4", "rollout.cache_tokens=64"});
  EXPECT_NE(log.find("the KV cache must hold at least one sequence"), std::string::npos) << log;
  EXPECT_EQ(log.find("step 1"), std::string::npos) << log;
  log = train({files, "eval.every=4", "train.mode=sft", "data.response_format={answer}", "train.prompts_per_step=8",
               "reward.kind=python", "reward.path=" + (dir_ / "absent.py").string()});
  EXPECT_NE(log.find("absent.py"), std::string::npos) << log;
  EXPECT_EQ(log.find("step 1"), std::string::npos) << log;
}

TEST_F(HealthOfRuns, AVerifierThatAlwaysFailsEndsTheRun) {
  const std::string log = train({"reward.kind=command", "reward.command=echo broken >&2; exit 7", "reward.batch=16"});
  EXPECT_NE(log.find("step 1: reward.kind command failed on every answer"), std::string::npos) << log;
  EXPECT_NE(log.find("every grade of 3 rollouts in a row failed (reward.max_failed_steps): the program ended with exit "
                     "code 7"),
            std::string::npos)
      << log;
  EXPECT_EQ(log.find("broken"), std::string::npos) << log;
  EXPECT_NE(read_file(dir_ / "run/reward.log").find("broken"), std::string::npos);
}

TEST_F(HealthOfRuns, WhereNoAnswerIsGradedTheRewardsAreNotCalledEqual) {
  const std::string log =
      train({"reward.x.kind=command", "reward.x.command=exit 7", "reward.x.max_failed_steps=0", "train.steps=4",
             "algorithm.dynamic_sampling=true", "algorithm.max_gen_batches=1", "train.stop=[equal_rewards]"});
  EXPECT_NE(log.find("step 1: no optimizer step was taken, since no answer could be graded"), std::string::npos) << log;
  EXPECT_EQ(log.find("equal_rewards"), std::string::npos) << log;
  EXPECT_NE(log.find("took no optimizer step in 4 steps"), std::string::npos) << log;
  const std::string metrics = read_file(dir_ / "run/metrics.jsonl"), samples = read_file(dir_ / "run/samples.jsonl");
  EXPECT_NE(metrics.find("\"reward/x/mean\": null"), std::string::npos) << metrics;
  EXPECT_EQ(samples.find("\"correct\": true"), std::string::npos) << samples;
}

TEST_F(HealthOfRuns, SamplesSayWhetherTheyAreCorrectWhateverTheReward) {
  train({"reward.x.kind=command", "reward.x.command=exit 7", "reward.x.weight=0", "reward.right.kind=math",
         "reward.right.weight=0.1", "train.steps=1", "logging.samples=4"});
  std::ifstream file(dir_ / "run/samples.jsonl");
  int right = 0, all = 0;
  for (std::string line; std::getline(file, line); ++all) {
    right += line.find("\"correct\": true, \"status\": \"parsed\"") != std::string::npos;
    EXPECT_EQ(line.find("\"status\": \"error\""), std::string::npos) << line;
  }
  EXPECT_EQ(all, 4);
  EXPECT_GT(right, 0);
}

TEST_F(HealthOfRuns, OneOfSeveralRewardsThatAlwaysFailsIsNamedAndEndsTheRunByItsOwnKey) {
  const std::string log = train({"reward.x.kind=math", "reward.y.kind=command", "reward.y.command=exit 7",
                                 "reward.y.batch=16", "reward.y.max_failed_steps=2"});
  EXPECT_NE(log.find("step 1: reward.y.kind command failed on every answer"), std::string::npos) << log;
  EXPECT_NE(log.find("2 rollouts in a row failed (reward.y.max_failed_steps): the program ended with exit code 7"),
            std::string::npos)
      << log;
  EXPECT_EQ(log.find("reward.x"), std::string::npos) << log;
}

TEST_F(HealthOfRuns, SamplesHaveTheirTokens) {
  train({"precision.match=peer", "train.steps=1", "algorithm.entropy_coef=1e-3"});  // all sequences are forwarded
  const std::string text = read_file(dir_ / "run/samples.jsonl"), line = text.substr(0, text.find('\n'));
  const auto count = [&](const std::string& key) {
    const size_t begin = line.find("\"" + key + "\": [");
    return begin == std::string::npos ? 0 : std::count(line.begin() + begin, line.begin() + line.find(']', begin), ',');
  };
  EXPECT_NE(line.find("\"finish\": \"stop\", \"tokens\": [\""), std::string::npos) << line;
  EXPECT_GT(count("rollout_logprobs"), 5);
  EXPECT_EQ(count("rollout_logprobs"), count("old_logprobs"));
  EXPECT_EQ(text.find("tokens", line.size()), std::string::npos) << "of one sample a step";
}

TEST_F(HealthOfRuns, ResponsesBeyondTheModelsPositionsAreSaid) {
  EXPECT_NE(
      train({"rollout.max_new_tokens=100000", "train.steps=0"}).find("rollout.max_new_tokens 100000 and the longest"),
      std::string::npos);
}

TEST_F(HealthOfRuns, WhatAnEvaluationLeavesOutIsSaid) {
  const std::string line = R"({"problem": "1+2=", "answer": "3", "data_source": "sums"})";
  const std::string two = (dir_ / "two.jsonl").string(), other = (dir_ / "other.jsonl").string();
  write_file(two, line + "\n" + R"({"problem": ")" + std::string(2000, '1') + R"(=", "answer": "3"})" + "\n");
  EXPECT_NE(train({"train.steps=0", "eval.files=" + two, "eval.every=1"})
                .find("evaluation on two: 1 problems, 1 skipped for prompts over "),
            std::string::npos);
  write_file(two, line + "\n");
  write_file(other,
             "\n"
             R"({"problem": "1+2=", "answer": "3", "data_source": "c"})"
             "\n");
  const std::string log = train({"data.files=[" + two + "," + other + "]", "reward.a.data_source=sums",
                                 "run.output_dir=" + (dir_ / "named").string()});
  EXPECT_NE(log.find("other.jsonl:2: no reward grades data_source \"c\""), std::string::npos) << log;
}

TEST_F(HealthOfRuns, TheBestCheckpointIsKept) {
  const std::string data = (fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl").string();
  const std::string log =
      train({"eval.files=" + data, "eval.limit=4", "eval.every=1", "eval.n=2", "train.steps=4", "checkpoint.keep=1",
             "checkpoint.best=val-core/sanity/acc/mean@2", "optim.lr=0.05", "scaler.max_skips_in_row=100"});
  // The first evaluation beats none, and such a learning rate makes each that follows worse.
  EXPECT_EQ(checkpoints(), (Lines{"best", "step_1", "step_4"})) << log;
  EXPECT_EQ(fs::read_symlink(dir_ / "run/checkpoints/best"), "step_1");
}

TEST_F(HealthOfRuns, AnEvaluationThatCouldNotBeGradedSaysSoAndChoosesNothing) {
  const std::string data = (fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl").string();
  const std::string log = train({"eval.files=" + data, "eval.limit=4", "eval.before_training=true", "eval.every=1",
                                 "train.steps=0", "checkpoint.best=val-core/sanity/acc/mean@1", "reward.kind=command",
                                 "reward.command=exit 7", "checkpoint.at_end=false"});
  EXPECT_NE(log.find("evaluation after step 0, sanity: 4 of 4 answers could not be graded: the program ended with exit "
                     "code 7"),
            std::string::npos)
      << log;
  const std::string line = read_file(dir_ / "run/eval.jsonl");
  EXPECT_NE(line.find("\"val-core/sanity/acc/mean@1\": null"), std::string::npos) << line;
  EXPECT_FALSE(fs::exists(dir_ / "run/checkpoints/best"));
}

TEST(HealthConfig, EveryConditionCanBeNamed) {
  for (const char* name : kStopConditions) {
    RunConfig config;
    config.train.stop = {name};
    Health health(config);
    Metrics ill;  // everything at once
    for (const char* metric :
         {"response_length/clip_ratio", "rollout_corr/k3_kl", "actor/reference_kl", "actor/ppo_kl"})
      ill.set(metric, 2);
    ill.set("train/kept_groups", 0);
    for (int step = 0; step < 12; ++step) health.look(well());
    for (const char* metric : {"critic/score/mean", "actor/entropy", "response_length/mean"}) ill.set(metric, 0);
    for (int step = 0; step < 12; ++step) health.look(ill);
    ill.set("rollout/overflowed", 1);
    health.look(ill);
    EXPECT_EQ(health.holding(), Lines(std::begin(kStopConditions), std::end(kStopConditions)));
    EXPECT_TRUE(health.stop_reason().starts_with(name)) << health.stop_reason();
  }
}

TEST(HealthConfig, NamesAreChecked) {
  const auto refusal = [](const std::vector<std::string>& overrides) -> std::string {
    std::vector<std::string> all = {"data.files=x.jsonl", "model.path=builtin:arithmetic"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return message_of([&] { parse_run_config("run: {}", "test", all); });
  };
  EXPECT_NE(refusal({"train.stop=[boredom]"}).find("no condition is called \"boredom\"; there are rollout_overflow, "),
            std::string::npos);
  EXPECT_NE(refusal({"train.stop=[truncated]", "train.mode=sft", "train.mini_batch_size=64"}).find("train.mode grpo"),
            std::string::npos);
  EXPECT_NE(refusal({"checkpoint.best=val-core/x/acc/mean@1"}).find("eval.every"), std::string::npos);
  const std::vector<std::string> at_no_end = {"checkpoint.best=critic/score/mean", "checkpoint.at_end=false"};
  EXPECT_NE(refusal(at_no_end).find("needs checkpoint.every or checkpoint.at_end"), std::string::npos);
  EXPECT_EQ(refusal({at_no_end[0], at_no_end[1], "train.stop=truncated"}), "") << "which saves, too";
  EXPECT_EQ(refusal({at_no_end[0]}), "");
  EXPECT_NE(refusal({"checkpoint.best=score"}).find("no metric is called"), std::string::npos);
  EXPECT_EQ(refusal({"checkpoint.best=critic/score/mean", "checkpoint.every=2"}), "");
  const auto best = [&](const std::string& metric) {
    return refusal({"eval.every=2", "eval.files=[a/x.jsonl,a/y.jsonl]", "eval.n=4", "checkpoint.best=" + metric});
  };
  for (const char* metric :
       {"val-core/y/acc/mean@4", "val-aux/x/acc/maj@4/low", "val-aux/x/reward/mean", "val-core/x/acc/pass@4"})
    EXPECT_EQ(best(metric), "") << metric;
  EXPECT_NE(best("val-core/z/acc/mean@4").find("is of none of the sets of eval.files: x, y"), std::string::npos);
  for (const char* metric : {"val-core/x/acc/mean@2", "val-core/x/acc/mean@42", "val-aux/x/acc/mean@1/high"})
    EXPECT_NE(best(metric).find("must be a metric @4"), std::string::npos) << best(metric);
  EXPECT_NE(best("val-aux/x/acc/best@4/low").find("must be of mean, pass or maj"), std::string::npos);
  EXPECT_EQ(refusal({"eval.every=2", "eval.files=x@2.jsonl", "checkpoint.best=val-aux/x@2/reward/mean"}), "");
}

TEST(HealthConfig, TheBestIsByAMetricThatTheRunHas) {
  using Overrides = std::vector<std::string>;
  const auto refusal = [](const std::string& best, const Overrides& overrides) {
    Overrides all = {"data.files=x.jsonl", "model.path=m", "checkpoint.every=1", "checkpoint.best=" + best};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return message_of([&] { parse_run_config("run: {}", "test", all); });
  };
  struct Case {
    std::string best, needs;
    Overrides met, unmet = {};
  };
  const Overrides sft = {"train.mode=sft", "train.mini_batch_size=64"}, grpo;
  Overrides evaluates = sft;
  evaluates.insert(evaluates.end(), {"eval.files=e", "eval.every=1"});
  const std::vector<Case> cases = {
      {"sft/loss", "train.mode: sft", sft},
      {"critic/score/mean", "train.mode: grpo", grpo, sft},
      {"training/rollout_probs_diff_max", "train.mode: grpo", grpo, sft},
      {"verifier/parsed", "train.mode: grpo or eval.every", evaluates, sft},
      {"timing_s/testing", "eval.every and eval.files", evaluates, sft},
      {"actor/reference_kl", "algorithm.kl_coef above 0", {"algorithm.kl_coef=0.1"}},
      {"timing_s/ref", "algorithm.kl_coef above 0", {"algorithm.kl_coef=0.1"}},
      {"train/num_gen_batches", "algorithm.dynamic_sampling", {"algorithm.dynamic_sampling=true"}},
      {"draft/accepted", "rollout.draft", {"rollout.draft=history"}},
      {"exact/checked_tokens", "precision.match: exact", {"precision.match=auto"}, {"precision.match=fast"}},
      {"lora/base_drift",
       "lora.rollout: merged_in_place",
       {"lora.rank=8", "lora.rollout=merged_in_place"},
       {"lora.rank=8"}},
      {"selftest/k3_kl_trend", "optim.lr: 0", {"optim.lr=0"}},
      {"reward/a/mean", "a reward of this name", {"reward.a.kind=math"}},
      {"reward/a/mean", "a reward of this name", {"reward.a.kind=math"}, {"reward.b.kind=math"}},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(refusal(c.best, c.unmet),
              "test: checkpoint.best: must be a metric of this run, got " + c.best + ", which needs " + c.needs);
    EXPECT_EQ(refusal(c.best, c.met), "");
  }
  for (const char* both : {"scaler/scale", "training/policy_version", "perf/throughput", "timing_s/step"})
    for (const Overrides& mode : {grpo, sft}) EXPECT_EQ(refusal(both, mode), "") << both;
  EXPECT_EQ(refusal("reward/zero_spread_groups", grpo), "");
}

}  // namespace
}  // namespace mantissa
