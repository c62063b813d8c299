// Element types: the scalar conversions against arithmetic that cannot be wrong, and the vector ones (the
// cast kernel, on every instruction set) against the scalar ones, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/kernels.h"
#include "core/random.h"
#include "core/registry.h"
#include "tests/support/simd_levels.h"

namespace mantissa {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// The value of a 16-bit pattern by its definition.
double value_of(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}
double value_of(Half h) {
  return value_of(h.bits, 5, 10);
}
double value_of(BFloat16 b) {
  return value_of(b.bits, 8, 7);
}

template <class T>
class SixteenBits : public testing::Test {};
using SixteenBitTypes = testing::Types<Half, BFloat16>;
TYPED_TEST_SUITE(SixteenBits, SixteenBitTypes);

TYPED_TEST(SixteenBits, EveryPatternWidensExactlyAndComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const TypeParam x{uint16_t(bits)};
    const double want = value_of(x);
    const float got = to_float(x);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got)) << std::hex << bits;
      ASSERT_TRUE(std::isnan(value_of(round_to<TypeParam>(got)))) << std::hex << bits;
    } else {
      ASSERT_EQ(double(got), want) << std::hex << bits;
      ASSERT_EQ(round_to<TypeParam>(got).bits, bits);  // the sign of zero too
    }
  }
}

// Between two neighbours: below the middle down, above it up, the middle to the even one; past the largest to
// infinity.
TYPED_TEST(SixteenBits, RoundsToNearestEven) {
  for (uint32_t bits = 0; std::isfinite(value_of(TypeParam{uint16_t(bits)})); ++bits) {
    const TypeParam low{uint16_t(bits)}, high{uint16_t(bits + 1)};
    const double below = value_of(low);
    const double step = below - value_of(TypeParam{uint16_t(bits ? bits - 1 : 0)});
    double above = value_of(high);
    if (std::isinf(above)) above = below + step;  // where the next number would stand
    const float middle = float((below + above) / 2);
    ASSERT_EQ(round_to<TypeParam>(middle).bits, bits + (bits & 1)) << middle;
    ASSERT_EQ(round_to<TypeParam>(std::nextafter(middle, 0.0f)).bits, bits) << middle;
    ASSERT_EQ(round_to<TypeParam>(std::nextafter(middle, kInf)).bits, bits + 1) << middle;
    ASSERT_EQ(round_to<TypeParam>(-middle).bits, 0x8000u | (bits + (bits & 1)));
  }
}

