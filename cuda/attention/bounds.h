// Where the sequences of a packed batch begin, as cuDNN's ragged batches want it: made on the device, since the host
// does not know the bounds.
#pragma once

#include "core/kernels.h"

namespace mantissa::cuda_kernels {

/// Sequences in groups of `batch`, on the device; those beyond what `offsets` has are of length 0. Per group and
/// `stride` apart: lengths[batch], and where sequences begin, [batch + 1] in elements of qkv rows (row), of out rows
/// (out) and of lse rows (lse).
struct SequenceBounds {
  int32_t *lengths, *row, *out, *lse;
  int batch, groups, stride;
};
void fill_sequence_bounds(Exec& exec, const SequenceBounds& bounds, const Tensor& offsets, Heads heads);

}  // namespace mantissa::cuda_kernels
