// Health: a condition is said once when it begins and once when it is over, with the key to change, and train.stop ends
// the run by it.
#include "rl/health.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iterator>

#include "rl/config.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

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
