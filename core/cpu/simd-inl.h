// Vector code of the CPU kernels, written once and compiled for AVX-512, AVX2 (with FMA and F16C) and plain scalar; the
// best one the machine has is chosen when the program runs (Highway's dynamic dispatch).
//
// The one idea: a Vec is 16 floats on every target (one AVX-512 register, two AVX2 registers, sixteen scalars). A
// kernel that is written in Vecs performs the same fp32 operations in the same order everywhere, so all targets give
// the same bits; reductions use 4 Vecs of partial sums and one fixed tree. Multiply-add is fused on every target.
//
// How a kernel file looks (lambdas need HWY_ATTR: in clang a lambda does not inherit its function's target):
//
//   #define HWY_TARGET_INCLUDE "core/cpu/norm.cpp"  // this file, which is compiled once per target
//   #include "core/cpu/simd-inl.h"                  // before any code
//
//   #include "core/cpu/kernels.h"
//   #include "core/parallel.h"
//   HWY_BEFORE_NAMESPACE();
//   namespace mantissa::cpu_kernels {
//   namespace HWY_NAMESPACE {
//
//   template <class T>  // float, Half, BFloat16
//   void scale_row(T* out, const T* x, int64_t n, float factor) {
//     const Vec f = set(factor);
//     transform(n, [&](Vec v) HWY_ATTR { return v * f; }, out, x);  // fp32 inside, one rounding, any n
//   }
//
//   void scale(Exec&, Tensor& out, const Tensor& in, double factor) {  // one plain function per kernel
//     dispatch_floating(in.dtype(), [&](auto tag) HWY_ATTR {
//       using T = typename decltype(tag)::type;
//       if constexpr (std::is_same_v<T, double>) ...  // a plain loop
//       else parallel_for(rows, grain, [&](int64_t begin, int64_t end) HWY_ATTR { ... scale_row<T>(...) });
//     });
//   }
//
//   }  // namespace HWY_NAMESPACE
//   }  // namespace mantissa::cpu_kernels
//   HWY_AFTER_NAMESPACE();
//
//   #if HWY_ONCE
//   namespace mantissa::cpu_kernels {
//   HWY_EXPORT(scale);
//   void register_norm(Kernels& table) { MANTISSA_ENTER(table.scale, scale); }
//   }  // namespace mantissa::cpu_kernels
//   #endif
//
// Everything between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE must live in HWY_NAMESPACE (it exists per target);
// what is free of vectors belongs in the `#if HWY_ONCE` part or in an ordinary header.

// Only these targets (SCALAR also where Highway would take its 128-bit emulation): less to compile, all of them tested.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (~(HWY_AVX3 | HWY_AVX2 | HWY_NEON | HWY_SCALAR))
#define HWY_BROKEN_EMU128 1
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "core/dtype.h"
#include "hwy/foreach_target.h"
// After foreach_target, which sets the target:
#include "hwy/highway.h"

#ifndef MANTISSA_ENTER
namespace mantissa::cpu_kernels {
template <class Choose, class... Args>
void enter(void (*&entry)(Args...), Choose) {
  entry = [](Args... args) { Choose()()(std::forward<Args>(args)...); };
}
}  // namespace mantissa::cpu_kernels
/// Fills a kernel's table entry with the exported function of the target chosen when it is called.
#define MANTISSA_ENTER(entry, function) \
  ::mantissa::cpu_kernels::enter(entry, [] { return &HWY_DYNAMIC_DISPATCH(function); })
#endif

#if defined(MANTISSA_CORE_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MANTISSA_CORE_CPU_SIMD_INL_H_
#undef MANTISSA_CORE_CPU_SIMD_INL_H_
#else
#define MANTISSA_CORE_CPU_SIMD_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int kLanes = 16;
using PartTag = hn::CappedTag<float, kLanes>;
using BitsTag = hn::RebindToSigned<PartTag>;
using Part = hn::Vec<PartTag>;  // what one register holds
inline constexpr int kPartLanes = int(hn::MaxLanes(PartTag()));
inline constexpr int kParts = kLanes / kPartLanes;

/// 16 floats: lane i is lane i % kPartLanes of part[i / kPartLanes].
struct Vec {
  Part part[kParts];
};
/// 16 truth values.
struct Mask {
  hn::Mask<PartTag> part[kParts];
};

