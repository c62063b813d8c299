// What tests of losses share: a micro-batch in plain numbers, and the loss, gradients and stats it has.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/registry.h"
#include "rl/algorithm/policy_loss.h"

namespace mantissa {

/// A packed micro-batch on the host; `mu` empty: equal to old.
struct LossCase {
  std::vector<int32_t> lengths = {};
  std::vector<double> logprobs = {}, old = {}, mu = {}, advantages = {};
  std::vector<double> mask = std::vector<double>(lengths.size(), 1.0);
  std::vector<double> reference = {}, entropy = std::vector<double>(logprobs.size(), 0.5);
};

struct LossDenominators {
  double sequences = 0, tokens = 0;
};

inline LossDenominators denominators_of(const LossCase& c) {
  LossDenominators d;
  for (size_t i = 0; i < c.lengths.size(); ++i) d.sequences += c.mask[i], d.tokens += c.mask[i] * c.lengths[i];
  return d;
}

struct LossResult {
  double loss;
  std::vector<double> grad, entropy_grad;
  std::map<std::string, double> stats;
  LossOut out;
};

template <class T>
Tensor tensor(const std::vector<double>& values) {
  return tensor_from<T>(cpu(), std::vector<T>(values.begin(), values.end()), {int64_t(values.size())});
}

/// The gradient of a leaf; zeros when none arrived.
template <class T>
std::vector<double> gradient(const Var& v) {
  if (!v.grad().defined()) return std::vector<double>(size_t(v.value().numel()), 0.0);
  const std::vector<T> values = to_host<T>(v.grad());
  return {values.begin(), values.end()};
}

template <class T = double>
LossResult run(const LossCase& c, const AlgorithmConfig& config, double norm_constant = 10,
               LossDenominators whole = {}) {
  if (whole.tokens == 0) whole = denominators_of(c);
  std::vector<int32_t> offsets{0};
  std::vector<double> inverse_lengths;
  for (int32_t n : c.lengths) offsets.push_back(offsets.back() + n), inverse_lengths.push_back(1.0 / n);

  Exec exec(cpu());
  Tape tape(exec, true);
  LossInputs in{.logprobs = tape.leaf(tensor<T>(c.logprobs)),
                .entropy = tape.leaf(tensor<T>(c.entropy)),
                .old_logprobs = tensor<T>(c.old),
                .rollout_logprobs = tensor<T>(c.mu.empty() ? c.old : c.mu),
                .reference_logprobs = c.reference.empty() ? Tensor() : tensor<T>(c.reference),
                .advantages = tensor<T>(c.advantages),
                .mask = tensor<T>(c.mask),
                .inverse_lengths = tensor<T>(inverse_lengths),
                .response_offsets = tensor_from<int32_t>(cpu(), offsets, {int64_t(offsets.size())}),
                .sequences = whole.sequences,
                .tokens = whole.tokens,
                .forwarded = whole.tokens,
                .norm_constant = norm_constant};
  LossOut out = policy_loss(tape, in, config);
  tape.backward(out.loss);
  LossStats stats;
  stats.add(out);
  return {double(to_host<T>(out.loss.value())[0]), gradient<T>(in.logprobs), gradient<T>(in.entropy), stats.metrics(),
          out};
}

inline void expect_near(const std::vector<double>& got, const std::vector<double>& want, double tolerance = 1e-12) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance) << "entry " << i;
}

inline AlgorithmConfig with(std::function<void(AlgorithmConfig&)> change) {
  AlgorithmConfig config;
  change(config);
  return config;
}

}  // namespace mantissa
