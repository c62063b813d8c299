// Element types. Half and BFloat16 are storage types: arithmetic happens in float after to_float(), and the only way
// back is a from_float that rounds to nearest even, overflows to infinity and keeps subnormals (IEEE 754). These scalar
// conversions are the specification of every vectorised one.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "core/error.h"

namespace mantissa {

enum class Dtype : uint8_t { kF32, kF16, kBF16, kF64, kI32, kU8 };

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float to_float(Half h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16;
  const uint32_t exponent = (h.bits >> 10) & 0x1fu;
  const uint32_t mantissa = h.bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float
    const float magnitude = float(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) {  // infinity or NaN (made quiet, as F16C does)
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

inline float to_float(BFloat16 b) {
  return std::bit_cast<float>(uint32_t(b.bits) << 16);
}
inline float to_float(float f) {
  return f;
}
inline double to_float(double d) {
  return d;
}

inline Half half_from_float(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  const uint16_t sign = uint16_t((x >> 16) & 0x8000u);
  const uint32_t magnitude = x & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu))};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, the unit is 2^-24; float addition does the rounding
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13))};
}

inline BFloat16 bfloat16_from_float(float f) {
  const uint32_t x = std::bit_cast<uint32_t>(f);
  if ((x & 0x7fffffffu) > 0x7f800000u) return {uint16_t((x >> 16) | 0x40u)};
  return {uint16_t((x + 0x7fffu + ((x >> 16) & 1u)) >> 16)};
}

/// Rounds a computed value once into the storage type T.
template <class T>
T round_to(double value);  // only for T = double
template <>
inline double round_to<double>(double value) {
  return value;
}
template <class T>
T round_to(float value) {
  if constexpr (std::is_same_v<T, Half>)
    return half_from_float(value);
  else if constexpr (std::is_same_v<T, BFloat16>)
    return bfloat16_from_float(value);
  else
    return T(value);
}

/// The type a kernel computes in for storage type T: double for double, float for everything else.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// The same as a Dtype: fp64 for fp64, fp32 for everything else. Statistics and parameter gradients have it.
constexpr Dtype accumulator_of(Dtype d) {
  return d == Dtype::kF64 ? Dtype::kF64 : Dtype::kF32;
}

template <class T>
struct TypeTag {
  using type = T;
};

template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return Dtype::kF32;
  else if constexpr (std::is_same_v<T, Half>)
    return Dtype::kF16;
  else if constexpr (std::is_same_v<T, BFloat16>)
    return Dtype::kBF16;
  else if constexpr (std::is_same_v<T, double>)
    return Dtype::kF64;
  else if constexpr (std::is_same_v<T, uint8_t>)
    return Dtype::kU8;
  else {
    static_assert(std::is_same_v<T, int32_t>, "no Dtype for this C++ type");
    return Dtype::kI32;
  }
}

constexpr size_t size_of(Dtype d) {
  switch (d) {
    case Dtype::kF32:
      return 4;
    case Dtype::kF16:
      return 2;
    case Dtype::kBF16:
      return 2;
    case Dtype::kF64:
      return 8;
    case Dtype::kI32:
      return 4;
    case Dtype::kU8:
      return 1;
  }
  return 0;
}

constexpr bool is_floating(Dtype d) {
  return d != Dtype::kI32 && d != Dtype::kU8;
}
constexpr bool is_16bit(Dtype d) {
  return d == Dtype::kF16 || d == Dtype::kBF16;
}

/// "fp32", "fp16", "bf16", "fp64", "int32".
std::string_view name_of(Dtype d);
/// The inverse of name_of for the three types a user may ask for (fp32, fp16, bf16); throws on another name.
Dtype parse_precision(std::string_view name);

/// Calls f(TypeTag<T>{}) for the floating type behind d: dispatch_floating(x.dtype(), [&](auto tag) { ... }).
template <class F>
decltype(auto) dispatch_floating(Dtype d, F&& f) {
  switch (d) {
    case Dtype::kF32:
      return f(TypeTag<float>{});
    case Dtype::kF16:
      return f(TypeTag<Half>{});
    case Dtype::kBF16:
      return f(TypeTag<BFloat16>{});
    case Dtype::kF64:
      return f(TypeTag<double>{});
    default:
      fail("expected a floating type, got ", name_of(d));
  }
}

}  // namespace mantissa
