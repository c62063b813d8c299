// Small tensors of the CPU for tests of the tape, and what they hold.
#pragma once

#include "autograd/ops.h"
#include "core/random.h"
#include "core/registry.h"

namespace mantissa {

inline Tensor vec(std::vector<float> values) {
  const int64_t n = int64_t(values.size());
  return tensor_from<float>(cpu(), values, {n});
}

inline Tensor ints(std::vector<int32_t> values) {
  const int64_t n = int64_t(values.size());
  return tensor_from<int32_t>(cpu(), values, {n});
}

inline Tensor uniform(Exec& exec, Shape shape, Dtype dtype, uint64_t purpose, float scale = 1.0f) {
  RandomStream random(7, purpose);
  std::vector<float> values(size_t(shape.numel()));
  for (float& v : values) v = scale * (2 * random.uniform() - 1);
  const Tensor wide = tensor_from<float>(cpu(), values, shape);
  Tensor out = exec.empty(shape, dtype);
  MANTISSA_RUN(exec, cast, out, wide);
  return out;
}

inline std::vector<float> host(const Tensor& t) {
  return to_host_float(t);
}

inline std::vector<char> bits(const Tensor& t) {
  const char* p = static_cast<const char*>(t.raw());
  return std::vector<char>(p, p + t.bytes());
}

}  // namespace mantissa