template <class R = Vec, class F, size_t... I>
HWY_INLINE R each(F f, std::index_sequence<I...>) {
  return R{{f(I)...}};
}
/// The Vec (or Mask) whose part i is f(i).
template <class R = Vec, class F>
HWY_INLINE R each(F f) {
  return each<R>(f, std::make_index_sequence<kParts>());
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

HWY_INLINE Part fused(Part a, Part b, Part c) {  // a * b + c with one rounding
#if HWY_TARGET == HWY_SCALAR
  return Part(std::fma(a.raw, b.raw, c.raw));
#else
  return hn::MulAdd(a, b, c);
#endif
}
/// The same with a constant factor, a constant summand, or both.
HWY_INLINE Part fused(Part a, Part b, float c) {
  return fused(a, b, hn::Set(PartTag(), c));
}
HWY_INLINE Part fused(Part a, float b, Part c) {
  return fused(a, hn::Set(PartTag(), b), c);
}
HWY_INLINE Part fused(Part a, float b, float c) {
  return fused(a, b, hn::Set(PartTag(), c));
}

HWY_INLINE Vec set(float x) {
  return each([&](size_t) HWY_ATTR { return hn::Set(PartTag(), x); });
}
HWY_INLINE Vec zero() {
  return set(0.0f);
}
HWY_INLINE Vec operator+(Vec a, Vec b) {
  return each([&](size_t i) HWY_ATTR { return hn::Add(a.part[i], b.part[i]); });
}
HWY_INLINE Vec operator-(Vec a, Vec b) {
  return each([&](size_t i) HWY_ATTR { return hn::Sub(a.part[i], b.part[i]); });
}
HWY_INLINE Vec operator-(Vec a) {
  return each([&](size_t i) HWY_ATTR { return hn::Neg(a.part[i]); });
}
HWY_INLINE Vec operator*(Vec a, Vec b) {
  return each([&](size_t i) HWY_ATTR { return hn::Mul(a.part[i], b.part[i]); });
}
HWY_INLINE Vec operator/(Vec a, Vec b) {
  return each([&](size_t i) HWY_ATTR { return hn::Div(a.part[i], b.part[i]); });
}
/// a * b + c with one rounding.
HWY_INLINE Vec fma(Vec a, Vec b, Vec c) {
  return each([&](size_t i) HWY_ATTR { return fused(a.part[i], b.part[i], c.part[i]); });
}
HWY_INLINE Vec abs(Vec a) {
  return each([&](size_t i) HWY_ATTR { return hn::Abs(a.part[i]); });
}
HWY_INLINE Vec sqrt(Vec a) {
  return each([&](size_t i) HWY_ATTR { return hn::Sqrt(a.part[i]); });
}

HWY_INLINE Mask operator<(Vec a, Vec b) {
  return each<Mask>([&](size_t i) HWY_ATTR { return hn::Lt(a.part[i], b.part[i]); });
}
HWY_INLINE Mask operator>(Vec a, Vec b) {
  return b < a;
}
HWY_INLINE Mask operator<=(Vec a, Vec b) {
  return each<Mask>([&](size_t i) HWY_ATTR { return hn::Le(a.part[i], b.part[i]); });
}
HWY_INLINE Mask operator>=(Vec a, Vec b) {
  return b <= a;
}
HWY_INLINE Mask operator==(Vec a, Vec b) {
  return each<Mask>([&](size_t i) HWY_ATTR { return hn::Eq(a.part[i], b.part[i]); });
}
HWY_INLINE Mask operator&(Mask a, Mask b) {
  return each<Mask>([&](size_t i) HWY_ATTR { return hn::And(a.part[i], b.part[i]); });
}
HWY_INLINE Mask operator!(Mask a) {
  return each<Mask>([&](size_t i) HWY_ATTR { return hn::Not(a.part[i]); });
}
HWY_INLINE bool any(Mask m) {
  bool found = false;
  for (int i = 0; i < kParts; ++i) found |= !hn::AllFalse(PartTag(), m.part[i]);
  return found;
}
/// Lanes [0, n) true; any n.
HWY_INLINE Mask first_n(int64_t n) {
  return each<Mask>([&](size_t i) HWY_ATTR {
    const int64_t here = n - int64_t(i) * kPartLanes;
    return hn::FirstN(PartTag(), size_t(here < 0 ? 0 : here < kPartLanes ? here : kPartLanes));
  });
}
/// mask ? a : b.
HWY_INLINE Vec select(Mask mask, Vec a, Vec b) {
  return each([&](size_t i) HWY_ATTR { return hn::IfThenElse(mask.part[i], a.part[i], b.part[i]); });
}
/// a > b ? a : b and a < b ? a : b, so b when either is NaN: a running value in b ignores NaN, one in a takes it.
HWY_INLINE Vec max(Vec a, Vec b) {
  return select(a > b, a, b);
}
HWY_INLINE Vec min(Vec a, Vec b) {
  return select(a < b, a, b);
}

// ---- load and store: bits of to_float and round_to (core/dtype.h) ---------------------------------------------------

#if HWY_TARGET == HWY_SCALAR
template <class T>
HWY_INLINE Part load_part(const T* p) {
  return Part(to_float(*p));
}
template <class T>
HWY_INLINE void store_part(T* p, Part v) {
  *p = round_to<T>(v.raw);
}
#else
HWY_INLINE Part load_part(const float* p) {
  return hn::LoadU(PartTag(), p);
}
HWY_INLINE Part load_part(const Half* p) {
  const hn::Rebind<hwy::float16_t, PartTag> d;
  return hn::PromoteTo(PartTag(), hn::LoadU(d, reinterpret_cast<const hwy::float16_t*>(p)));
}
HWY_INLINE Part load_part(const BFloat16* p) {
  const hn::Rebind<uint16_t, PartTag> d;
  const auto wide = hn::PromoteTo(BitsTag(), hn::LoadU(d, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(PartTag(), hn::ShiftLeft<16>(wide));
}
HWY_INLINE void store_part(float* p, Part v) {
  hn::StoreU(v, PartTag(), p);
}
HWY_INLINE void store_part(Half* p, Part v) {
  const hn::Rebind<hwy::float16_t, PartTag> d;  // F16C rounds to nearest even and keeps subnormals
  hn::StoreU(hn::DemoteTo(d, v), d, reinterpret_cast<hwy::float16_t*>(p));
}
HWY_INLINE void store_part(BFloat16* p, Part v) {
  const hn::RebindToUnsigned<PartTag> du;
  const hn::Rebind<uint16_t, PartTag> d;
  const auto x = hn::BitCast(du, v);
  const auto high = hn::ShiftRight<16>(x);
  const auto nearest = hn::ShiftRight<16>(hn::Add(x, hn::Add(hn::And(high, hn::Set(du, 1u)), hn::Set(du, 0x7fffu))));
  const auto quiet = hn::Or(high, hn::Set(du, 0x40u));
  const auto bits = hn::IfThenElse(hn::RebindMask(du, hn::Eq(v, v)), nearest, quiet);
  hn::StoreU(hn::DemoteTo(d, hn::BitCast(BitsTag(), bits)), d, reinterpret_cast<uint16_t*>(p));
}
#endif

/// 16 elements, widened. T: float, Half, BFloat16; any alignment.
template <class T>
HWY_INLINE Vec load(const T* p) {
  return each([&](size_t i) HWY_ATTR { return load_part(p + i * kPartLanes); });
}
/// 16 elements, rounded once.
template <class T>
HWY_INLINE void store(T* p, Vec v) {
  for (int i = 0; i < kParts; ++i) store_part(p + i * kPartLanes, v.part[i]);
}
/// The first n (0..16) elements, the other lanes zero; touches no memory past them.
template <class T>
HWY_INLINE Vec load_n(const T* p, int64_t n) {
#if HWY_TARGET == HWY_AVX3
  if constexpr (std::is_same_v<T, float>) return {{hn::MaskedLoad(hn::FirstN(PartTag(), size_t(n)), PartTag(), p)}};
#endif
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, size_t(n) * sizeof(T));
  return load(buffer);
}
/// Stores the first n (0..16) lanes, rounded once.
template <class T>
HWY_INLINE void store_n(T* p, Vec v, int64_t n) {
#if HWY_TARGET == HWY_AVX3
  if constexpr (std::is_same_v<T, float>)
    return hn::BlendedStore(v.part[0], hn::FirstN(PartTag(), size_t(n)), PartTag(), p);
#endif
  T buffer[kLanes];
  store(buffer, v);
  std::memcpy(p, buffer, size_t(n) * sizeof(T));
}

// ---- exp and log ----------------------------------------------------------------------------------------------------

HWY_INLINE Part exp_part(Part given) {
  const PartTag d;
  const BitsTag di;
  // Beyond +-104 the result is 0 or infinity in fp32 anyway; NaN becomes -104 here and NaN again at the end.
  Part x = hn::IfThenElse(hn::Gt(given, hn::Set(d, -104.0f)), given, hn::Set(d, -104.0f));
  x = hn::IfThenElse(hn::Lt(x, hn::Set(d, 104.0f)), x, hn::Set(d, 104.0f));
  // x = n ln2 + r, |r| <= ln2 / 2. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Part magic = hn::Set(d, 0x1.8p23f);
  const Part shifted = fused(x, 1.44269504088896341f, magic);
  const Part n = hn::Sub(shifted, magic);
  Part r = fused(n, -0.693145751953125f, x);
  r = fused(n, -1.42860677e-6f, r);
  Part p = fused(r, 0.000198527617f, 0.00139304355f);
  p = fused(p, r, 0.00833336077f);
  p = fused(p, r, 0.0416664853f);
  p = fused(p, r, 0.166666672f);
  p = fused(p, r, 0.5f);
  p = hn::Add(fused(hn::Mul(r, r), p, r), hn::Set(d, 1.0f));
  // 2^n in two factors, so that subnormal results round once and 2^128 does not overflow early.
  const auto k = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, magic));
  const auto k1 = hn::ShiftRight<1>(k);
  const auto bias = hn::Set(di, 127);
  const Part scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(k1, bias)));
  const Part scale2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(k, k1), bias)));
  const Part result = hn::Mul(hn::Mul(p, scale1), scale2);
  return hn::IfThenElse(hn::Eq(given, given), result, given);
}

