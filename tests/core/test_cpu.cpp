// The ground of the CPU backend: its memory, and the vector functions every kernel is made of (accuracy, ends
// of rows, equal bits on every instruction set).
#define HWY_TARGET_INCLUDE "tests/core/test_cpu.cpp"
#include "core/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

void exp_all(float* out, const float* in, int64_t n) {
  transform(n, [](Vec x) HWY_ATTR { return exp(x); }, out, in);
}
void log_all(float* out, const float* in, int64_t n) {
  transform(n, [](Vec x) HWY_ATTR { return log(x); }, out, in);
}
/// sum, sum of squares, largest element, dot with itself reversed in type, exp and log of one number.
void reduce_all(float* out, const float* in, const Half* halves, int64_t n) {
  out[0] = sum(in, n);
  out[1] = sum_squares(halves, n);
  out[2] = max_element(in, n);
  out[3] = dot(in, halves, n);
  out[4] = exp(in[0]);
  out[5] = log(in[0]);
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <gtest/gtest.h>

#include "core/backend.h"
#include "core/random.h"
#include "core/registry.h"
#include "tests/support/simd_levels.h"

namespace mantissa::cpu_kernels {

HWY_EXPORT(exp_all);
HWY_EXPORT(log_all);
HWY_EXPORT(reduce_all);

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// Distance of `got` from the true value in units of the last place of the true value.
double ulps(float got, double want) {
  const float nearest = float(want);
  if (std::isinf(nearest) || std::isinf(got)) return got == nearest ? 0 : HUGE_VAL;
  int exponent;
  std::frexp(nearest, &exponent);
  return std::abs(double(got) - want) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

std::vector<float> floats_with(auto&& accept) {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32); bits += 9973)
    if (const float x = std::bit_cast<float>(uint32_t(bits)); accept(x)) values.push_back(x);
  return values;
}

TEST(Simd, ExpWithinTwoUlpsAndTheSameEverywhere) {
  const std::vector<float> x = floats_with([](float v) { return v > -104.5f && v < 89.0f; });
  std::vector<float> first;
  const SimdLevels levels;
  for (const char* level : levels) {
    limit_simd(level);
    std::vector<float> y(x.size());
    HWY_DYNAMIC_DISPATCH(exp_all)(y.data(), x.data(), int64_t(x.size()));
    for (size_t i = 0; i < x.size(); ++i) ASSERT_LE(ulps(y[i], std::exp(double(x[i]))), 2.0) << level << ' ' << x[i];
    if (first.empty()) first = y;
    ASSERT_EQ(y, first) << level;
    const float ends[] = {0.0f, -0.0f, -104.0f, -1e30f, -kInf, 88.8f, 1e30f, kInf, std::nanf("")};
    float got[9];
    HWY_DYNAMIC_DISPATCH(exp_all)(got, ends, 9);
    EXPECT_EQ(got[0], 1.0f);
    EXPECT_EQ(got[1], 1.0f);
    for (int i : {2, 3, 4}) EXPECT_EQ(got[i], 0.0f) << level << ' ' << ends[i];
    for (int i : {5, 6, 7}) EXPECT_EQ(got[i], kInf) << level << ' ' << ends[i];
    EXPECT_TRUE(std::isnan(got[8]));
  }
}

TEST(Simd, LogWithinTwoUlpsAndTheSameEverywhere) {
  std::vector<float> x = floats_with([](float v) { return v > 0 && v < kInf; });
  for (uint32_t i = 0; i < 40000; ++i) x.push_back(std::bit_cast<float>(0x3f800000u - 20000 + i));  // near 1
  std::vector<float> first;
  const SimdLevels levels;
  for (const char* level : levels) {
    limit_simd(level);
    std::vector<float> y(x.size());
    HWY_DYNAMIC_DISPATCH(log_all)(y.data(), x.data(), int64_t(x.size()));
    for (size_t i = 0; i < x.size(); ++i) ASSERT_LE(ulps(y[i], std::log(double(x[i]))), 2.0) << level << ' ' << x[i];
    if (first.empty()) first = y;
    ASSERT_EQ(y, first) << level;
    const float ends[] = {1.0f, 0.0f, -0.0f, kInf, -1.0f, -kInf, std::nanf("")};
    float got[7];
    HWY_DYNAMIC_DISPATCH(log_all)(got, ends, 7);
    EXPECT_EQ(got[0], 0.0f);
    EXPECT_EQ(got[1], -kInf);
    EXPECT_EQ(got[2], -kInf);
    EXPECT_EQ(got[3], kInf);
    for (int i : {4, 5, 6}) EXPECT_TRUE(std::isnan(got[i])) << level << ' ' << ends[i];
  }
}

TEST(Simd, ReductionsOfEveryLengthAgreeEverywhere) {
  RandomStream random(1, 1);
  const SimdLevels levels;
  for (int64_t n = 1; n < 300; n += n < 150 ? 1 : 37) {
    std::vector<float> x(size_t(n), 0.0f);
    std::vector<Half> h(x.size());
    double sum = 0, squares = 0, dot = 0;
    float largest = -kInf;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = 0.1f + random.uniform();
      h[i] = half_from_float(random.uniform());
      sum += x[i], squares += double(to_float(h[i])) * to_float(h[i]), dot += double(x[i]) * to_float(h[i]);
      largest = std::max(largest, x[i]);
    }
    std::vector<float> first;
    for (const char* level : levels) {
      limit_simd(level);
      std::vector<float> got(6);
      HWY_DYNAMIC_DISPATCH(reduce_all)(got.data(), x.data(), h.data(), n);
      EXPECT_NEAR(got[0], sum, 1e-6 * sum);
      EXPECT_NEAR(got[1], squares, 1e-6 * squares);
      EXPECT_EQ(got[2], largest);
      EXPECT_NEAR(got[3], dot, 1e-6 * dot);
      if (first.empty()) first = got;
      ASSERT_EQ(got, first) << level << " length " << n;
    }
  }
}

