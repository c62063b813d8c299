// Policy losses: golden values and gradients, worked numbers of the clips that the golden file lacks, and the promises
// about ratios, masks and micro-batches.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/random.h"
#include "rl/algorithm/policy_loss.h"
#include "tests/support/loss_case.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

/// Random log-probs around -1, in float precision so that both types see the same numbers.
LossCase random_case(std::vector<int32_t> lengths) {
  RandomStream random(11, 3);
  LossCase c{.lengths = lengths};
  for (int32_t n : lengths) {
    c.advantages.push_back(random.normal());
    for (int32_t t = 0; t < n; ++t) {
      c.logprobs.push_back(-1 + 0.3f * random.normal());
      c.old.push_back(float(c.logprobs.back() + 0.2f * random.normal()));
      c.mu.push_back(float(c.old.back() + 0.1f * random.normal()));
      c.reference.push_back(float(c.old.back() + 0.3f * random.normal()));
      c.entropy.push_back(random.uniform());
    }
  }
  c.mask.assign(lengths.size(), 1.0);
  return c;
}

// ---- golden values ----------------------------------------------------------------------------------------

/// Settings behind the names of the golden file.
const std::map<std::string, AlgorithmConfig>& golden_configs() {
  const auto make = [](const char* loss, const char* correction, double high, double clip_low = 0.2,
                       double clip_high = 0.2) {
    return with([&](AlgorithmConfig& c) {
      c.policy_loss = loss, c.correction = correction, c.correction_high = high;
      c.clip_low = clip_low, c.clip_high = clip_high;
    });
  };
  static const std::map<std::string, AlgorithmConfig> configs{
      {"grpo", make("grpo", "none", 2)},
      {"grpo_cliphigher", make("grpo", "none", 2, 0.2, 0.28)},
      {"grpo_token_tis_c2", make("grpo", "token_tis", 2)},
      {"grpo_seq_mis_c10", make("grpo", "seq_mis", 10)},
      {"grpo_seq_mis_c1.2", make("grpo", "seq_mis", 1.2)},
      {"gspo", make("gspo", "none", 2, 3e-4, 4e-4)},
      {"pg_seq_is", make("pg", "seq_is", 2)},
      {"pg_seq_tis_c3", make("pg", "seq_tis", 3)},
      {"pg_seq_mis_c3", make("pg", "seq_mis", 3)},
      {"pg_token_tis_c2", make("pg", "token_tis", 2)},
      {"reinforce", make("pg", "none", 2)},
  };
  return configs;
}

template <class T>
void check_golden(double tolerance) {
  const nlohmann::json file =
      nlohmann::json::parse(std::ifstream(std::string(MANTISSA_SOURCE_DIR) + "/tests/golden/policy_losses.json"));
  const auto flat = [](const nlohmann::json& rows) {
    std::vector<double> out;
    for (const auto& row : rows) out.insert(out.end(), row.begin(), row.end());
    return out;
  };
  const nlohmann::json& inputs = file.at("inputs");
  LossCase c{.lengths = {},
             .logprobs = flat(inputs.at("new")),
             .old = flat(inputs.at("old")),
             .mu = flat(inputs.at("mu")),
             .advantages = inputs.at("adv").get<std::vector<double>>()};
  for (const auto& row : inputs.at("new")) c.lengths.push_back(int32_t(row.size()));
  c.mask.assign(c.lengths.size(), 1.0);

  const std::map<std::string, std::string> aggregations{
      {"seq_sum_const", "seq_mean_token_sum_norm"}, {"seq_mean", "seq_mean_token_mean"}, {"token_mean", "token_mean"}};
  size_t cases = 0;
  for (const auto& [key, want] : file.at("outputs").items()) {
    SCOPED_TRACE(key);
    AlgorithmConfig config = golden_configs().at(key.substr(0, key.find('/')));
    config.loss_aggregation = aggregations.at(key.substr(key.find('/') + 1));
    const LossResult got = run<T>(c, config, inputs.at("constant_normalizer").get<double>());
    EXPECT_NEAR(got.loss, want.at("loss").template get<double>(), tolerance);
    expect_near(got.grad, flat(want.at("grad")), tolerance);
    ++cases;
  }
  EXPECT_EQ(cases, 33u);
}

