// The CPU's sampling of tokens and the log-probs that come with it.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/support/kernel_test.h"

namespace mantissa {
namespace {

class SamplingTest : public KernelTest {};

std::vector<double> softmax(const std::vector<float>& logits, double temperature = 1.0) {
  std::vector<double> p;
  for (float z : logits) p.push_back(std::exp(double(z) / temperature));
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= total;
  return p;
}

std::vector<double> frequencies(const std::vector<int32_t>& tokens, size_t vocab) {
  std::vector<double> f(vocab);
  for (int32_t token : tokens) f.at(size_t(token)) += 1.0 / double(tokens.size());
  return f;
}

TEST_F(SamplingTest, DrawsFromTheSoftmax) {
  const std::vector<float> row = {0.5f, -1.0f, 2.0f, 0.0f, 1.0f};
  for (double temperature : {1.0, 0.5, 2.0}) {
    const std::vector<double> p = softmax(row, temperature);
    const Draw draw = sample_row(row, {.temperature = temperature}, 20000);
    const std::vector<double> f = frequencies(draw.tokens, row.size());
    for (size_t v = 0; v < row.size(); ++v) EXPECT_NEAR(f[v], p[v], 0.015) << "token " << v << " at " << temperature;
    for (size_t i = 0; i < 100; ++i) EXPECT_NEAR(draw.logprobs[i], std::log(p[size_t(draw.tokens[i])]), 1e-5);
  }
}

TEST_F(SamplingTest, InvertsTheCdfInVocabularyOrder) {
  // Over several chunks of the vocabulary: the token is the first whose cumulative probability exceeds the
  // uniform.
  const int64_t rows = 64, vocab = 3000;
  const Tensor logits = random({rows, vocab}, 1);
  const Draw draw = sample(logits, {});
  for (int64_t b = 0; b < rows; ++b) {
    const float* row = logits.data<float>() + b * vocab;
    const std::vector<double> p = softmax({row, row + vocab});
    const double u = uniform_from(philox({{uint32_t(b), 1, 2, 0}}, philox_key(11, 3)).v[0]);
    const double below = std::accumulate(p.begin(), p.begin() + draw.tokens[size_t(b)], 0.0);
    EXPECT_LE(below, u + 1e-5);
    EXPECT_GE(below + p[size_t(draw.tokens[size_t(b)])], u - 1e-5);
  }
}

TEST_F(SamplingTest, GreedyTakesTheLowestIndexOfTheMaximum) {
  std::vector<float> row(100, -1.0f);
  row[37] = row[38] = row[90] = 2.0f;
  const Draw draw = sample_row(row, {.temperature = 0.0}, 2);
  EXPECT_EQ(draw.tokens[0], 37);
  EXPECT_NEAR(draw.logprobs[0], std::log(softmax(row)[37]), 1e-6);  // at temperature 1
}

TEST_F(SamplingTest, TopKKeepsTheLargestTiesByIndex) {
  const std::vector<float> row = {1.0f, 0.0f, 1.0f, 3.0f, 1.0f, -2.0f};
  const Draw draw = sample_row(row, {.top_k = 3}, 5000);  // 3, then the ones at 0 and 2; not the one at 4
  const std::vector<double> f = frequencies(draw.tokens, row.size()), p = softmax({1.0f, 1.0f, 3.0f});
  EXPECT_NEAR(f[0], p[0], 0.02);
  EXPECT_NEAR(f[2], p[1], 0.02);
  EXPECT_NEAR(f[3], p[2], 0.02);
  EXPECT_EQ(f[1] + f[4] + f[5], 0.0);
  // The log-probability is that of the whole vocabulary.
  EXPECT_NEAR(draw.logprobs[0], std::log(softmax(row)[size_t(draw.tokens[0])]), 1e-5);
}

TEST_F(SamplingTest, TopPKeepsTheShortestPrefixThatReachesIt) {
  std::vector<float> row;
  for (double p : {0.1, 0.4, 0.2, 0.05, 0.25}) row.push_back(float(std::log(p)));
  // 0.4 + 0.25 < 0.7 <= 0.4 + 0.25 + 0.2
  const std::vector<double> f = frequencies(sample_row(row, {.top_p = 0.7f}, 5000).tokens, row.size());
  EXPECT_NEAR(f[1], 0.4 / 0.85, 0.03);
  EXPECT_NEAR(f[2], 0.2 / 0.85, 0.03);
  EXPECT_NEAR(f[4], 0.25 / 0.85, 0.03);
  EXPECT_EQ(f[0] + f[3], 0.0);
  // top-p works on what top-k left: 0.4 / 0.65 = 0.615 reaches 0.6 alone.
  const std::vector<double> both = frequencies(sample_row(row, {.top_p = 0.6f, .top_k = 2}, 100).tokens, row.size());
  EXPECT_NEAR(both[1], 1.0, 1e-9);
  // Always at least one token.
  EXPECT_NEAR(frequencies(sample_row(row, {.top_p = 1e-6f}, 100).tokens, row.size())[1], 1.0, 1e-9);
}

TEST_F(SamplingTest, FiltersOverALargeVocabularyMatchAFullSort) {
  const int64_t rows = 24, vocab = 5003;
  // Rounded to multiples of 1/4, so that there are many ties.
  Tensor logits = random({rows, vocab}, 2, Dtype::kF32, 2.0f);
  for (int64_t i = 0; i < logits.numel(); ++i) logits.data<float>()[i] = std::round(4 * logits.data<float>()[i]) / 4;
  for (const SamplingRule rule : {SamplingRule{.top_k = 1}, SamplingRule{.top_k = 17}, SamplingRule{.top_k = 1000},
                                  SamplingRule{.top_p = 0.3f}, SamplingRule{.temperature = 0.6, .top_p = 0.95f},
                                  SamplingRule{.temperature = 1.5, .top_p = 0.9f, .top_k = 50}}) {
    const Draw draw = sample(logits, rule);
    for (int64_t b = 0; b < rows; ++b) {
      const float* row = logits.data<float>() + b * vocab;
      const std::vector<double> p = softmax({row, row + vocab}, rule.temperature);
      std::vector<int32_t> order(static_cast<size_t>(vocab));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t x, int32_t y) { return row[x] > row[y]; });
      if (rule.top_k > 0) order.resize(size_t(rule.top_k));
      const auto mass = [&] {
        double sum = 0.0;
        for (int32_t v : order) sum += p[size_t(v)];
        return sum;
      };
      if (rule.top_p < 1.0f) {
        double cumulative = 0.0;
        const double enough = mass() * double(rule.top_p);
        size_t kept = 0;
        while (cumulative < enough) cumulative += p[size_t(order[kept++])];
        order.resize(kept);
      }
      std::sort(order.begin(), order.end());
      double threshold = mass() * double(uniform_from(philox({{uint32_t(b), 1, 2, 0}}, philox_key(11, 3)).v[0]));
      size_t i = 0;
      while (i + 1 < order.size() && threshold >= p[size_t(order[i])]) threshold -= p[size_t(order[i++])];
      EXPECT_EQ(draw.tokens[size_t(b)], order[i]) << "row " << b << " top_k " << rule.top_k << " top_p " << rule.top_p;
    }
  }
}

