// Low-rank updates of linear layers, bit for bit; their gradients are rows of the op table.
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/ops.h"
#include "core/random.h"
#include "core/registry.h"

namespace mantissa {
namespace {

std::vector<float> random_values(int64_t count, uint64_t purpose) {
  RandomStream random(11, purpose);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = to_float(round_to<Half>(2.0f * random.uniform() - 1.0f));
  return values;
}

Tensor halves(const std::vector<float>& values, Shape shape) {
  std::vector<Half> rounded;
  for (const float x : values) rounded.push_back(round_to<Half>(x));
  return tensor_from<Half>(cpu(), rounded, shape);
}

TEST(LowRank, IsOneChainOverInputsAndThenOverRank) {
  constexpr int64_t kTokens = 3, kInputs = 70, kOutputs = 21, kRank = 16;
  constexpr float kScale = 2.0f / 3.0f;
  const std::vector<ColumnRange> parts = {{2, 10}, {12, 21}};
  const std::vector<float> x = random_values(kTokens * kInputs, 1), w = random_values(kOutputs * kInputs, 2),
                           bias = random_values(kOutputs, 3), a = random_values(2 * kRank * kInputs, 4),
                           b = random_values(17 * kRank, 5);
  Exec exec(cpu());
  Tape tape(exec, false);
  const Tensor y =
      ops::linear_low_rank(tape, Var(halves(x, {kTokens, kInputs})), Var(halves(w, {kOutputs, kInputs})),
                           Var(halves(bias, {kOutputs})),
                           {Var(halves(a, {2 * kRank, kInputs})), Var(halves(b, {17, kRank})), parts, kScale, {}})
          .value();
  const std::vector<float> got = to_host_float(y);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t n = 0, row = 0; n < kOutputs; ++n) {
      float sum = bias[size_t(n)];
      for (int64_t k = 0; k < kInputs; ++k) sum = std::fma(x[size_t(t * kInputs + k)], w[size_t(n * kInputs + k)], sum);
      const int part = n >= 2 && n < 10 ? 0 : n >= 12 ? 1 : -1;
      if (part >= 0) {
        for (int64_t r = 0; r < kRank; ++r) {
          float u = 0.0f;
          for (int64_t k = 0; k < kInputs; ++k)
            u = std::fma(x[size_t(t * kInputs + k)], a[size_t((part * kRank + r) * kInputs + k)], u);
          sum = std::fma(to_float(round_to<Half>(kScale * u)), b[size_t(row * kRank + r)], sum);
        }
        ++row;
      }
      EXPECT_EQ(got[size_t(t * kOutputs + n)], to_float(round_to<Half>(sum))) << "token " << t << ", output " << n;
    }
}

TEST(LowRank, PaddingTheRankByZerosChangesNoBit) {
  constexpr int64_t kInputs = 33, kOutputs = 9;
  const std::vector<float> x = random_values(5 * kInputs, 1), w = random_values(kOutputs * kInputs, 2),
                           a = random_values(5 * kInputs, 3), b = random_values(kOutputs * 5, 4);
  std::vector<float> wide_a = a, wide_b;
  wide_a.resize(16 * kInputs);
  for (int64_t n = 0; n < kOutputs; ++n)
    for (int64_t r = 0; r < 16; ++r) wide_b.push_back(r < 5 ? b[size_t(n * 5 + r)] : 0.0f);
  Exec exec(cpu());
  Tape tape(exec, false);
  const auto output = [&](const std::vector<float>& of_a, const std::vector<float>& of_b, int64_t rank) {
    return to_host_float(
        ops::linear_low_rank(
            tape, Var(halves(x, {5, kInputs})), Var(halves(w, {kOutputs, kInputs})), {},
            {Var(halves(of_a, {rank, kInputs})), Var(halves(of_b, {kOutputs, rank})), {{0, kOutputs}}, 0.7, {}})
            .value());
  };
  EXPECT_EQ(output(a, b, 5), output(wide_a, wide_b, 16));
}

TEST(LowRank, WhatDoesNotFitIsNamed) {
  Exec exec(cpu());
  Tape tape(exec, false);
  const Var x(exec.zeros({2, 8}, Dtype::kF16)), w(exec.zeros({6, 8}, Dtype::kF16));
  const auto refused = [&](Shape a, Shape b, std::vector<ColumnRange> parts, const std::string& word) {
    try {
      ops::linear_low_rank(tape, x, w, {},
                           {Var(exec.zeros(a, Dtype::kF16)), Var(exec.zeros(b, Dtype::kF16)), parts, 1, {}});
      ADD_FAILURE() << "must refuse: " << word;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  };
  refused({4, 8}, {6, 3}, {{0, 6}}, "a must have shape");
  refused({3, 8}, {5, 3}, {{0, 6}}, "b must have shape");
  refused({6, 8}, {6, 3}, {{0, 4}, {3, 5}}, "parts must ascend");
  refused({3, 8}, {7, 3}, {{0, 7}}, "parts must ascend within the outputs");
}

}  // namespace
}  // namespace mantissa
