// Advantages, overlong answers, the algorithm's config rules, and mismatch statistics, on worked numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "rl/algorithm/advantage.h"
#include "rl/train/mismatch.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

RolloutGroup group(std::vector<double> rewards, std::vector<size_t> lengths = {}) {
  RolloutGroup g;
  g.prompt.id = 17;
  for (size_t i = 0; i < rewards.size(); ++i) {
    RolloutSample s;
    s.reward = rewards[i];
    s.advantage = 99;  // must be overwritten
    s.completion.ids.resize(lengths.empty() ? 4 : lengths[i]);
    g.samples.push_back(std::move(s));
  }
  return g;
}

/// Advantages of all samples in order.
std::vector<double> advantages(const std::string& name, std::vector<RolloutGroup> groups) {
  AlgorithmConfig config;
  config.advantage = name;
  compute_advantages(groups, config);
  std::vector<double> out;
  for (const RolloutGroup& g : groups)
    for (const RolloutSample& s : g.samples) out.push_back(s.advantage);
  return out;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-12) << "entry " << i;
}

TEST(Advantage, WorkedNumbers) {
  const std::vector<RolloutGroup> groups{group({1, 0, 0, 1}), group({2, 5, 8})};
  const double a = 0.5 / (std::sqrt(1.0 / 3) + 1e-6), b = 3 / (3 + 1e-6);
  expect_near(advantages("grpo", groups), {a, -a, -a, a, -b, 0, b});
  expect_near(advantages("drgrpo", groups), {0.5, -0.5, -0.5, 0.5, -3, 0, 3});
  // rloo: each reward minus the mean of the others.
  expect_near(advantages("rloo", groups), {2.0 / 3, -2.0 / 3, -2.0 / 3, 2.0 / 3, 2 - 6.5, 0, 8 - 3.5});
}

TEST(Advantage, ReinforceWhitensOverTheTokensOfTheBatch) {
  // Lengths 1 and 3: mean 1/4 over tokens, variance 3/16.
  const double s = std::sqrt(3.0 / 16);
  expect_near(advantages("reinforce_pp", {group({1}, {1}), group({0}, {3})}), {0.75 / s, -0.25 / s});
  // Weighted by tokens the result has mean 0 and variance 1.
  const std::vector<double> x = advantages("reinforce_pp", {group({1, 0.5}, {2, 7}), group({0, 0}, {5, 1})});
  const double n[] = {2, 7, 5, 1};
  double mean = 0, square = 0;
  for (int i = 0; i < 4; ++i) mean += n[i] * x[size_t(i)] / 15, square += n[i] * x[size_t(i)] * x[size_t(i)] / 15;
  EXPECT_NEAR(mean, 0, 1e-12);
  EXPECT_NEAR(square, 1, 1e-12);
}

TEST(Advantage, WithoutSpreadExactlyZero) {
  // 0.9 three times: their mean in floating point is not 0.9.
  for (const char* name : {"grpo", "drgrpo", "rloo", "reinforce_pp"})
    EXPECT_EQ(advantages(name, {group({0.9, 0.9, 0.9}), group({0.9, 0.9, 0.9})}), std::vector<double>(6, 0.0)) << name;
}

TEST(Advantage, DynamicSamplingDropsGroupsWithoutSpread) {
  AlgorithmConfig config;
  std::vector<RolloutGroup> groups{group({1, 1}), group({1, 0}), group({0, 0})};
  EXPECT_EQ(compute_advantages(groups, config), 2);
  EXPECT_EQ(groups.size(), 3u);
  EXPECT_EQ(drop_without_spread(groups, config).without_spread, 2);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(compute_advantages(groups, config), 0);
  EXPECT_GT(groups[0].samples[0].advantage, 0);

  for (const char* name : {"grpo", "reinforce_pp"}) {
    config.advantage = name;
    std::vector<RolloutGroup> equal{group({1, 1})};
    EXPECT_EQ(drop_without_spread(equal, config).without_spread, 1);
    EXPECT_TRUE(equal.empty());
    EXPECT_EQ(compute_advantages(equal, config), 0);
  }
}