TEST_F(SamplingTest, DependsOnKeysAndCountersNotOnTheBatch) {
  const Tensor logits = random({6, 777}, 3);
  for (const SamplingRule rule : {SamplingRule{}, SamplingRule{.top_p = 0.9f}}) {
    const Draw all = sample(logits, rule);
    for (int b = 0; b < 6; ++b) {
      const Draw one = sample(logits.slice(b, b + 1), rule, b);
      EXPECT_EQ(one.tokens[0], all.tokens[size_t(b)]);
      EXPECT_EQ(one.logprobs[0], all.logprobs[size_t(b)]);
    }
    EXPECT_NE(sample(logits, rule, 0, {12, 3}).tokens, all.tokens);
    EXPECT_NE(sample(logits, rule, 0, {11, 4}).tokens, all.tokens);
    EXPECT_NE(sample(logits, rule, 100).tokens, all.tokens);
  }
}

TEST_F(SamplingTest, ReportsTheTrainingLogProbBitForBit) {
  const int64_t rows = 9, vocab = 4099;
  const Tensor logits = random({rows, vocab}, 4);
  for (double temperature : {1.0, 0.7, 1.3})
    for (float top_p : {1.0f, 0.8f}) {
      const Draw draw = sample(logits, {.temperature = temperature, .top_p = top_p});
      Tensor logprob = exec_.empty({rows}, Dtype::kF32), entropy = exec_.empty({rows}, Dtype::kF32),
             lse = exec_.empty({rows}, Dtype::kF32);
      MANTISSA_RUN(exec_, logprob_fwd, logprob, entropy, lse, logits, ints(draw.tokens), 1.0 / temperature);
      EXPECT_EQ(to_host<float>(logprob), draw.logprobs);
    }
}

