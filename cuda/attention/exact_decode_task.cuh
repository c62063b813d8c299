// What a block of exact decode works on, and its query heads as rows of products. cuda/attention/exact_decode.cu says
// how the kernel works.
//
// Legend: B rows, H/G/D heads, P pages.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/attention/exact.cuh"
#include "cuda/bulk.cuh"

namespace mantissa::cuda_kernels::exact {

constexpr int kHeads = 16;  // rows of a product: query heads, of one row or of several of a sequence

__host__ __device__ constexpr int segments_of(int keys) {
  return (keys + kSegment - 1) / kSegment;
}

template <class T>
struct Task {
  T* out;
  float* part;          // [B, segments, H, D] outputs of segments
  float2* part_weight;  // [B, segments, H] maximum and sum
  unsigned* ended;      // [B, blocks of a row]: segments that are aside; zero before and after; null: fold_kernel folds
  const T* qkv;
  T* pages;
  const int32_t *table, *lengths;
  const int32_t* ahead;  // null: each row has blocks of its own
  NewTokens fresh;
  Heads heads;
  int64_t plane;   // elements from keys to values
  int plane_rows;  // tokens from keys to values
  int max_pages, segments;
  float c;
  CUtensorMap boxes;  // of pages, as rows of tokens; where tiles are copied in boxes
};

/// What the warps of a block exchange: the heads' maxima in a tile; queries that they rotated, and later P of a tile,
/// in rows 16 bytes further apart than they are long; the new token's key and value, until their tile comes.
template <class T, int kSize>
struct Exchange {
  static constexpr int kRow = (kSize > kTile ? kSize : kTile) + 8;
  float tops[kWarps][kHeads];
  alignas(16) T rows[kHeads * kRow];
  Pack<T> token[2][kSize / 8];
};

/// How many rows block row b works on, with `length` keys: itself and those of its sequence right behind it, as far as
/// their heads fit a product and they have as many segments; 0 where b is among those of a row before it. Every row has
/// a key in each segment then, and a mask is all that tells them apart. All threads of a warp call it.
template <class T>
__device__ __forceinline__ int rows_together(const Task<T>& task, int b, int length) {
  const int most = kHeads / (task.heads.query / task.heads.kv);
  if (!task.ahead || most <= 1) return 1;
  const int ahead = task.ahead[b];
  if (ahead % most != 0 && segments_of(length) == segments_of(length - 1)) return 0;
  const int i = threadIdx.x % kWarp;
  const bool joins = ahead % most + i < most && b + i < int(gridDim.z) && task.ahead[b + i] == ahead + i &&
                     segments_of(length + i) == segments_of(length);
  return __ffs(~__ballot_sync(0xffffffffu, joins)) - 1;
}

/// What a block works on: a segment of rows [b, b + rows), or in a grid without segments all of it, and heads
/// [first_head, first_head + heads_here) of kv head `group`. Each row has one key more than the one before it, the last
/// has `length`.
struct Place {
  int b, rows, group, ratio, first_head, heads_here, length, from, until;
  bool first_of_group;
  int new_key;  // which of the segment's keys is the row's new one; -1: none

  template <class T>
  __device__ Place(const Task<T>& task, int keys, int rows_here)
      : b(blockIdx.z), rows(rows_here), length(keys + rows_here - 1) {
    ratio = task.heads.query / task.heads.kv;
    const int tiles = (ratio + kHeads - 1) / kHeads, in_group = blockIdx.y % tiles * kHeads;
    group = blockIdx.y / tiles;
    heads_here = min(kHeads, ratio - in_group);
    first_head = group * ratio + in_group;
    from = blockIdx.x * kSegment;
    until = gridDim.x > 1 ? min(length, from + kSegment) : length;
    first_of_group = in_group == 0;
    new_key = task.fresh.angles && until == length ? length - 1 - from : -1;
  }
  __device__ int tiles() const { return (until - from + kTile - 1) / kTile; }
  __device__ int valid(int tile) const { return until - from - tile * kTile; }
  /// Of the product's row h: its row of the batch, counted from b, and its query head.
  __device__ int row_of(int h) const { return rows == 1 ? 0 : h / ratio; }
  __device__ int head_of(int h) const { return first_head + h - row_of(h) * ratio; }
  __device__ int heads() const { return rows * heads_here; }
};

/// The heads of a block as rows of products: lane (g, t) holds rows g and g + 8. A warp has 16 keys of a tile for the
/// scores, and blocks of 16 dimensions for the outputs: its own and every kWarps further.
template <class T, int kSize, class Keys>
struct Rows {
  using Shared = Exchange<T, kSize>;
  static constexpr int kSteps = kSize / 16, kOwn = (kSteps + kWarps - 1) / kWarps;

  uint32_t q[kSteps][4];
  float o[2 * kOwn][4] = {}, l[4] = {}, high[2] = {-INFINITY, -INFINITY};  // of a segment
  float total_o[2 * kOwn][4], total_l[2], total_high[2];                   // of the segments folded so far
  bool folded = false;
  float p[2][4];  // scores of this warp's keys
  int behind[2];  // how many of the block's last keys a row does not see, those of rows behind it
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;