HWY_INLINE Part log_part(Part given) {
  const PartTag d;
  const BitsTag di;
  const auto tiny =
      hn::Lt(given, hn::Set(d, 0x1p-126f));  // subnormals are scaled up; zero and below are fixed at the end
  const Part x = hn::IfThenElse(tiny, hn::Mul(given, hn::Set(d, 0x1p25f)), given);
  // x = 2^k (1 + f), 1 + f in [sqrt(1/2), sqrt(2)); then fdlibm's log(1 + f).
  const auto shifted = hn::Add(hn::BitCast(di, x), hn::Set(di, 0x3f800000 - 0x3f3504f3));
  const Part one_f = hn::BitCast(d, hn::Add(hn::And(shifted, hn::Set(di, 0x7fffff)), hn::Set(di, 0x3f3504f3)));
  Part k = hn::ConvertTo(d, hn::Sub(hn::ShiftRight<23>(shifted), hn::Set(di, 127)));
  k = hn::IfThenElse(tiny, hn::Sub(k, hn::Set(d, 25.0f)), k);
  const Part f = hn::Sub(one_f, hn::Set(d, 1.0f));
  const Part s = hn::Div(f, hn::Add(f, hn::Set(d, 2.0f)));
  const Part z = hn::Mul(s, s), w = hn::Mul(z, z);
  const Part even = hn::Mul(w, fused(w, 0.24279078841f, 0.40000972152f));
  const Part odd = hn::Mul(z, fused(w, 0.28498786688f, 0.66666662693f));
  const Part half_square = hn::Mul(hn::Mul(f, f), hn::Set(d, 0.5f));
  const Part tail = hn::Mul(s, hn::Add(half_square, hn::Add(odd, even)));
  Part result = hn::Add(hn::Sub(fused(k, 9.0580006145e-6f, tail), half_square), f);
  result = fused(k, 0.69313812256f, result);
  const Part infinity = hn::Set(d, std::numeric_limits<float>::infinity()), zero = hn::Zero(d);
  result = hn::IfThenElse(hn::Lt(given, infinity), result, given);  // +infinity and NaN stay
  result = hn::IfThenElse(hn::Lt(given, zero), hn::Set(d, std::numeric_limits<float>::quiet_NaN()), result);
  return hn::IfThenElse(hn::Eq(given, zero), hn::Neg(infinity), result);
}

