// Kernels that walk the elements of [rows, width] and need to know their row and column.
#pragma once

#include <limits>

#include "cuda/overlap.cuh"

namespace mantissa::cuda_kernels {

inline constexpr int kThreads = 256;

/// Threads walk packs of N elements of [rows, width] in order; f(row, column) handles one.
template <int N, class F>
__global__ void __launch_bounds__(kThreads) map_rows(int64_t packs, uint32_t packs_per_row, F f) {
  let_next_begin();
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (i >= packs) return;
  int64_t row;
  if (packs <= std::numeric_limits<uint32_t>::max())
    row = uint32_t(i) / packs_per_row;
  else
    row = i / packs_per_row;
  f.template at<N>(row, (i - row * packs_per_row) * N);
}

/// With packs of 8 where every row of every operand starts on a boundary for them, else element by element.
template <class F>
void launch_map_rows(Exec& exec, int64_t rows, int64_t width, F f, std::initializer_list<const void*> operands) {
  if (rows * width == 0) return;
  if (width % 8 == 0 && aligned(operands))
    map_rows<8>
        <<<blocks(rows * width / 8, kThreads), kThreads, 0, stream(exec)>>>(rows * width / 8, uint32_t(width / 8), f);
  else
    map_rows<1><<<blocks(rows * width, kThreads), kThreads, 0, stream(exec)>>>(rows * width, uint32_t(width), f);
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace mantissa::cuda_kernels
