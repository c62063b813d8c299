// Tiles of packed sequences: which rows a block works on. It is found on the device, because the bounds of the
// sequences are not known to the host.
#pragma once

#include <cmath>

#include "cuda/common.cuh"

namespace mantissa::cuda_kernels {

/// Rows [first, first + rows) of the sequence that begins at token `begin` and has `length` tokens.
struct Tile {
  int begin, length, first, rows;  // rows <= 0: nothing to do
};

/// Sequence s owns the ids from offsets[s] / tile + s on: ascending, disjoint, and at least as many as it has tiles.
inline unsigned tile_ids(int64_t tokens, int64_t sequences, int tile) {
  return unsigned(tokens / tile + sequences);
}

__device__ inline Tile find_tile(const int32_t* offsets, int sequences, int id, int tile) {
  int low = 0, high = sequences - 1;  // the last s whose ids begin at or before id
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (offsets[middle] / tile + middle <= id)
      low = middle;
    else
      high = middle - 1;
  }
  const int begin = offsets[low], length = offsets[low + 1] - begin, first = (id - begin / tile - low) * tile;
  return {begin, length, first, min(tile, length - first)};
}

/// Elements of a qkv row: Heads::row() for device code.
__device__ inline int64_t row_of(Heads heads) {
  return int64_t(heads.query + 2 * heads.kv) * heads.size;
}

inline float softmax_scale(Heads heads) {
  return 1.0f / std::sqrt(float(heads.size));
}

}  // namespace mantissa::cuda_kernels
