#include "cuda/attention/bounds.h"

#include "cuda/common.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kThreads = 256;

/// Block y has group y.
__global__ void sequence_bounds_kernel(SequenceBounds bounds, const int32_t* offsets, int sequences, int row,
                                       int out_row, int heads) {
  const int i = blockIdx.x * kThreads + threadIdx.x, s = blockIdx.y * bounds.batch + i;
  if (i > bounds.batch) return;
  const int begin = offsets[min(s, sequences)], end = offsets[min(s + 1, sequences)];
  const int at = blockIdx.y * bounds.stride + i;
  if (i < bounds.batch) bounds.lengths[at] = end - begin;
  bounds.row[at] = begin * row;
  bounds.out[at] = begin * out_row;
  bounds.lse[at] = begin * heads;
}

}  // namespace

void fill_sequence_bounds(Exec& exec, const SequenceBounds& bounds, const Tensor& offsets, Heads heads) {
  sequence_bounds_kernel<<<dim3(blocks(bounds.batch + 1, kThreads), bounds.groups), kThreads, 0, stream(exec)>>>(
      bounds, offsets.data<int32_t>(), int(offsets.numel()) - 1, int(heads.row()), heads.query * heads.size,
      heads.query);
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace mantissa::cuda_kernels