TEST(Dtype, NamedNumbers) {
  EXPECT_EQ(half_from_float(65504.0f).bits, 0x7bff);
  EXPECT_EQ(half_from_float(65519.996f).bits, 0x7bff);
  EXPECT_EQ(half_from_float(65520.0f).bits, 0x7c00);
  EXPECT_EQ(half_from_float(-kInf).bits, 0xfc00);
  EXPECT_EQ(half_from_float(0x1p-24f).bits, 1);
  EXPECT_EQ(half_from_float(0x1p-25f).bits, 0);  // a tie, to even
  EXPECT_EQ(half_from_float(-0.0f).bits, 0x8000);
  EXPECT_EQ(bfloat16_from_float(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(bfloat16_from_float(0x1.01p0f).bits, 0x3f80);
  EXPECT_EQ(bfloat16_from_float(0x1.03p0f).bits, 0x3f82);
}

TEST(Dtype, Names) {
  EXPECT_EQ(name_of(Dtype::kBF16), "bf16");
  EXPECT_EQ(parse_precision("fp16"), Dtype::kF16);
  EXPECT_THROW(parse_precision("fp64"), Error);
  EXPECT_THROW(parse_precision("half"), Error);
}

Tensor cast_to(Dtype type, const Tensor& in) {
  Exec exec(cpu());
  Tensor out = exec.empty(in.shape(), type);
  MANTISSA_RUN(exec, cast, out, in);
  return out;
}

TYPED_TEST(SixteenBits, CastWidensEveryPatternLikeTheScalar) {
  std::vector<TypeParam> all(0x10000);
  for (uint32_t i = 0; i < all.size(); ++i) all[i].bits = uint16_t(i);
  const Tensor in = tensor_from<TypeParam>(cpu(), all, {int64_t(all.size())});
  const SimdLevels levels;
  for (const char* level : levels) {
    limit_simd(level);
    const std::vector<float> wide = to_host<float>(cast_to(Dtype::kF32, in));
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(to_float(all[i]))) << level << ' ' << i;
  }
}

/// Floats that matter: around every 16-bit value and every middle, specials, and random bits; an odd count.
std::vector<float> hard_floats() {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x10000; high += 3)
    for (uint32_t low : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x2000u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      values.push_back(std::bit_cast<float>(high << 16 | low));
  RandomStream random(1, 2);
  for (int i = 0; i < 200000; ++i) values.push_back(std::bit_cast<float>(random.next()));
  for (int i = 0; i < 100000; ++i)  // where half is subnormal
    values.push_back(std::bit_cast<float>(0x32000000u + random.below(0x07000000u)));
  for (float x : {0.0f, -0.0f, kInf, -kInf, 65519.996f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1p-149f})
    values.push_back(x);
  values.push_back(std::bit_cast<float>(0x7f800001u));  // a signalling NaN
  if (values.size() % 2 == 0) values.push_back(1.0f);
  return values;
}

TYPED_TEST(SixteenBits, CastRoundsLikeTheScalar) {
  const std::vector<float> values = hard_floats();
  const Tensor in = tensor_from<float>(cpu(), values, {int64_t(values.size())});
  const SimdLevels levels;
  for (const char* level : levels) {
    limit_simd(level);
    const auto got = to_host<TypeParam>(cast_to(dtype_of<TypeParam>(), in));
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(got[i].bits, round_to<TypeParam>(values[i]).bits) << level << ' ' << std::hexfloat << values[i];
  }
}

TYPED_TEST(SixteenBits, CastTouchesNothingPastItsEnd) {
  const SimdLevels levels;
  for (const char* level : levels) {
    limit_simd(level);
    for (int64_t n = 1; n < 40; ++n) {
      const std::vector<TypeParam> marks(48, TypeParam{0x1234});
      const Tensor out = tensor_from<TypeParam>(cpu(), marks, {48});
      const std::vector<float> ones(size_t(n), 1.0f);
      Tensor part = out.slice(0, n);
      Exec exec(cpu());
      MANTISSA_RUN(exec, cast, part, tensor_from<float>(cpu(), ones, {n}));
      const auto got = to_host<TypeParam>(out);
      for (int64_t i = 0; i < 48; ++i) ASSERT_EQ(got[size_t(i)].bits, i < n ? round_to<TypeParam>(1.0f).bits : 0x1234);
    }
  }
}

// A double just off the middle of two neighbours must not be rounded to the middle first.
TYPED_TEST(SixteenBits, CastFromDoubleRoundsOnce) {
  const double step =
      value_of(round_to<TypeParam>(1.0f)) - value_of(TypeParam{uint16_t(round_to<TypeParam>(1.0f).bits - 1)});
  const double middle = 1.0 + step;  // steps double at 1: the middle of 1 and its upper neighbour
  const std::vector<double> values = {middle, middle + 1e-12, middle - 1e-12, -middle - 1e-12,
                                      1e300,  -0.0,           std::nan("")};
  const auto got = to_host<TypeParam>(cast_to(dtype_of<TypeParam>(), tensor_from<double>(cpu(), values, {7})));
  const uint16_t one = round_to<TypeParam>(1.0f).bits;
  EXPECT_EQ(got[0].bits, one);
  EXPECT_EQ(got[1].bits, one + 1);
  EXPECT_EQ(got[2].bits, one);
  EXPECT_EQ(got[3].bits, 0x8000 | (one + 1));
  EXPECT_EQ(to_float(got[4]), kInf);
  EXPECT_EQ(got[5].bits, 0x8000);
  EXPECT_TRUE(std::isnan(to_float(got[6])));
}

TEST(Dtype, CastBetweenTheOthers) {
  const std::vector<double> values = {1.0 / 3, -1e-40, 1e300};
  const Tensor f64 = tensor_from<double>(cpu(), values, {3});
  const auto f32 = to_host<float>(cast_to(Dtype::kF32, f64));
  EXPECT_EQ(f32, (std::vector<float>{1.0f / 3, -1e-40f, kInf}));
  EXPECT_EQ(to_host<double>(cast_to(Dtype::kF64, cast_to(Dtype::kF16, f64)))[0], 0x1.554p-2);
  EXPECT_EQ(to_host<BFloat16>(cast_to(Dtype::kBF16, cast_to(Dtype::kF16, f64)))[0].bits, 0x3eab);
}

TEST(Simd, UnknownLevelIsRefused) {
  const SimdLevels levels;
  EXPECT_THROW(limit_simd("avx1024"), Error);
}

}  // namespace
}  // namespace mantissa
