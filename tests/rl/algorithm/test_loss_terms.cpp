// What joins a policy loss, in worked numbers: correction weights, the KL to a reference, the entropy bonus. And the
// loss of the warm start.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/registry.h"
#include "rl/algorithm/policy_loss.h"
#include "tests/support/loss_case.h"

namespace mantissa {
namespace {

// ---- correction -------------------------------------------------------------------------------------------

/// Two sequences, on-policy, A = 1: the loss' gradient is -w / 3. old / mu = {2, 0.25 | 4}: token ratios 2,
/// 0.25, 4; sequence ratios 0.5 and 4; geometric means 0.7071 and 4.
LossResult corrected(const std::string& correction, double low, double high, double kl_coef = 0) {
  LossCase c{.lengths = {2, 1},
             .logprobs = {-2, -2, -2},
             .old = {-2, -2, -2},
             .mu = {-2 - std::log(2), -2 + std::log(4), -2 - std::log(4)},
             .advantages = {1, 1}};
  c.reference = {-3, -3, -3};
  return run(c, with([&](AlgorithmConfig& a) {
               a.correction = correction, a.correction_low = low, a.correction_high = high;
               a.kl_coef = kl_coef, a.kl_estimator = "k1";
             }));
}

std::vector<double> weights(const LossResult& r) {
  std::vector<double> w;
  for (double g : r.grad) w.push_back(-3 * g);
  return w;
}

TEST(Correction, WorkedWeights) {
  const auto expect = [](const char* name, double low, double high, std::vector<double> w, double kept) {
    SCOPED_TRACE(name);
    const LossResult got = corrected(name, low, high);
    expect_near(weights(got), w);
    const double sum = w[0] + w[1] + w[2], squares = w[0] * w[0] + w[1] * w[1] + w[2] * w[2];
    EXPECT_NEAR(got.stats.at("rollout_corr/rollout_is_mean"), sum / 3, 1e-6);
    EXPECT_NEAR(got.stats.at("rollout_corr/rollout_is_eff_sample_size"), sum * sum / squares / 3, 1e-6);
    EXPECT_NEAR(got.stats.at("rollout_corr/rollout_is_std"), std::sqrt(std::max(0.0, squares / 3 - sum * sum / 9)),
                1e-3);
    EXPECT_NEAR(got.stats.at("rollout_corr/kept_fraction"), kept, 1e-7);
  };
  expect("none", 0, 3, {1, 1, 1}, 1);
  expect("token_is", 0, 3, {2, 0.25, 4}, 1);
  expect("token_tis", 0, 3, {2, 0.25, 3}, 1);
  expect("token_mis", 0.5, 3, {2, 0, 0}, 1.0 / 3);
  expect("seq_is", 0, 3, {0.5, 0.5, 4}, 1);
  expect("seq_tis", 0, 3, {0.5, 0.5, 3}, 1);
  expect("seq_mis", 0, 3, {0.5, 0.5, 0}, 2.0 / 3);
  expect("seq_mis", 0.6, 5, {0, 0, 4}, 1.0 / 3);
  expect("geo_mis", 0.7, 3, {1, 1, 0}, 2.0 / 3);
  expect("geo_mis", 0.71, 5, {0, 0, 1}, 1.0 / 3);
}

TEST(Correction, BoundsAreReported) {
  const LossResult tis = corrected("token_tis", 0, 3), mis = corrected("token_mis", 0.5, 3);
  EXPECT_NEAR(tis.stats.at("rollout_corr/rollout_is_ratio_fraction_high"), 1.0 / 3, 1e-7);
  EXPECT_EQ(tis.stats.at("rollout_corr/rollout_is_ratio_fraction_low"), 0.0);
  EXPECT_NEAR(mis.stats.at("rollout_corr/rollout_is_ratio_fraction_high"), 1.0 / 3, 1e-7);
  EXPECT_NEAR(mis.stats.at("rollout_corr/rollout_is_ratio_fraction_low"), 1.0 / 3, 1e-7);
}

TEST(Correction, MaskedTokensStayInTheDenominatorAndKeepTheirKl) {
  const LossResult got = corrected("seq_mis", 0, 3, 0.3);
  // k1 has gradient kl_coef / 3 at every token, the masked one included.
  expect_near(got.grad, {(-0.5 + 0.3) / 3, (-0.5 + 0.3) / 3, 0.3 / 3});
  EXPECT_NEAR(got.stats.at("actor/kl_loss"), 1.0, 1e-7);
}

TEST(Correction, RatioFollowsThePolicyLoss) {
  // pi / pi_old = 2, pi_old / mu = 3: current_over_rollout is 6.
  LossCase c{.lengths = {1}, .logprobs = {-5 + std::log(2)}, .old = {-5}, .mu = {-5 - std::log(3)}, .advantages = {1}};
  const auto weight = [&](const char* loss, const char* ratio) {
    const LossResult r = run(c, with([&](AlgorithmConfig& a) {
                               a.policy_loss = loss, a.correction = "token_is", a.correction_ratio = ratio;
                             }));
    return r.stats.at("rollout_corr/rollout_is_mean");
  };
  EXPECT_NEAR(weight("grpo", "auto"), 3, 1e-6);
  EXPECT_NEAR(weight("pg", "auto"), 6, 1e-6);
  EXPECT_NEAR(weight("pg", "old_over_rollout"), 3, 1e-6);
}

TEST(PolicyLoss, LogRatiosAreClampedAt20) {
  LossCase c{.lengths = {1}, .logprobs = {-1}, .old = {-100}, .mu = {-300}, .advantages = {-1}};
  const LossResult got = run<float>(c, with([](AlgorithmConfig& a) { a.correction = "seq_is"; }));
  EXPECT_NEAR(got.loss / std::exp(40.0), 1, 1e-5);  // e^20 of the loss times e^20 of the weight
  expect_near(got.grad, {0});                       // outside the clamp
}

// ---- KL and entropy ---------------------------------------------------------------------------------------

TEST(PolicyLoss, KlEstimators) {
  // A = 0 leaves the KL alone; d = log pi - log ref = 0.5 and -1.
  const double d[] = {0.5, -1};
  LossCase c{.lengths = {1, 1}, .logprobs = {-1, -2}, .old = {-1, -2}, .mu = {-1, -2}, .advantages = {0, 0}};
  c.reference = {-1.5, -1};
  const auto kl = [&](const char* estimator) {
    return run(c, with([&](AlgorithmConfig& a) { a.kl_coef = 0.2, a.kl_estimator = estimator; }));
  };
  EXPECT_NEAR(kl("k1").loss, 0.2 * (d[0] + d[1]) / 2, 1e-12);
  expect_near(kl("k1").grad, {0.1, 0.1});
  EXPECT_NEAR(kl("k1").stats.at("actor/reference_kl"), -0.25, 1e-7);
  for (const char* aggregation : {"seq_mean_token_mean", "seq_mean_token_sum_norm"}) {
    const LossResult got = run(
        c, with([&](AlgorithmConfig& a) { a.kl_coef = 0.2, a.kl_estimator = "k1", a.loss_aggregation = aggregation; }));
    EXPECT_NEAR(got.stats.at("actor/reference_kl"), -0.25, 1e-7) << "a token, whatever the loss makes of it";
  }
  EXPECT_NEAR(kl("k2").loss, 0.2 * (0.125 + 0.5) / 2, 1e-12);
  expect_near(kl("k2").grad, {0.1 * d[0], 0.1 * d[1]});
  EXPECT_NEAR(kl("k3").loss, 0.1 * (std::exp(-0.5) + 0.5 - 1 + std::exp(1) - 1 - 1), 1e-12);
  expect_near(kl("k3").grad, {0.1 * (1 - std::exp(-0.5)), 0.1 * (1 - std::exp(1))});
}

TEST(PolicyLoss, EntropyBonusUsesTheAggregation) {
  LossCase c{.lengths = {1, 3}, .logprobs = {-1, -1, -1, -1}, .old = {-1, -1, -1, -1}, .advantages = {0, 0}};
  c.entropy = {1, 2, 3, 4};
  const LossResult got =
      run(c, with([](AlgorithmConfig& a) { a.entropy_coef = 0.6, a.loss_aggregation = "seq_mean_token_mean"; }));
  EXPECT_NEAR(got.loss, -0.6 * (1 + 3) / 2, 1e-12);
  expect_near(got.entropy_grad, {-0.3, -0.1, -0.1, -0.1});
  EXPECT_NEAR(got.stats.at("actor/entropy"), 2.5, 1e-7);
}

// ---- the supervised loss ----------------------------------------------------------------------------------

TEST(SftLoss, MeanNegativeLogLikelihoodOfKeptTokens) {
  Exec exec(cpu());
  Tape tape(exec, true);
  LossInputs in;
  in.mask = tensor<float>({1, 1});
  in.response_offsets = tensor_from<int32_t>(cpu(), std::vector<int32_t>{0, 1, 4}, {3});
  in.logprobs = tape.leaf(tensor<float>({-1, -2, -3, -4}));
  in.entropy = tape.leaf(tensor<float>({1, 1, 1, 5}));
  in.tokens = in.forwarded = 8;  // another micro-batch holds four more
  const LossOut out = sft_loss(tape, in);
  tape.backward(out.loss);
  EXPECT_FLOAT_EQ(to_host<float>(out.loss.value())[0], 10.0f / 8);
  expect_near(gradient<float>(in.logprobs), std::vector<double>(4, -1.0 / 8));
  LossStats stats;
  stats.add(out);
  EXPECT_NEAR(stats.metrics().at("sft/loss"), 10.0 / 8, 1e-6);
  EXPECT_NEAR(stats.metrics().at("sft/entropy"), 1, 1e-6);
}

}  // namespace
}  // namespace mantissa
