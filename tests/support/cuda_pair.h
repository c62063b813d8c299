// What the tests of the CUDA backend share: the same tensors on the CPU and on the GPU, and comparisons. Without a GPU
// every test is skipped and says why.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "core/kernels.h"
#include "core/random.h"
#include "core/registry.h"
#ifdef MANTISSA_WITH_CUDA
#include "cuda/backend.h"
#endif

namespace mantissa {

inline std::string no_cuda_because() {
#ifdef MANTISSA_WITH_CUDA
  return cuda_unavailable();
#else
  return "this build has no CUDA backend";
#endif
}

/// Bits of a tensor on any backend.
inline std::vector<std::byte> bits_of(const Tensor& t) {
  std::vector<std::byte> bytes(t.bytes());
  t.backend().copy_to_host(bytes.data(), t.raw(), bytes.size());
  return bytes;
}

/// Base of test fixtures: `host` and `gpu()` run kernels, tensors are made on the host and copied up.
template <class Base>
class CudaFixture : public Base {
 protected:
  void SetUp() override {
    const std::string reason = no_cuda_because();
    if (!reason.empty()) GTEST_SKIP() << reason;
    gpu_ = std::make_unique<Exec>(find_backend("cuda"));
  }

  Exec& gpu() { return *gpu_; }
  Tensor up(const Tensor& t) {
    Tensor out = gpu().empty(t.shape(), t.dtype());
    out.backend().copy_from_host(out.raw(), t.raw(), t.bytes());
    return out;
  }
  Tensor down(const Tensor& t) {
    Tensor out = host.empty(t.shape(), t.dtype());
    t.backend().copy_to_host(out.raw(), t.raw(), t.bytes());
    return out;
  }
  /// On the GPU, every byte 0xff: NaN in all floating types. What a kernel leaves out is seen.
  Tensor poisoned(Shape shape, Dtype dtype) {
    Tensor t = host.empty(shape, dtype);
    std::memset(t.raw(), 0xff, t.bytes());
    return up(t);
  }
  /// Normal numbers on the host, rounded to dtype.
  Tensor random(Shape shape, Dtype dtype, uint64_t purpose, float size = 1.0f) {
    RandomStream stream(1, purpose);
    std::vector<float> values(size_t(shape.numel()));
    for (float& v : values) v = size * stream.normal();
    Tensor wide = tensor_from<float>(cpu(), values, shape), out = host.empty(shape, dtype);
    MANTISSA_RUN(host, cast, out, wide);
    return out;
  }
  /// The same on the GPU: some made once and repeated, in a number that no row length divides.
  Tensor noise(Shape shape, Dtype dtype, uint64_t purpose, float size = 1.0f) {
    constexpr int64_t kValues = 65521;
    const Tensor some = up(random({kValues}, dtype, purpose, size));
    Tensor out = gpu().empty(shape, dtype);
    for (int64_t at = 0; at < out.numel(); at += kValues)
      gpu().backend().copy(static_cast<std::byte*>(out.raw()) + at * int64_t(size_of(dtype)), some.raw(),
                           size_t(std::min(kValues, out.numel() - at)) * size_of(dtype));
    return out;
  }
  Tensor ints(const std::vector<int32_t>& values, Shape shape) { return tensor_from<int32_t>(cpu(), values, shape); }
  Tensor ints(const std::vector<int32_t>& values) { return ints(values, {int64_t(values.size())}); }

  std::vector<float> floats(const Tensor& t) {
    const Tensor here = down(t);
    Tensor wide = host.empty(t.shape(), Dtype::kF32);
    MANTISSA_RUN(host, cast, wide, here);
    return to_host<float>(wide);
  }
  /// |got - want| <= bound (|want| + floor) everywhere; non-finite values must be the same.
  void expect_close(const Tensor& got, const Tensor& want, double bound, double floor) {
    ASSERT_EQ(got.shape(), want.shape());
    const std::vector<float> a = floats(got), b = floats(want);
    double worst = 0;
    size_t where = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      if (std::isnan(b[i]) ? std::isnan(a[i]) : a[i] == b[i]) continue;
      const double difference = std::abs(double(a[i]) - double(b[i])) / (std::abs(double(b[i])) + floor);
      const double error = std::isfinite(difference) ? difference : INFINITY;
      if (error > worst) worst = error, where = i;
    }
    EXPECT_LE(worst, bound) << "element " << where << " is " << a[where] << ", expected " << b[where];
  }
  void expect_same_bits(const Tensor& got, const Tensor& want) {
    ASSERT_EQ(got.shape(), want.shape());
    EXPECT_EQ(bits_of(got), bits_of(want));
  }

  Exec host{cpu()};

 private:
  std::unique_ptr<Exec> gpu_;
};

/// Half a unit in the last place of 1: the relative error of one rounding.
inline double unit_of(Dtype d) {
  return d == Dtype::kF16 ? 0x1p-11 : d == Dtype::kBF16 ? 0x1p-8 : 0x1p-24;
}

inline const auto kCudaTypes = ::testing::Values(Dtype::kF32, Dtype::kF16, Dtype::kBF16);
inline std::string type_of_case(const ::testing::TestParamInfo<Dtype>& info) {
  return std::string(name_of(info.param));
}

}  // namespace mantissa