TEST(Advantage, DynamicSamplingGoesByWhatIsTrainedOn) {
  // Three groups, whose last samples are cut off: scores differ in the first, in the second, and in none.
  const auto kept = [](const char* overlong, GradeStatus last = GradeStatus::kParsed) {
    AlgorithmConfig config;
    config.overlong = overlong;
    config.overlong_buffer = 2;
    std::vector<RolloutGroup> groups{group({0, 0, 1}), group({1, 0, 0}), group({1, 1, 1})};
    for (RolloutGroup& g : groups) {
      for (RolloutSample& s : g.samples) s.score = s.reward, s.completion.finish = Finish::kStop;
      g.samples[2].completion.finish = Finish::kLength;
      g.samples[2].status = last;
    }
    for (size_t i = 0; i < groups.size(); ++i) groups[i].prompt.id = int64_t(i);
    apply_overlong(groups, config, 8);
    drop_without_spread(groups, config);
    std::vector<int64_t> ids;
    for (const RolloutGroup& g : groups) ids.push_back(g.prompt.id);
    return ids;
  };
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(kept("keep"), (Ids{0, 1}));
  EXPECT_EQ(kept("zero_reward"), (Ids{1, 2})) << "a right answer that is cut off earns 0";
  EXPECT_EQ(kept("mask"), (Ids{0, 1})) << "the last sample is not in the loss, but in the mean";
  EXPECT_EQ(kept("soft_punish"), (Ids{0, 1})) << "by the score";
  EXPECT_EQ(kept("keep", GradeStatus::kError), (Ids{1})) << "one whose grade failed is in neither";
}

TEST(Advantage, GroupsThatAreMaskedAreCountedApart) {
  AlgorithmConfig config;
  config.overlong = "mask";
  std::vector<RolloutGroup> groups{group({0, 1}), group({1, 1}), group({0, 1})};
  for (RolloutSample& s : groups[0].samples) s.completion.finish = Finish::kLength;
  for (RolloutSample& s : groups[2].samples) s.completion.finish = Finish::kStop;
  const DroppedGroups dropped = drop_without_spread(groups, config);
  EXPECT_EQ(dropped.without_spread, 1);
  EXPECT_EQ(dropped.masked, 1);
  EXPECT_EQ(groups.size(), 1u);
}

TEST(Advantage, FailedGradesHaveNoPart) {
  // The second and the last sample could not be graded; whatever stands as their reward, it is none.
  const auto with_failures = [](std::vector<double> rewards, std::vector<size_t> lengths) {
    RolloutGroup g = group({rewards[0], 0, rewards[1], rewards[2], -7}, {lengths[0], 9, lengths[1], lengths[2], 9});
    g.samples[1].status = GradeStatus::kError;
    g.samples[4].status = GradeStatus::kTimeout;
    return g;
  };
  const std::vector<double> one{1, 2, 6}, other{3, 3, 5};
  const std::vector<size_t> lengths{2, 5, 4};
  for (const char* name : {"grpo", "drgrpo", "rloo", "reinforce_pp"}) {
    const auto w = advantages(name, {group(one, lengths), group(other, lengths)});
    EXPECT_EQ(advantages(name, {with_failures(one, lengths), with_failures(other, lengths)}),
              (std::vector<double>{w[0], 0, w[1], w[2], 0, w[3], 0, w[4], w[5], 0}))
        << name;
    EXPECT_EQ(advantages(name, {with_failures({1, 1, 1}, lengths), with_failures({1, 1, 1}, lengths)}),
              std::vector<double>(10, 0.0))
        << name;
  }
  AlgorithmConfig config;
  std::vector<RolloutGroup> groups{with_failures({1, 1, 1}, lengths), with_failures(one, lengths), group({1, 0})};
  groups[2].samples[1].status = GradeStatus::kError;
  EXPECT_EQ(compute_advantages(groups, config), 2);
  EXPECT_EQ(groups[2].samples[0].advantage, 0) << "nothing to compare it with";
  EXPECT_EQ(loss_mask(groups[2].samples[0], config), 1);
  EXPECT_EQ(loss_mask(groups[2].samples[1], config), 0);
  groups[0].samples[2].status = groups[0].samples[3].status = groups[0].samples[0].status = GradeStatus::kError;
  EXPECT_EQ(compute_advantages(groups, config), 2) << "a group without any grade";
}