TEST_F(SamplingTest, SurvivesNonFiniteLogits) {
  const std::vector<SamplingRule> rules = {{}, {.temperature = 0.0}, {.top_k = 3}, {.top_p = 0.9f}};
  for (const SamplingRule& rule : rules) {
    for (float bad : {kNan, -kInf, kInf}) {
      const Draw none = sample_row(std::vector<float>(70, bad), rule, 1);
      EXPECT_EQ(none.tokens[0], 0);
      EXPECT_TRUE(std::isnan(none.logprobs[0]));
      // Only the finite logits can be drawn.
      std::vector<float> row(1500, bad);
      row[3] = 1.0f;
      row[1200] = 1.5f;
      const Draw some = sample_row(row, rule, 50);
      for (int32_t token : some.tokens) EXPECT_TRUE(token == 3 || token == 1200) << token;
      if (bad == -kInf) {
        EXPECT_NEAR(some.logprobs[0], some.tokens[0] == 3 ? -0.974077f : -0.474077f, 1e-5);
      } else {
        EXPECT_FALSE(std::isfinite(some.logprobs[0]));
      }
    }
  }
}

TEST_F(SamplingTest, LogProbOfImpossibleTokensHasAFiniteGradient) {
  const Tensor logits = floats({0.0f, -kInf, 1.0f}, {1, 3}), target = ints({2});
  Tensor logprob = exec_.empty({1}, Dtype::kF32), entropy = exec_.empty({1}, Dtype::kF32),
         lse = exec_.empty({1}, Dtype::kF32), dlogits = exec_.empty({1, 3}, Dtype::kF16);
  MANTISSA_RUN(exec_, logprob_fwd, logprob, entropy, lse, logits, target, 1.0);
  const double p = 1.0 / (1.0 + std::exp(-1.0)), h = -p * std::log(p) - (1 - p) * std::log(1 - p);
  EXPECT_NEAR(logprob.data<float>()[0], std::log(p), 1e-6);
  EXPECT_NEAR(entropy.data<float>()[0], h, 1e-6);
  const Tensor state = state_tensor({.loss_scale = 1024.0f});
  MANTISSA_RUN(exec_, logprob_bwd, dlogits, logits, lse, entropy, target, floats({1.0f}), floats({0.5f}), state, 1.0);
  const std::vector<float> d = to_host_float(dlogits);
  const auto expected = [&](double q, double hit) { return 1024 * (hit - q * (1.0 + 0.5 * (std::log(q) + h))); };
  EXPECT_NEAR(d[0], expected(1 - p, 0), 0.2);
  EXPECT_EQ(d[1], 0.0f);
  EXPECT_NEAR(d[2], expected(p, 1), 0.2);
}

}  // namespace
}  // namespace mantissa
