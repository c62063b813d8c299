// The whole loop on small models: golden numbers of short runs, an overflow that is overcome, and what a step can be
// asked to do.
#include <gtest/gtest.h>

#include <cmath>

#include "core/file.h"
#include "tests/support/loop_test.h"

namespace mantissa {
namespace {

// ---- golden numbers: made by this test's own runs, printed with 9 digits ----------------------------------

struct Golden {
  const char* metric;
  std::vector<double> values;
};

void expect_golden(const Strings& lines, const std::vector<Golden>& golden) {
  for (const auto& [metric, values] : golden) {
    ASSERT_EQ(lines.size(), values.size());
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_NEAR(number(lines[i], metric), values[i], 1e-6 * std::abs(values[i])) << metric << " of step " << i + 1;
  }
}

TEST_F(Loop, GoldenGrpo) {
  // Depends on the weights in builtin/: new ones need new numbers.
  ASSERT_TRUE(train(config("run", kGrpo)));
  expect_golden(metrics("run"),
                {{"critic/score/mean", {0.5625, 0.4375, 0.375, 0.375, 0.75}},
                 {"response_length/mean", {24.875, 23.5, 25.25, 24.5, 23.625}},
                 {"actor/pg_loss", {-0.000639166683, 0.000900961459, 0.00361410901, -0.000746078789, 0.00214284065}},
                 {"actor/grad_norm", {0.556862913, 0.99641633, 0.334448161, 0.675256342, 0.566340536}},
                 {"actor/entropy", {0.04523269, 0.0538444214, 0.0546092859, 0.0462139217, 0.0386974611}},
                 {"scaler/scale", {65536, 131072, 131072, 262144, 524288}}});
}

TEST_F(Loop, GoldenSft) {
  ASSERT_TRUE(train(config("run", kSft)));
  const Strings lines = metrics("run");
  expect_golden(lines, {{"sft/loss", {5.56490469, 5.17814636, 4.63334751, 4.21191692, 3.85888481}},
                        {"sft/grad_norm", {1.55999041, 2.67930198, 1.39803708, 1.35515189, 1.14122331}},
                        {"sft/entropy", {5.59855101, 5.59289243, 5.53666242, 5.42110718, 5.20794867}}});
  for (const std::string& line : lines) {
    EXPECT_EQ(line.find("actor/"), std::string::npos) << line;
    EXPECT_GT(number(line, "perf/throughput"), 0) << line;
    EXPECT_FLOAT_EQ(float(number(line, "sft/lr")), 1e-2f) << line;
  }
}

// ---- overflow ---------------------------------------------------------------------------------------------

TEST_F(Loop, InjectedOverflowIsNamedSkippedAndOvercome) {
  const Strings inject{"train.inject_overflow_step=2", "train.inject_overflow_parameter=layers.1.down.weight"};
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(train(config("run", kGrpo, inject)));
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("step 2: overflow at loss scale 65536, update skipped; first: layers.1.mlp linear forward: "),
            std::string::npos)
      << log;
  EXPECT_NE(log.find("SKIPPED"), std::string::npos) << log;

  const Strings lines = metrics("run");
  ASSERT_EQ(lines.size(), 5u);
  // Two updates a step. The first of step 2 is skipped, the second goes on with half the scale; three clean
  // ones (growth_interval) double it again.
  const std::vector<double> skipped{0, 1, 0, 0, 0}, versions{2, 3, 5, 7, 9};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(number(lines[i], "scaler/skipped"), skipped[i]) << i;
    EXPECT_EQ(number(lines[i], "scaler/skipped_total"), i >= 1) << i;
    EXPECT_EQ(number(lines[i], "training/policy_version"), versions[i]) << i;
    EXPECT_TRUE(std::isfinite(number(lines[i], "actor/grad_norm"))) << i;
    EXPECT_TRUE(std::isfinite(number(lines[i], "actor/pg_loss"))) << i;
  }
  EXPECT_EQ(number(lines[0], "scaler/scale"), 65536);
  EXPECT_EQ(number(lines[1], "scaler/scale"), 32768);
  EXPECT_EQ(number(lines[2], "scaler/scale"), 32768);
  EXPECT_EQ(number(lines[3], "scaler/scale"), 65536);
}

// ---- what a step can be asked to do -----------------------------------------------------------------------