TEST(PolicyLoss, GoldenValuesAndGradientsFp64) {
  check_golden<double>(1e-10);
}
TEST(PolicyLoss, GoldenValuesAndGradientsFp32) {
  check_golden<float>(1e-5);
}

// ---- promises ---------------------------------------------------------------------------------------------

TEST(PolicyLoss, OnPolicyRatioIsExactlyOneAndNothingIsClipped) {
  LossCase c = random_case({7, 1, 30, 12});
  c.old = c.logprobs;
  for (const char* loss : {"grpo", "gspo", "cispo"}) {
    SCOPED_TRACE(loss);
    // Clips of zero width: a ratio off by one ulp would count.
    const AlgorithmConfig config = with([&](AlgorithmConfig& a) {
      a.policy_loss = loss, a.clip_low = a.clip_high = 0;
      if (a.policy_loss == "grpo") a.dual_clip = 1.5;
    });
    const LossResult got = run<float>(c, config);
    EXPECT_EQ(got.stats.at("actor/pg_clipfrac"), 0.0);
    EXPECT_EQ(got.stats.at("actor/pg_clipfrac_lower"), 0.0);
    EXPECT_EQ(got.stats.at("actor/ppo_kl"), 0.0);
    size_t t = 0;
    for (size_t i = 0; i < c.lengths.size(); ++i)
      for (int32_t k = 0; k < c.lengths[i]; ++k, ++t)
        EXPECT_EQ(float(got.grad[t]), -float(c.advantages[i]) * float(1 / 50.0)) << t;
  }
}

TEST(PolicyLoss, MicroBatchesAddUp) {
  const LossCase whole = random_case({5, 9, 2, 6});
  const auto part = [&](size_t from, size_t to) {
    const auto first = [&](size_t i) {
      return std::accumulate(whole.lengths.begin(), whole.lengths.begin() + long(i), 0L);
    };
    const auto cut = [&](const std::vector<double>& v, long a, long b) {
      return std::vector<double>(v.begin() + a, v.begin() + b);
    };
    const long a = first(from), b = first(to);
    return LossCase{.lengths = {whole.lengths.begin() + long(from), whole.lengths.begin() + long(to)},
                    .logprobs = cut(whole.logprobs, a, b),
                    .old = cut(whole.old, a, b),
                    .mu = cut(whole.mu, a, b),
                    .advantages = cut(whole.advantages, long(from), long(to)),
                    .mask = cut(whole.mask, long(from), long(to)),
                    .reference = cut(whole.reference, a, b),
                    .entropy = cut(whole.entropy, a, b)};
  };
  for (const char* aggregation : {"token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"})
    for (const char* loss : {"grpo", "gspo", "cispo", "pg", "dppo"}) {
      SCOPED_TRACE(std::string(aggregation) + " " + loss);
      const AlgorithmConfig config = with([&](AlgorithmConfig& a) {
        a.loss_aggregation = aggregation, a.policy_loss = loss, a.correction = "seq_tis";
        a.kl_coef = 0.1, a.entropy_coef = 0.01;
      });
      const LossDenominators all = denominators_of(whole);
      const LossResult want = run(whole, config), one = run(part(0, 1), config, 10, all),
                       rest = run(part(1, 4), config, 10, all);
      EXPECT_NEAR(one.loss + rest.loss, want.loss, 1e-14);
      std::vector<double> grad = one.grad;
      grad.insert(grad.end(), rest.grad.begin(), rest.grad.end());
      expect_near(grad, want.grad, 1e-15);
      LossStats sums;
      sums.add(one.out);
      sums.add(rest.out);
      const auto metrics = sums.metrics();
      EXPECT_EQ(metrics.size(), want.stats.size());
      for (const auto& [name, value] : want.stats) EXPECT_NEAR(metrics.at(name), value, 1e-6) << name;
    }
}

