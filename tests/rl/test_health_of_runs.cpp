// Health in whole runs of the embedded model: what is said, what ends a run, which checkpoint is the best.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "rl/run.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

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

TEST_F(HealthOfRuns, RolloutsThatFailedBeforeAResumeCount) {
  const std::vector<std::string> broken{"reward.a.kind=command", "reward.a.command=exit 7", "reward.a.batch=16",
                                        "reward.b.kind=math"};
  train(broken, "", 2);
  const std::string log = train(broken, "auto");
  EXPECT_NE(log.find("reward.a.kind command: every grade of 3 rollouts in a row failed"), std::string::npos) << log;
  EXPECT_EQ(std::ranges::count(read_file(dir_ / "run/metrics.jsonl"), '\n'), 2);
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

}  // namespace
}  // namespace mantissa
