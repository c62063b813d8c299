// cast: any floating type to any other, one rounding.
#define HWY_TARGET_INCLUDE "core/cpu/cast.cpp"
#include "core/cpu/simd-inl.h"

#include "core/cpu/kernels.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

/// The float from which rounding to 16 bits gives what rounding the double would: truncated, then the last bit set when
/// inexact (round to odd).
inline float odd_float(double value) {
  const float nearest = float(value);
  if (std::isnan(value) || double(nearest) == value) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::abs(double(nearest)) > std::abs(value)) --bits;
  return std::bit_cast<float>(bits | 1u);
}

template <class To, class From>
void cast_range(To* out, const From* in, int64_t n) {
  if constexpr (std::is_same_v<From, double>) {
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (sizeof(To) == 2)
        out[i] = round_to<To>(odd_float(in[i]));
      else
        out[i] = To(in[i]);
    }
  } else if constexpr (std::is_same_v<To, double>) {
    for (int64_t i = 0; i < n; ++i) out[i] = to_float(in[i]);
  } else {
    transform(n, [](Vec v) HWY_ATTR { return v; }, out, in);
  }
}

void cast(Exec&, Tensor& out, const Tensor& in) {
  dispatch_floating(out.dtype(), [&](auto to) HWY_ATTR {
    dispatch_floating(in.dtype(), [&](auto from) HWY_ATTR {
      auto* target = out.data<typename decltype(to)::type>();
      const auto* source = in.data<typename decltype(from)::type>();
      parallel_for(in.numel(), 16384, [&](int64_t begin, int64_t end) HWY_ATTR {
        cast_range(target + begin, source + begin, end - begin);
      });
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {

HWY_EXPORT(cast);

void register_cast(Kernels& table) {
  MANTISSA_ENTER(table.cast, cast);
}

}  // namespace mantissa::cpu_kernels
#endif