TEST(PolicyLoss, MaskedSequencesLeaveLossAndStats) {
  LossCase c = random_case({3, 4, 2});
  c.mask = {1, 0, 1};
  const AlgorithmConfig config = with([](AlgorithmConfig& a) { a.kl_coef = 0.1, a.entropy_coef = 0.1; });
  const LossResult masked = run(c, config);
  for (size_t t = 3; t < 7; ++t) EXPECT_EQ(masked.grad[t], 0.0);

  LossCase without{.lengths = {3, 2}, .advantages = {c.advantages[0], c.advantages[2]}};
  without.mask = {1, 1};
  for (auto field : {&LossCase::logprobs, &LossCase::old, &LossCase::mu, &LossCase::reference, &LossCase::entropy}) {
    without.*field = c.*field;
    (without.*field).erase((without.*field).begin() + 3, (without.*field).begin() + 7);
  }
  const LossResult want = run(without, config);
  EXPECT_NEAR(masked.loss, want.loss, 1e-15);
  for (const auto& [name, value] : want.stats) EXPECT_NEAR(masked.stats.at(name), value, 1e-7) << name;
}

TEST(PolicyLoss, NothingLeftIsALossOfZero) {
  LossCase c = random_case({3, 2});
  c.mask = {0, 0};
  for (const char* aggregation : {"token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"}) {
    const LossResult got = run(c, with([&](AlgorithmConfig& a) { a.loss_aggregation = aggregation, a.kl_coef = 1; }));
    EXPECT_EQ(got.loss, 0.0);
    expect_near(got.grad, {0, 0, 0, 0, 0}, 0);
    for (const auto& [name, value] : got.stats) EXPECT_EQ(value, 0.0) << name;
  }
}

TEST(PolicyLoss, RefusesInputsThatDoNotFit) {
  const LossCase good = random_case({2, 3});
  const auto error = [&](std::function<void(LossCase&)> change, LossDenominators d = {}, AlgorithmConfig config = {}) {
    LossCase c = good;
    change(c);
    return message_of([&] { run(c, config, config.loss_aggregation == "token_mean" ? 10 : 0, d); });
  };
  EXPECT_EQ(error([](LossCase&) {}), "");
  EXPECT_NE(error([](LossCase& c) { c.mu.pop_back(); }).find("must have shape [5]: got [4]"), std::string::npos);
  EXPECT_NE(error([](LossCase& c) { c.advantages.pop_back(); }).find("advantages must have shape [2]"),
            std::string::npos);
  EXPECT_NE(error([](LossCase&) {}, {-1, 5}).find("must be set: got -1"), std::string::npos);
  AlgorithmConfig norm;
  norm.loss_aggregation = "seq_mean_token_sum_norm";
  EXPECT_NE(error([](LossCase&) {}, {}, norm).find("norm constant must be positive: got 0"), std::string::npos);
  AlgorithmConfig kl;
  kl.kl_coef = 1;
  EXPECT_NE(error([](LossCase& c) { c.reference.clear(); }, {}, kl).find("reference_logprobs"), std::string::npos);
}

// ---- worked numbers ---------------------------------------------------------------------------------------

/// One sequence a ratio: log-probs log(ratio) above old = -5, one token each, advantages given.
LossCase ratios(std::vector<double> r, std::vector<double> advantages) {
  LossCase c{.lengths = std::vector<int32_t>(r.size(), 1), .advantages = advantages};
  for (double x : r) c.logprobs.push_back(-5 + std::log(x)), c.old.push_back(-5);
  c.entropy.assign(r.size(), 0.5);
  c.mask.assign(r.size(), 1);
  return c;
}

TEST(PolicyLoss, ClipBoundsAreTheirOwn) {
  const AlgorithmConfig config = with([](AlgorithmConfig& a) { a.clip_low = 0.1, a.clip_high = 0.3; });
  const LossResult got = run(ratios({1.25, 1.5, 0.85, 0.95}, {1, 1, -1, -1}), config);
  EXPECT_NEAR(got.loss, (-1.25 - 1.3 + 0.9 + 0.95) / 4, 1e-12);
  expect_near(got.grad, {-1.25 / 4, 0, 0, 0.95 / 4});
  EXPECT_DOUBLE_EQ(got.stats.at("actor/pg_clipfrac"), 0.5);
}