TEST(Advantage, RefusesGroupsOfOneAndBadRewards) {
  for (const char* name : {"grpo", "drgrpo", "rloo"})
    EXPECT_EQ(message_of([&] { advantages(name, {group({1})}); }),
              std::string("[advantage] ") + name + " needs at least 2 samples per prompt (rollout.n): prompt 17 has 1");
  EXPECT_EQ(message_of([] { advantages("grpo", {group({1, NAN})}); }),
            "[advantage] rewards must be finite: prompt 17 has nan");
}

TEST(Overlong, ZeroRewardMaskOrKeep) {
  const auto outcome = [](const char* rule) {
    AlgorithmConfig config;
    config.overlong = rule;
    std::vector<RolloutGroup> groups{group({1, 0.5})};
    groups[0].samples[0].completion.finish = Finish::kStop;
    groups[0].samples[1].completion.finish = Finish::kLength;
    apply_overlong(groups, config, 8);
    const auto& s = groups[0].samples;
    return std::vector<double>{s[0].reward, s[1].reward, loss_mask(s[0], config), loss_mask(s[1], config)};
  };
  EXPECT_EQ(outcome("zero_reward"), (std::vector<double>{1, 0, 1, 1}));
  EXPECT_EQ(outcome("mask"), (std::vector<double>{1, 0.5, 1, 0}));
  EXPECT_EQ(outcome("keep"), (std::vector<double>{1, 0.5, 1, 1}));
}

TEST(Overlong, ZeroRewardNeverPaysForTruncation) {
  std::vector<RolloutGroup> groups{group({-1, -1, 1})};
  groups[0].samples[1].completion.finish = Finish::kStop;
  apply_overlong(groups, AlgorithmConfig(), 8);
  EXPECT_EQ(groups[0].samples[0].reward, -1);
  EXPECT_EQ(groups[0].samples[1].reward, -1);
  EXPECT_EQ(groups[0].samples[2].reward, 0);
}

TEST(Overlong, SoftPunishmentGrowsOverTheBuffer) {
  AlgorithmConfig config;
  config.overlong = "soft_punish";
  config.overlong_buffer = 4;
  config.overlong_penalty = 0.5;
  const auto reward = [&](size_t length, Finish finish) {
    std::vector<RolloutGroup> groups{group({1})};
    groups[0].samples[0].completion.ids.assign(length, 7);
    groups[0].samples[0].completion.finish = finish;
    apply_overlong(groups, config, 16);
    return groups[0].samples[0].reward;
  };
  EXPECT_EQ(reward(3, Finish::kStop), 1);
  EXPECT_EQ(reward(12, Finish::kStop), 1);  // 16 - 4
  EXPECT_EQ(reward(13, Finish::kStop), 1 - 0.125);
  EXPECT_EQ(reward(14, Finish::kStop), 1 - 0.25);
  EXPECT_EQ(reward(16, Finish::kStop), 0.5);
  EXPECT_EQ(reward(16, Finish::kLength), 0.5);
  EXPECT_EQ(reward(9, Finish::kLength), 0.5) << "cut off early by the model's own limit";
}