  __device__ __forceinline__ explicit Rows(const Place& at) {
#pragma unroll
    for (int r = 0; r < 2; ++r) behind[r] = at.until < at.length ? 0 : max(0, at.rows - 1 - at.row_of(g + 8 * r));
  }
  /// The queries that take_new_row() left.
  __device__ __forceinline__ void load_queries(const Shared& exchange) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
      load_matrices(q[k], shared_address(exchange.rows + (lane % 16) * Shared::kRow + 16 * k + lane / 16 * 8));
  }

  /// Scores of this warp's keys, of which `valid` are there, and their maxima for the others.
  __device__ __forceinline__ void score(uint32_t keys, int valid, Shared& exchange) {
#pragma unroll
    for (int j = 0; j < 4; ++j) p[0][j] = p[1][j] = 0;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      uint32_t a[4];
      Keys::load_keys(a, keys, 16 * warp, k);
      mma<T>(p[0], q[k], a[0], a[1]);
      mma<T>(p[1], q[k], a[2], a[3]);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (8 * n + 2 * t + j % 2 >= valid - behind[j / 2]) p[n][j] = -INFINITY;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float top = max_of_row(fmaxf(fmaxf(p[0][2 * r], p[0][2 * r + 1]), fmaxf(p[1][2 * r], p[1][2 * r + 1])));
      if (t == 0) exchange.tops[warp][g + 8 * r] = top;
    }
  }

  /// The new maxima, what was added up so far in their terms, and this warp's part of P.
  __device__ __forceinline__ void weigh(float c, Shared& exchange) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float now = high[r];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) now = fmaxf(now, exchange.tops[w][g + 8 * r]);
      const float factor = power_of_two((high[r] - now) * c), base = now * c;
      high[r] = now;
      l[2 * r] *= factor;
#pragma unroll
      for (int n = 0; n < 2 * kOwn; ++n) {
        o[n][2 * r] *= factor;
        o[n][2 * r + 1] *= factor;
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
        *reinterpret_cast<uint32_t*>(exchange.rows + (g + 8 * r) * Shared::kRow + 16 * warp + 8 * n + 2 * t) =
            pack_two<T>(power_of_two(fmaf(p[n][2 * r], c, -base)), power_of_two(fmaf(p[n][2 * r + 1], c, -base)));
    }
  }

  __device__ __forceinline__ void add_values(uint32_t values, const Shared& exchange) {
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      uint32_t a[4];
      load_matrices(a, shared_address(exchange.rows + (lane % 16) * Shared::kRow + 16 * k + lane / 16 * 8));
      mma<T>(l, a, ones<T>(), ones<T>());  // every column is the same sum
#pragma unroll
      for (int n = 0; n < kOwn; ++n) {
        if (kSteps % kWarps != 0 && warp + n * kWarps >= kSteps) break;
        uint32_t v[4];
        Keys::load_values(v, values, 16 * k, warp + n * kWarps);
        mma<T>(o[2 * n], a, v[0], v[1]);
        mma<T>(o[2 * n + 1], a, v[2], v[3]);
      }
    }
    l[1] = l[0];
    l[3] = l[2];
  }

  /// A segment ends: it is folded into those before it, and the next begins anew.
  __device__ __forceinline__ void end_segment(float c) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool first = !folded;
      const Fold fold(first ? high[r] : total_high[r], first ? l[2 * r] : total_l[r], high[r], l[2 * r], c);
      total_high[r] = first ? high[r] : fold.top;
      total_l[r] = first ? l[2 * r] : fold.sum;
#pragma unroll
      for (int n = 0; n < 2 * kOwn; ++n)
#pragma unroll
        for (int j = 2 * r; j < 2 * r + 2; ++j) {
          total_o[n][j] = first ? o[n][j] : fold(total_o[n][j], o[n][j]);
          o[n][j] = 0;
        }
      high[r] = -INFINITY;
      l[2 * r] = l[2 * r + 1] = 0;
    }
    folded = true;
  }
  /// After the last segment of a row with several: the sums of all of them.
  __device__ __forceinline__ void take_totals() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      high[r] = total_high[r];
      l[2 * r] = total_l[r];
#pragma unroll
      for (int n = 0; n < 2 * kOwn; ++n)
#pragma unroll
        for (int j = 2 * r; j < 2 * r + 2; ++j) o[n][j] = total_o[n][j];
    }
  }

  /// To the output where the block has seen all of the row, else aside for the fold.
  __device__ __forceinline__ void store(const Task<T>& task, const Place& at) const {
    const bool single = gridDim.x == 1 || at.length <= kSegment;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int h = g + 8 * r;
      if (h >= at.heads()) continue;
      const int64_t b = at.b + at.row_of(h), head = at.head_of(h), row = b * task.heads.query + head;
      const int64_t slot = (b * task.segments + blockIdx.x) * task.heads.query + head;
      if (!single && t == 0 && warp == 0) task.part_weight[slot] = make_float2(high[r], l[2 * r]);
      const float inverse = 1.0f / l[2 * r];
#pragma unroll
      for (int n = 0; n < 2 * kOwn; ++n) {
        const int d = 16 * (warp + n / 2 * kWarps) + n % 2 * 8 + 2 * t;
        if (d >= kSize) break;
        const float x = o[n][2 * r], y = o[n][2 * r + 1];
        if (single)
          *reinterpret_cast<uint32_t*>(task.out + row * kSize + d) = pack_two<T>(x * inverse, y * inverse);
        else
          *reinterpret_cast<float2*>(task.part + slot * kSize + d) = make_float2(x, y);
      }
    }
  }
};

}  // namespace mantissa::cuda_kernels::exact