TEST(CpuMemory, AlignedCountedAndReused) {
  const size_t before = cpu().memory().in_use;
  const void* address = nullptr;
  for (size_t bytes : {size_t(0), size_t(1), size_t(257), size_t(100000), size_t(5) << 20}) {
    {
      const auto block = cpu().allocate(bytes);
      address = block->data;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % 256, 0u);
      EXPECT_GE(block->bytes, bytes);
      const size_t taken = cpu().memory().in_use - before;
      EXPECT_GE(taken, bytes);
      EXPECT_LE(taken, bytes + bytes / 8 + 256);
      std::memset(block->data, 1, bytes);
    }
    EXPECT_EQ(cpu().memory().in_use, before);
    EXPECT_EQ(cpu().allocate(bytes)->data, address) << bytes;  // the block just freed
  }
}

TEST(CpuMemory, PeakIsTheHighestSinceReset) {
  cpu().reset_peak();
  const size_t start = cpu().memory().peak;
  EXPECT_EQ(start, cpu().memory().in_use);
  { const auto a = cpu().allocate(1 << 20), b = cpu().allocate(1 << 20); }
  EXPECT_EQ(cpu().memory().peak - start, size_t(2) << 20);
  cpu().reset_peak();
  EXPECT_EQ(cpu().memory().peak, cpu().memory().in_use);
}

TEST(CpuMemory, RefusesWhatTheMachineDoesNotHave) {
  for (size_t bytes : {size_t(1) << 50, ~size_t(0)}) {
    try {
      cpu().allocate(bytes);
      FAIL() << bytes;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(str(bytes)), std::string::npos) << error.what();
    }
  }
}

TEST(CpuBackend, DescribesItself) {
  const SimdLevels levels;
  limit_simd("scalar");
  EXPECT_NE(cpu().description().find("scalar"), std::string::npos);
}

}  // namespace
}  // namespace mantissa::cpu_kernels
#endif