TEST(AlgorithmConfig, RefusesCombinationsThatSayTwoThings) {
  const auto error = [](std::function<void(AlgorithmConfig&)> change, int64_t n = 8) {
    AlgorithmConfig config;
    change(config);
    return message_of([&] { config.validate(n); });
  };
  using C = AlgorithmConfig;
  EXPECT_EQ(error([](C&) {}), "");
  EXPECT_EQ(error([](C& c) { c.advantage = "reinforce_pp"; }, 1), "");
  EXPECT_EQ(error([](C&) {}, 1),
            "rollout.n: advantage grpo compares the samples of a prompt and needs at least 2, got 1");
  EXPECT_EQ(error([](C& c) { c.dynamic_sampling = true, c.advantage = "reinforce_pp"; }, 1),
            "algorithm.dynamic_sampling: one sample has no spread, rollout.n must be at least 2, got 1");
  EXPECT_EQ(error([](C& c) { c.overlong = "soft_punish"; }),
            "algorithm.overlong_buffer: must be above 0 with overlong soft_punish and belongs to nothing "
            "else, got 0 "
            "with soft_punish");
  EXPECT_EQ(error([](C& c) { c.overlong_buffer = 8; }),
            "algorithm.overlong_buffer: must be above 0 with overlong soft_punish and belongs to nothing "
            "else, got 8 "
            "with zero_reward");
  EXPECT_EQ(error([](C& c) { c.overlong_penalty = 2, c.overlong = "mask"; }),
            "algorithm.overlong_penalty: belongs to overlong soft_punish, got 2 with mask");
  EXPECT_EQ(error([](C& c) { c.overlong_penalty = 2, c.overlong = "soft_punish", c.overlong_buffer = 8; }), "");
  EXPECT_EQ(error([](C& c) { c.dual_clip = 3, c.policy_loss = "gspo"; }),
            "algorithm.dual_clip: belongs to policy_loss grpo, got 3 with gspo");
  EXPECT_EQ(error([](C& c) { c.dual_clip = 1.1; }),
            "algorithm.dual_clip: must be 0 or above 1 + clip_high = 1.2, got 1.1");
  EXPECT_EQ(error([](C& c) { c.loss_norm_constant = 256; }),
            "algorithm.loss_norm_constant: belongs to loss_aggregation seq_mean_token_sum_norm, got 256 with "
            "token_mean");
  EXPECT_EQ(error([](C& c) { c.correction_ratio = "current_over_rollout"; }),
            "algorithm.correction_ratio: policy_loss grpo already holds current over old, so its weight must be "
            "old_over_rollout, got current_over_rollout");
  EXPECT_EQ(error([](C& c) { c.policy_loss = "pg", c.correction_ratio = "current_over_rollout"; }), "");
  EXPECT_EQ(error([](C& c) { c.correction = "geo_mis", c.correction_low = 2; }),
            "algorithm.correction_high: must be above correction_low = 2, got 2");
  EXPECT_EQ(error([](C& c) { c.correction = "token_tis", c.correction_low = 0.5; }),
            "algorithm.correction_low: belongs to token_mis, seq_mis and geo_mis, got 0.5 with token_tis");
}

// ---- mismatch ---------------------------------------------------------------------------------------------