TEST_F(Loop, KlToTheWeightsOfTheStart) {
  const auto divergences = [&](const std::string& name, const std::string& coefficient) {
    EXPECT_TRUE(train(config(name, kGrpo, {"algorithm.kl_coef=" + coefficient, "train.mini_batch_size=16"})));
    std::vector<double> values;
    for (const std::string& line : metrics(name)) values.push_back(number(line, "actor/kl_loss"));
    return values;
  };
  const std::vector<double> loose = divergences("loose", "1e-6"), tight = divergences("tight", "1");
  EXPECT_EQ(loose[0], 0) << "the first update starts at the reference";
  for (size_t i = 1; i < 5; ++i) EXPECT_GT(loose[i], 0) << i;
  EXPECT_EQ(tight[0], 0);
  EXPECT_EQ(tight[1], loose[1]) << "at the reference k3 has no gradient: the first updates are the same";
  EXPECT_NE(tight[2], loose[2]) << "and then they part";
}

TEST_F(Loop, DraftsChangeNothingOfARun) {
  const Strings small{"train.steps=5", "data.limit=4", "train.prompts_per_step=2", "optim.lr=1e-3"};
  Strings drafting = small;
  drafting.push_back("rollout.draft=history");
  ASSERT_TRUE(train(config("without", kGrpo, small)));
  ASSERT_TRUE(train(config("with", kGrpo, drafting)));
  expect_same_bits("with", "without");
  double proposed = 0, accepted = 0;
  for (const std::string& line : metrics("with")) {
    proposed += number(line, "draft/proposed");
    accepted += number(line, "draft/accepted");
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(proposed, accepted);
  EXPECT_EQ(metrics("without")[0].find("draft/"), std::string::npos);
}

TEST_F(Loop, DynamicSamplingRefillsUpToItsLimit) {
  const Strings on{"algorithm.dynamic_sampling=true", "algorithm.max_gen_batches=3", "rollout.n=2",
                   "train.mini_batch_size=4"};
  ASSERT_TRUE(train(config("run", kGrpo, on)));
  bool refilled = false;
  for (const std::string& line : metrics("run")) {
    const double rounds = number(line, "train/num_gen_batches"), kept = number(line, "train/kept_groups");
    EXPECT_LE(rounds, 3);
    EXPECT_LE(kept, 4);
    EXPECT_TRUE(kept == 4 || rounds == 3) << line;
    EXPECT_EQ(4 * rounds, kept + number(line, "train/surplus_groups") + number(line, "reward/zero_spread_groups"));
    refilled = refilled || rounds > 1;
  }
  EXPECT_TRUE(refilled);

  // A model that solves nothing: no group has spread, no update is taken.
  Strings untrained = on;
  untrained.push_back("model.path=random:" + (dir_ / "tiny/config.json").string());
  untrained.push_back("optim.weight_decay=0.1");
  EXPECT_THROW(train(config("none", kGrpo, untrained)), Error) << "nothing was learned";
  for (const std::string& line : metrics("none")) {
    EXPECT_EQ(number(line, "train/num_gen_batches"), 3);
    EXPECT_EQ(number(line, "train/kept_groups"), 0);
    EXPECT_EQ(number(line, "reward/zero_spread_groups"), 12);
    EXPECT_EQ(number(line, "training/policy_version"), 0);
    EXPECT_EQ(number(line, "scaler/scale"), 65536);
    for (const char* null : {"actor/pg_loss", "actor/grad_norm", "rollout_corr/k3_kl"})
      EXPECT_NE(line.find(str('"', null, "\": null")), std::string::npos) << null;
  }
}

TEST_F(Loop, TheScheduleCountsWhatWasPlanned) {
  const Strings dropping{"algorithm.dynamic_sampling=true",
                         "algorithm.max_gen_batches=1",
                         "rollout.n=2",
                         "train.mini_batch_size=4",
                         "optim.schedule=linear",
                         "optim.lr=1e-3",
                         "optim.warmup_steps=0"};
  const RunConfig run = config("run", kGrpo, dropping);
  ASSERT_TRUE(train(run));
  bool dropped = false;
  int64_t step = 0;
  for (const std::string& line : metrics("run")) {
    const double kept = number(line, "train/kept_groups"), planned = double(2 * step++);
    dropped = dropped || kept < 4;
    if (kept == 0) continue;
    const double last =
        planned + std::ceil(kept / 2) - 1;  // two updates of two groups were planned, the last is logged
    EXPECT_NEAR(number(line, "actor/lr"), 1e-3 * (1 - last / double(2 * run.train.steps)), 1e-9) << line;
  }
  EXPECT_TRUE(dropped);
}

TEST_F(Loop, EverythingMaskedTakesNoStep) {
  // Every answer is cut off and left out of the loss. Weight decay must not move the weights either.
  const Strings masked{"algorithm.overlong=mask", "rollout.max_new_tokens=2", "optim.weight_decay=0.1"};
  ::testing::internal::CaptureStderr();
  EXPECT_THROW(train(config("run", kGrpo, masked)), Error) << "nothing was learned";
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("step 1: no optimizer step was taken, since every token was left out"), std::string::npos) << log;
  EXPECT_EQ(log.find("nan"), std::string::npos) << log;
  for (const std::string& line : metrics("run")) {
    EXPECT_EQ(number(line, "response_length/clip_ratio"), 1);
    EXPECT_EQ(number(line, "training/empty_mini_batches"), 2);
    EXPECT_EQ(number(line, "training/policy_version"), 0);
    EXPECT_EQ(number(line, "scaler/skipped"), 0);
  }
  EXPECT_TRUE(read_file(dir_ / "run/checkpoints/step_2/master.safetensors") ==
              read_file(dir_ / "run/checkpoints/step_5/master.safetensors"));
}

