// What the row-wise CPU kernels share, above simd-inl.h: rows and tiles are widened into the compute type C (float, or
// double for fp64 tensors), worked on there, and rounded once on the way out. One generic lambda serves both: it sees
// Vecs of 16 floats or single doubles. Sums over rows run over blocks of kRowBlock rows in order.
#include <algorithm>
#include <cmath>

#include "core/cpu/simd-inl.h"
#include "core/kernels.h"
#include "core/parallel.h"

#if defined(MANTISSA_CORE_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MANTISSA_CORE_CPU_ROWS_INL_H_
#undef MANTISSA_CORE_CPU_ROWS_INL_H_
#else
#define MANTISSA_CORE_CPU_ROWS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

inline constexpr int64_t kTile = 2048;      // elements worked on at once by elementwise kernels and sums
inline constexpr int64_t kRowBlock = 64;    // rows summed by one partial sum of a reduction over rows
inline constexpr int64_t kGrain = 1 << 15;  // elements worth a thread

inline int64_t blocks_of(int64_t n, int64_t block) {
  return (n + block - 1) / block;
}
/// Rows of `width` elements worth a thread.
inline int64_t row_grain(int64_t width) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width));
}

// ---- doubles under the names of the Vec operations ------------------------------------------------------------------

inline double fma(double a, double b, double c) {
  return std::fma(a, b, c);
}
inline double select(bool mask, double a, double b) {
  return mask ? a : b;
}
inline double exp(double x) {
  return std::exp(x);
}
inline double log(double x) {
  return std::log(x);
}

/// The constant x as a V: in every lane of a Vec.
template <class V>
HWY_INLINE V splat(double x) {
  if constexpr (std::is_same_v<V, Vec>)
    return set(float(x));
  else
    return V(x);
}

template <class F, class... In>
void transform(int64_t n, F f, double* out, const In*... in) {
  for (int64_t i = 0; i < n; ++i) out[i] = f(in[i]...);
}
template <class Step, class... Rest>
double sum_of(int64_t n, Step step, const double* first, const Rest*... rest) {
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) total = step(total, first[i], rest[i]...);
  return total;
}
/// Largest term(x[i]), NaN ignored; -infinity when there is none.
template <class Term>
double max_of(int64_t n, Term term, const double* x) {
  double best = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) best = term(x[i]) > best ? term(x[i]) : best;
  return best;
}
template <class Term>
float max_of(int64_t n, Term term, const float* x) {
  const auto merge = [](Vec a, Vec b) HWY_ATTR { return max(a, b); };
  const auto step = [&](Vec acc, Vec v) HWY_ATTR { return max(term(v), acc); };
  return max_lanes(reduce(n, set(-std::numeric_limits<float>::infinity()), step, merge, x));
}
template <class C>
C sum_elements(int64_t n, const C* x) {
  return sum_of(n, [](auto acc, auto v) HWY_ATTR { return acc + v; }, x);
}

// ---- tensors --------------------------------------------------------------------------------------------------------

/// Elements [offset, offset + n) in the compute type: the tensor's own memory when it has that type, else `buffer`.
template <class C>
const C* widen(const Tensor& t, int64_t offset, int64_t n, C* buffer) {
  return dispatch_floating(t.dtype(), [&](auto tag) HWY_ATTR -> const C* {
    using T = typename decltype(tag)::type;
    const T* p = t.data<T>() + offset;
    if constexpr (std::is_same_v<T, C>) {
      return p;
    } else if constexpr (std::is_same_v<C, float> && !std::is_same_v<T, double>) {
      transform(n, [](Vec v) HWY_ATTR { return v; }, buffer, p);
    } else {
      for (int64_t i = 0; i < n; ++i) buffer[i] = C(to_float(p[i]));
    }
    return buffer;
  });
}

/// Where to compute elements [offset, ...) of an output before narrow(): its own memory or `buffer`.
template <class C>
C* target(const Tensor& t, int64_t offset, C* buffer) {
  return t.dtype() == dtype_of<C>() ? t.data<C>() + offset : buffer;
}

/// Rounds n values into the tensor; nothing to do when they were computed in place.
template <class C>
void narrow(const Tensor& t, int64_t offset, int64_t n, const C* values) {
  dispatch_floating(t.dtype(), [&](auto tag) HWY_ATTR {
    using T = typename decltype(tag)::type;
    T* p = t.data<T>() + offset;
    if constexpr (std::is_same_v<T, C>) {
      return;
    } else if constexpr (std::is_same_v<C, float> && !std::is_same_v<T, double>) {
      transform(n, [](Vec v) HWY_ATTR { return v; }, p, values);
    } else {
      for (int64_t i = 0; i < n; ++i) p[i] = round_to<T>(Compute<T>(values[i]));
    }
  });
}

/// Calls f(TypeTag<double>) when one of the tensors is fp64, else f(TypeTag<float>).
template <class F, class... Tensors>
void with_compute(F&& f, const Tensors&... tensors) {
  if (((tensors.dtype() == Dtype::kF64) || ...))
    f(TypeTag<double>{});
  else
    f(TypeTag<float>{});
}

/// A buffer of `count` elements for every thread of a parallel_for.
template <class C>
class ThreadBuffers {
 public:
  ThreadBuffers(Exec& exec, int64_t count)
      : scratch_(exec), count_(count), data_(scratch_.take<C>(count * omp_get_max_threads())) {}
  C* mine() const { return data_ + count_ * omp_get_thread_num(); }

 private:
  Scratch scratch_;
  int64_t count_;
  C* data_;
};

/// Calls f(begin, count) for every tile of [0, n), in parallel.
template <class F>
void for_tiles(int64_t n, F f) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (; begin < end; begin += kTile) f(begin, std::min(kTile, end - begin));
  });
}

/// Calls f(row) for every row, in parallel.
template <class F>
void for_rows(int64_t rows, int64_t width, F f) {
  parallel_for(rows, row_grain(width), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) f(row);
  });
}

/// For every row of `rows`: add(row, partial) adds it to the partial sums of its block. Then totals[0..width) += the
/// partial sums in order.
template <class C, class AddRow>
void sum_rows(Exec& exec, int64_t rows, int64_t width, C* totals, AddRow add) {
  const int64_t blocks = blocks_of(rows, kRowBlock);
  Scratch scratch(exec);
  C* partials = scratch.take<C>(blocks * width);
  parallel_for(blocks, 1, [&](int64_t first, int64_t last) HWY_ATTR {
    for (int64_t block = first; block < last; ++block) {
      C* partial = partials + block * width;
      std::fill(partial, partial + width, C(0));
      const int64_t end = std::min(rows, (block + 1) * kRowBlock);
      for (int64_t row = block * kRowBlock; row < end; ++row) add(row, partial);
    }
  });
  parallel_for(width, 256, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t c = begin; c < end; ++c) totals[c] += partials[block * width + c];
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#endif  // per target