TEST(Mismatch, WorkedNumbers) {
  // x = old - mu: 0.5, -0.25 | 0.125. All values exact in fp32.
  const float mu[] = {-1.0f, -2.0f, -0.5f}, old[] = {-0.5f, -2.25f, -0.375f};
  const int32_t offsets[] = {0, 2, 2, 3};  // the empty sequence counts for nothing
  const MismatchStats s = mismatch_stats(mu, old, offsets);
  const double x[] = {0.5, -0.25, 0.125};
  double k3[3], diff[3];
  for (int i = 0; i < 3; ++i) {
    k3[i] = std::exp(x[i]) - x[i] - 1;
    diff[i] = std::abs(std::exp(double(old[i])) - std::exp(double(mu[i])));
  }
  EXPECT_EQ(s.tokens, 3);
  EXPECT_EQ(s.sequences, 2);
  EXPECT_NEAR(s.kl, -0.375 / 3, 1e-12);
  EXPECT_NEAR(s.k3_kl, (k3[0] + k3[1] + k3[2]) / 3, 1e-12);
  EXPECT_NEAR(s.abs_logprob_diff, 0.875 / 3, 1e-12);
  EXPECT_NEAR(s.seq_k3_kl, (k3[0] + k3[1] + k3[2]) / 2, 1e-12);
  // Two values a, b: sample deviation |a - b| / sqrt 2, standard error |a - b| / 2.
  EXPECT_NEAR(s.seq_k3_kl_stderr, std::abs(k3[0] + k3[1] - k3[2]) / 2, 1e-12);
  EXPECT_NEAR(s.log_ratio_slope, 1000 * (0.25 - 0.125), 1e-9);  // lengths 2 and 1
  EXPECT_NEAR(s.training_ppl, (std::exp(1.375) + std::exp(0.375)) / 2, 1e-12);
  EXPECT_NEAR(s.rollout_ppl, (std::exp(1.5) + std::exp(0.5)) / 2, 1e-12);
  EXPECT_NEAR(s.log_ppl_diff, (-0.125 - 0.125) / 2, 1e-12);
  EXPECT_NEAR(s.log_ppl_abs_diff, 0.125, 1e-12);
  EXPECT_NEAR(s.ppl_ratio, std::exp(-0.125), 1e-12);
  EXPECT_NEAR(s.chi2_token, (std::exp(1.0) + std::exp(-0.5) + std::exp(0.25)) / 3 - 1, 1e-12);
  EXPECT_NEAR(s.chi2_seq, (std::exp(0.5) + std::exp(0.25)) / 2 - 1, 1e-12);
  const double mean = (diff[0] + diff[1] + diff[2]) / 3;
  EXPECT_NEAR(s.probs_diff_max, diff[0], 1e-12);
  EXPECT_NEAR(s.probs_diff_mean, mean, 1e-12);
  EXPECT_NEAR(s.probs_diff_std,
              std::sqrt(((diff[0] - mean) * (diff[0] - mean) + (diff[1] - mean) * (diff[1] - mean) +
                         (diff[2] - mean) * (diff[2] - mean)) /
                        2),
              1e-12);
  EXPECT_EQ(mismatch_metrics(s).at("rollout_corr/kl"), s.kl);
  EXPECT_EQ(mismatch_metrics(s).at("training/rollout_probs_diff_max"), s.probs_diff_max);
}

TEST(Mismatch, PearsonCorrelation) {
  // Probabilities 1/2, 1/4, 1/8 against 1/4, 1/8, 1/16: proportional.
  const float l = float(std::log(2.0));
  const float mu[] = {-l, -2 * l, -3 * l}, half[] = {-2 * l, -3 * l, -4 * l}, swapped[] = {-3 * l, -2 * l, -l};
  const int32_t offsets[] = {0, 3};
  EXPECT_NEAR(mismatch_stats(mu, half, offsets).probs_pearson_corr, 1, 1e-6);
  // 4,2,1 against 1,2,4 (eighths): deviations 5/3,-1/3,-4/3 and their mirror: -13/14.
  EXPECT_NEAR(mismatch_stats(mu, swapped, offsets).probs_pearson_corr, -13.0 / 14, 1e-6);
}

TEST(Mismatch, EqualPoliciesGiveExactZeros) {
  const float mu[] = {-0.7f, -1.3f, 0.0f};
  const int32_t offsets[] = {0, 1, 3};
  const MismatchStats s = mismatch_stats(mu, mu, offsets);
  for (double zero : {s.kl, s.k3_kl, s.seq_k3_kl, s.seq_k3_kl_stderr, s.chi2_token, s.chi2_seq, s.probs_diff_max,
                      s.probs_diff_mean, s.probs_diff_std, s.log_ratio_slope})
    EXPECT_EQ(zero, 0.0);
  EXPECT_EQ(s.ppl_ratio, 1.0);
  EXPECT_EQ(s.probs_pearson_corr, 1.0);
}

TEST(Mismatch, HugeRatiosStayFinite) {
  const float mu[] = {-500.0f}, old[] = {0.0f};
  const int32_t offsets[] = {0, 1};
  const MismatchStats s = mismatch_stats(mu, old, offsets);
  EXPECT_NEAR(s.chi2_seq / std::exp(40.0), 1, 1e-12);
  EXPECT_NEAR(s.k3_kl, std::exp(20.0) - 21, 1e-3);
}

