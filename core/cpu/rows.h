// What the row-wise CPU kernels share: rows and tiles are widened into the compute type C (float, double for fp64
// tensors), worked on there, and rounded once on the way out. Sums run over 16 fixed partial sums and a fixed tree, sums
// over rows over blocks of kRowBlock rows in order: bits do not depend on threads, vector width or other rows.
#pragma once

#include <omp.h>

#include <algorithm>

#include "core/kernels.h"

namespace mantissa::cpu_kernels {

inline constexpr int64_t kTile = 2048;    // elements worked on at once by elementwise kernels and sums
inline constexpr int64_t kRowBlock = 64;  // rows summed by one partial sum of a reduction over rows

inline int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

/// Elements [offset, offset + n) in the compute type: the tensor's own memory when it has that type, else `buffer`.
template <class C>
const C* widen(const Tensor& t, int64_t offset, int64_t n, C* buffer) {
  return dispatch_floating(t.dtype(), [&](auto tag) -> const C* {
    using T = typename decltype(tag)::type;
    const T* p = t.data<T>() + offset;
    if constexpr (std::is_same_v<T, C>) return p;
    else {
      for (int64_t i = 0; i < n; ++i) buffer[i] = C(to_float(p[i]));
      return buffer;
    }
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
  dispatch_floating(t.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (!std::is_same_v<T, C>) {
      T* p = t.data<T>() + offset;
      for (int64_t i = 0; i < n; ++i) p[i] = round_to<T>(Compute<T>(values[i]));
    }
  });
}

/// Calls f(TypeTag<double>) when one of the tensors is fp64, else f(TypeTag<float>).
template <class F, class... Tensors>
void with_compute(F&& f, const Tensors&... tensors) {
  if (((tensors.dtype() == Dtype::kF64) || ...)) f(TypeTag<double>{});
  else f(TypeTag<float>{});
}

/// Sum of term(i) for i in [0, n): 16 partial sums, lane i % 16, then a fixed tree.
template <class C, class Term>
C lane_sum(int64_t n, Term term) {
  C part[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int lane = 0; lane < 16; ++lane) part[lane] += term(i + lane);
  for (int lane = 0; i < n; ++i, ++lane) part[lane] += term(i);
  for (int width = 8; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
  return part[0];
}

/// A buffer of `count` elements for every thread of the next parallel region.
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

/// totals[0..width) += sum over `rows` rows. add(row, partial) adds one row to the partial sums of its block.
template <class C, class AddRow>
void sum_rows(Exec& exec, int64_t rows, int64_t width, C* totals, AddRow add) {
  const int64_t blocks = blocks_of(rows, kRowBlock);
  Scratch scratch(exec);
  C* partials = scratch.take<C>(blocks * width);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    C* partial = partials + block * width;
    std::fill(partial, partial + width, C(0));
    const int64_t end = std::min(rows, (block + 1) * kRowBlock);
    for (int64_t row = block * kRowBlock; row < end; ++row) add(row, partial);
  }
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < blocks_of(width, 256); ++tile)
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t c = tile * 256; c < std::min(width, (tile + 1) * 256); ++c) totals[c] += partials[block * width + c];
}

}  // namespace mantissa::cpu_kernels