TEST(PolicyLoss, DualClipBoundsNegativeAdvantages) {
  // A = -1: r = 5 costs 5, bounded by c = 3 with no gradient; r = 2 stays. A = +1: r = 5 is clipped at 1.2 as
  // ever.
  const AlgorithmConfig config = with([](AlgorithmConfig& a) { a.dual_clip = 3; });
  const LossResult got = run(ratios({5, 2, 5, 0.5}, {-1, -1, 1, -2}), config);
  EXPECT_NEAR(got.loss, (3 + 2 - 1.2 + 2 * 0.8) / 4, 1e-12);
  expect_near(got.grad, {0, 2.0 / 4, 0, 0});
  EXPECT_DOUBLE_EQ(got.stats.at("actor/pg_clipfrac"), 2.0 / 4);  // the third and the fourth
  EXPECT_DOUBLE_EQ(got.stats.at("actor/pg_clipfrac_lower"), 1.0 / 4);
  EXPECT_NEAR(got.stats.at("actor/ppo_kl"), -std::log(5 * 2 * 5 * 0.5) / 4, 1e-6);
}

TEST(PolicyLoss, CispoWeighsLogprobsWithTheClippedRatio) {
  const AlgorithmConfig config =
      with([](AlgorithmConfig& a) { a.policy_loss = "cispo", a.clip_low = 0.5, a.clip_high = 1; });
  const LossResult got = run(ratios({4, 1.5, 0.25, 1.5}, {1, 2, -1, -1}), config);
  const double lp[] = {-5 + std::log(4), -5 + std::log(1.5), -5 + std::log(0.25), -5 + std::log(1.5)};
  EXPECT_NEAR(got.loss, (-2 * lp[0] - 1.5 * 2 * lp[1] + 0.5 * lp[2] + 1.5 * lp[3]) / 4, 1e-12);
  expect_near(got.grad, {-2.0 / 4, -3.0 / 4, 0.5 / 4, 1.5 / 4});
  EXPECT_DOUBLE_EQ(got.stats.at("actor/pg_clipfrac"), 0.5);
}

TEST(PolicyLoss, GspoClipsWholeSequences) {
  // Mean log ratios: (log 2 + log 8) / 2 = log 4 (clipped for A = 1), log 1.1 (kept).
  LossCase c{.lengths = {2, 1},
             .logprobs = {-5 + std::log(2), -5 + std::log(8), -5 + std::log(1.1)},
             .old = {-5, -5, -5},
             .advantages = {1, 1}};
  const LossResult got = run(c, with([](AlgorithmConfig& a) { a.policy_loss = "gspo"; }));
  EXPECT_NEAR(got.loss, (-1.2 - 1.2 - 1.1) / 3, 1e-12);
  expect_near(got.grad, {0, 0, -1.1 / 3});
  EXPECT_NEAR(got.stats.at("actor/pg_clipfrac"), 2.0 / 3, 1e-7);
}

TEST(PolicyLoss, DppoKeepsProbabilitiesNearThoseOfTheRollout) {
  // Probabilities 0.2 -> 0.5 and 0.4 -> 0.1 lie beyond the bounds of 0.2: dropped where A would take them further, kept
  // where it takes them back. 0.2 -> 0.3 lies inside.
  const double p[] = {0.5, 0.5, 0.1, 0.1, 0.3}, mu[] = {0.2, 0.2, 0.4, 0.4, 0.2};
  LossCase c{.lengths = {1, 1, 1, 1, 1}, .logprobs = {}, .old = {}, .mu = {}, .advantages = {1, -1, -1, 1, 2}};
  for (const double x : p) c.logprobs.push_back(std::log(x));
  for (const double x : mu) c.mu.push_back(std::log(x));
  c.old = c.mu;
  c.entropy.assign(5, 0.5);
  const LossResult got = run(c, with([](AlgorithmConfig& a) { a.policy_loss = "dppo"; }));
  EXPECT_NEAR(got.loss, (0 + 2.5 + 0 - 0.25 - 2 * 1.5) / 5, 1e-12);
  expect_near(got.grad, {0, 2.5 / 5, 0, -0.25 / 5, -3.0 / 5});
  EXPECT_NEAR(got.stats.at("actor/pg_clipfrac"), 2.0 / 5, 1e-7);
}

}  // namespace
}  // namespace mantissa