/// Within 2 ulp; subnormal results kept, exactly 0 below -104, infinity on overflow, NaN stays NaN.
HWY_INLINE Vec exp(Vec x) {
  return each([&](size_t i) HWY_ATTR { return exp_part(x.part[i]); });
}
/// Natural logarithm within 2 ulp; log(0) = -infinity, NaN below.
HWY_INLINE Vec log(Vec x) {
  return each([&](size_t i) HWY_ATTR { return log_part(x.part[i]); });
}
/// The same bits for one number.
HWY_INLINE float exp(float x) {
  return hn::GetLane(exp_part(hn::Set(PartTag(), x)));
}
HWY_INLINE float log(float x) {
  return hn::GetLane(log_part(hn::Set(PartTag(), x)));
}

// ---- reductions -----------------------------------------------------------------------------------------------------

#if HWY_TARGET == HWY_SCALAR
template <class D, class V, class F>
HWY_INLINE float fold_part(D, V v, F) {
  return v.raw;
}
#else
template <class D, class V, class F>
HWY_INLINE float fold_part(D, V v, F op) {
  if constexpr (hn::MaxLanes(D()) == 1) {
    return hn::GetLane(v);
  } else {
    const hn::Half<D> half;
    return fold_part(half, op(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), op);
  }
}
#endif
/// Folds the 16 lanes with op on registers: lane i with lane i + 8, then + 4, + 2, + 1.
template <class F>
HWY_INLINE float fold(Vec v, F op) {
  for (int width = kParts / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v.part[i] = op(v.part[i], v.part[i + width]);
  return fold_part(PartTag(), v.part[0], op);
}
HWY_INLINE float sum_lanes(Vec v) {
  return fold(v, [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); });
}
HWY_INLINE float max_lanes(Vec v) {
  return fold(v, [](auto a, auto b) HWY_ATTR { return hn::IfThenElse(hn::Gt(a, b), a, b); });
}