TEST_F(Loop, AFailedGradeIsNoRewardOfZero) {
  // Every answer that is graded earns 1, so nothing is to be preferred, though the verifier breaks on some.
  const Strings breaking{"reward.kind=command", "reward.command=read line; test $((${#line} % 3)) -ne 0 && echo 1",
                         "algorithm.overlong=keep", "train.steps=1"};
  ASSERT_TRUE(train(config("run", kGrpo, breaking)));
  const std::string line = metrics("run")[0];
  EXPECT_GT(number(line, "verifier/error"), 0);
  EXPECT_GT(number(line, "verifier/parsed"), 0);
  for (const char* mean : {"critic/score/mean", "critic/score/min", "critic/rewards/mean"})
    EXPECT_EQ(number(line, mean), 1) << mean;
  for (const char* bound : {"critic/advantages/max", "critic/advantages/min", "actor/grad_norm"})
    EXPECT_EQ(number(line, bound), 0) << bound;
}

TEST_F(Loop, StopStringsEndResponses) {
  ASSERT_TRUE(train(config("kept", kGrpo, {"rollout.stop=[',', oxed]", "train.steps=1"})));
  ASSERT_TRUE(train(config("cut", kGrpo, {"rollout.stop=[',', oxed]", "rollout.keep_stop=false", "train.steps=1"})));
  EXPECT_EQ(number(metrics("kept")[0], "response_length/clip_ratio"), 0);
  EXPECT_EQ(number(metrics("kept")[0], "response_length/mean"), number(metrics("cut")[0], "response_length/mean"));
  const auto response = [&](const std::string& run) {
    const std::string line = lines_of(dir_ / run / "samples.jsonl")[0];
    const size_t begin = line.find("\"response\": \"") + 13;
    return line.substr(begin, line.find("\", \"answer\"") - begin);
  };
  const std::string kept = response("kept"), cut = response("cut");
  EXPECT_TRUE(kept.ends_with(",") || kept.ends_with("oxed")) << kept;
  EXPECT_TRUE(kept == cut + "," || kept == cut + "oxed") << cut;
}

TEST_F(Loop, SoftOverlongPunishmentReachesTheReward) {
  const Strings soft{"algorithm.overlong=soft_punish", "algorithm.overlong_buffer=2", "algorithm.overlong_penalty=0.5",
                     "rollout.max_new_tokens=2", "train.steps=1"};
  ASSERT_TRUE(train(config("run", kGrpo, soft)));
  EXPECT_EQ(number(metrics("run")[0], "critic/rewards/max"), -0.5) << "wrong and cut off";
  EXPECT_EQ(number(metrics("run")[0], "critic/score/mean"), 0) << "as the verifier gave it";
  EXPECT_EQ(number(metrics("run")[0], "critic/overlong_penalty/mean"), 0.5);
}

}  // namespace
}  // namespace mantissa