TEST(Mismatch, SequencesByLength) {
  // Lengths 1, 3, 2: the last two share the bucket [2, 4).
  const float mu[] = {-1, -1, -1, -1, -1, -1}, old[] = {-0.5f, -1.25f, -1, -1, -0.875f, -1};
  const int32_t offsets[] = {0, 1, 4, 4, 6};
  const auto k3 = [](double x) { return std::exp(x) - x - 1; };
  const std::vector<SequenceMismatch> sequences = sequence_mismatch(mu, old, offsets);
  ASSERT_EQ(sequences.size(), 3u) << "the empty one counts for nothing";
  EXPECT_EQ(sequences[1].length, 3);
  EXPECT_NEAR(sequences[1].log_ratio, -0.25, 1e-12);
  EXPECT_NEAR(sequences[2].k3_kl, k3(0.125), 1e-12);

  const std::vector<LengthBucket> buckets = length_buckets(sequences);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_EQ(buckets[0].from, 1);
  EXPECT_EQ(buckets[0].sequences, 1);
  EXPECT_EQ(buckets[0].k3_kl_stderr, 0);
  EXPECT_EQ(buckets[1].from, 2);
  EXPECT_EQ(buckets[1].sequences, 2);
  EXPECT_NEAR(buckets[1].length, 2.5, 1e-12);
  EXPECT_NEAR(buckets[1].log_ratio, (-0.25 + 0.125) / 2, 1e-12);
  EXPECT_NEAR(buckets[1].k3_kl, (k3(-0.25) + k3(0.125)) / 2, 1e-12);
  EXPECT_NEAR(buckets[1].k3_kl_stderr, std::abs(k3(-0.25) - k3(0.125)) / 2, 1e-12);
}

TEST(Mismatch, HistogramOfProbabilityDifferences) {
  // Probabilities 1 against 1/4, 5/8, 1, nearly 1: differences 3/4, 3/8, 0, 1e-3.
  const float mu[] = {0, 0, 0, 0}, old[] = {std::log(0.25f), std::log(0.625f), 0, std::log(0.999f)};
  const std::vector<int64_t> counts = probs_diff_histogram(mu, old, 12);
  ASSERT_EQ(counts.size(), 12u);
  EXPECT_EQ(counts[0], 1);   // (1/2, 1]
  EXPECT_EQ(counts[1], 1);   // (1/4, 1/2]
  EXPECT_EQ(counts[9], 1);   // (2^-10, 2^-9]
  EXPECT_EQ(counts[11], 1);  // equal
}

TEST(Mismatch, SequencesThatOverflowedAreLeftOut) {
  LogprobSides sides{{-1, -2, NAN, -3, -4, -5}, {-1, -2, -3, -3, -INFINITY, -6}, {2, 1, 1, 1, 0, 1}};
  sides.keep_finite();
  EXPECT_EQ(sides.lengths, (std::vector<int32_t>{2, 1, 0, 1}));
  EXPECT_EQ(sides.rollout, (std::vector<float>{-1, -2, -3, -5}));
  EXPECT_EQ(sides.old, (std::vector<float>{-1, -2, -3, -6}));
}

TEST(Mismatch, RefusesBadInput) {
  const float two[] = {-1, -2}, one[] = {-1}, bad[] = {-1, -INFINITY};
  const int32_t offsets[] = {0, 2}, short_offsets[] = {0, 1}, none[] = {0};
  EXPECT_NE(message_of([&] { mismatch_stats(two, one, offsets); }).find("got 2 and 1"), std::string::npos);
  EXPECT_NE(message_of([&] { mismatch_stats(two, two, short_offsets); }).find("must ascend"), std::string::npos);
  EXPECT_NE(message_of([&] { mismatch_stats({}, {}, none); }).find("at least 1"), std::string::npos);
  EXPECT_NE(message_of([&] { mismatch_stats(two, bad, offsets); }).find("token 1 of sequence 0"), std::string::npos);
}

}  // namespace
}  // namespace mantissa