/// The pattern behind every reduction: element i goes to lane i % 16 of accumulator (i / 16) % 4, all starting at
/// `start`, by acc = step(acc, in[i]...), lanes past n left alone; then merge(merge(acc0, acc1), merge(acc2, acc3)).
template <class Step, class Merge, class... In>
HWY_INLINE Vec reduce(int64_t n, Vec start, Step step, Merge merge, const In*... in) {
  Vec acc0 = start, acc1 = start, acc2 = start, acc3 = start;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    acc0 = step(acc0, load(in + i)...);
    acc1 = step(acc1, load(in + i + kLanes)...);
    acc2 = step(acc2, load(in + i + 2 * kLanes)...);
    acc3 = step(acc3, load(in + i + 3 * kLanes)...);
  }
  for (Vec* acc : {&acc0, &acc1, &acc2, &acc3}) {
    if (i + kLanes <= n) {
      *acc = step(*acc, load(in + i)...);
      i += kLanes;
    } else {
      if (i < n) *acc = select(first_n(n - i), step(*acc, load_n(in + i, n - i)...), *acc);
      break;
    }
  }
  return merge(merge(acc0, acc1), merge(acc2, acc3));
}
/// reduce, starting at 0 and merged by addition: sum_of(n, [](Vec acc, Vec x) HWY_ATTR { return acc + exp(x); }, x).
template <class Step, class... In>
HWY_INLINE float sum_of(int64_t n, Step step, const In*... in) {
  return sum_lanes(reduce(n, zero(), step, [](Vec a, Vec b) HWY_ATTR { return a + b; }, in...));
}
template <class T>
HWY_INLINE float sum(const T* x, int64_t n) {
  return sum_of(n, [](Vec acc, Vec v) HWY_ATTR { return acc + v; }, x);
}
template <class T>
HWY_INLINE float sum_squares(const T* x, int64_t n) {
  return sum_of(n, [](Vec acc, Vec v) HWY_ATTR { return fma(v, v, acc); }, x);
}
template <class T, class U>
HWY_INLINE float dot(const T* x, const U* y, int64_t n) {
  return sum_of(n, [](Vec acc, Vec a, Vec b) HWY_ATTR { return fma(a, b, acc); }, x, y);
}
/// Largest element, NaN ignored; -infinity when there is none.
template <class T>
HWY_INLINE float max_element(const T* x, int64_t n) {
  const auto larger = [](Vec acc, Vec v) HWY_ATTR { return max(v, acc); };
  return max_lanes(reduce(n, set(-std::numeric_limits<float>::infinity()), larger, larger, x));
}

/// out[i] = f(in[i]...) for i in [0, n), loaded as fp32 and rounded once into Out. out may be one of the inputs.
template <class F, class Out, class... In>
HWY_INLINE void transform(int64_t n, F f, Out* out, const In*... in) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(in + i)...));
  if (i < n) store_n(out + i, f(load_n(in + i, n - i)...), n - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#endif  // per target
