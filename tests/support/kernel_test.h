// What tests of single CPU kernels share: tensors of given and of random numbers, and draws of tokens.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "core/kernels.h"
#include "core/random.h"
#include "core/registry.h"

namespace mantissa {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class KernelTest : public testing::Test {
 protected:
  Tensor floats(const std::vector<float>& values, Shape shape, Dtype dtype = Dtype::kF32) {
    const Tensor t = tensor_from<float>(cpu(), values, shape);
    if (dtype == Dtype::kF32) return t;
    Tensor out = exec_.empty(shape, dtype);
    MANTISSA_RUN(exec_, cast, out, t);
    return out;
  }
  Tensor floats(const std::vector<float>& values) { return floats(values, {int64_t(values.size())}); }
  Tensor ints(const std::vector<int32_t>& values) {
    return tensor_from<int32_t>(cpu(), values, {int64_t(values.size())});
  }
  Tensor random(Shape shape, uint64_t purpose, Dtype dtype = Dtype::kF32, float size = 3.0f) {
    RandomStream stream(7, purpose);
    std::vector<float> values(size_t(shape.numel()));
    for (float& v : values) v = size * stream.normal();
    return floats(values, shape, dtype);
  }
  Tensor state_tensor(const StepState& state) {
    Tensor t = exec_.empty({int64_t(sizeof(StepState) / sizeof(int32_t))}, Dtype::kI32);
    std::memcpy(t.raw(), &state, sizeof(state));
    return t;
  }
  static StepState& state_of(const Tensor& t) { return *static_cast<StepState*>(t.raw()); }

  struct Draw {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
  };
  /// Row b has the counter (b + first_prompt, 1, 2).
  Draw sample(const Tensor& logits, SamplingRule rule, int first_prompt = 0, SampleKeys keys = {11, 3}) {
    const int64_t rows = logits.rows();
    std::vector<int32_t> counters;
    for (int b = 0; b < rows; ++b) counters.insert(counters.end(), {b + first_prompt, 1, 2});
    Tensor tokens = exec_.empty({rows}, Dtype::kI32), logprobs = exec_.empty({rows}, Dtype::kF32);
    const Tensor at = tensor_from<int32_t>(cpu(), counters, {rows, 3});
    MANTISSA_RUN(exec_, sample, tokens, logprobs, logits, at, key_tensor(cpu(), keys), rule);
    return {to_host<int32_t>(tokens), to_host<float>(logprobs)};
  }
  /// `draws` draws from one row of logits.
  Draw sample_row(const std::vector<float>& row, SamplingRule rule, int draws) {
    std::vector<float> logits;
    for (int i = 0; i < draws; ++i) logits.insert(logits.end(), row.begin(), row.end());
    return sample(floats(logits, {draws, int64_t(row.size())}), rule);
  }

  Exec exec_{cpu()};
};

}  // namespace mantissa
