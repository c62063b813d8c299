// Sums over rows in fixed blocks and a fixed order: weight gradients of biases and norms.
#pragma once

#include "cuda/common.cuh"

namespace mantissa::cuda_kernels {

/// totals[c] += sum over `blocks` of partials[block, c], in order of the blocks; c < width. Defined in sums.cu, and
/// shared by several kernel families.
void add_partials(Exec& exec, float* totals, const float* partials, int64_t blocks, int64_t width);

}  // namespace mantissa::cuda_kernels
