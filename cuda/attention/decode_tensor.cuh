// Decode attention on tensor cores: 16-bit caches of heads 64 or 128 wide. Lane = 4 g + t, see cuda/mma.cuh.
#pragma once

#include "cuda/attention/decode_task.cuh"
#include "cuda/mma.cuh"

namespace mantissa::cuda_kernels::decode {

/// Keys of a page that one warp takes: it streams its 16 of every page through its own shared memory, with its own
/// running softmax, and meets the other warps only at the end.
constexpr int kKeys = 16;
static_assert(kWarps * kKeys == kAttentionTile);

template <int kSize>
struct Stage {
  static constexpr int kCount = 256 / kSize;       // 64 KB of copies under way in a block: three fit a Hopper SM
  static constexpr int kRow = kSize * 2;           // bytes
  static constexpr int kBytes = 2 * kKeys * kRow;  // keys and values
  static constexpr int kBlock = kCount * kWarps * kBytes;
};

/// This lane's part of the queries, the B operand: zero beyond the heads that are there.
template <class T, int kSize, int kBlocks>
__device__ __forceinline__ void load_queries(uint32_t (&q)[kBlocks][kSize / 16][2], const Task<T, T>& task, int b,
                                             int first_head, int heads_here) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int k = 0; k < kSize / 16; ++k) {
      const bool valid = 8 * n + g < heads_here;
      const T* row = task.qkv + b * row_of(task.heads) + int64_t(first_head + 8 * n + g) * kSize + 16 * k + 2 * t;
      q[n][k][0] = valid ? *reinterpret_cast<const uint32_t*>(row) : 0;
      q[n][k][1] = valid ? *reinterpret_cast<const uint32_t*>(row + 8) : 0;
    }
}

/// Running softmax of 8 heads: takes scores p[key g (+ 8), head 2t (+ 1)] of `valid` keys in; p becomes their weights.
template <int kSteps>
__device__ __forceinline__ void take_scores(float (&p)[4], float (&o)[kSteps][4], float (&high)[2], float (&total)[2],
                                            float scale, int valid) {
  const int g = threadIdx.x % kWarp / 4;
#pragma unroll
  for (int j = 0; j < 4; ++j) p[j] = g + 8 * (j / 2) < valid ? p[j] * scale : -INFINITY;
  float now[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    float top = fmaxf(p[j], p[j + 2]);
#pragma unroll
    for (int offset = 4; offset < kWarp; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    now[j] = fmaxf(high[j], top);
  }
  // Most tiles leave the maximum alone: then the factor is 1 and there is nothing to do.
  if (__any_sync(0xffffffffu, now[0] != high[0] || now[1] != high[1])) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float factor = exp2f(high[j] - finite_or_zero(now[j]));
      high[j] = now[j];
      total[j] *= factor;
#pragma unroll
      for (int m = 0; m < kSteps; ++m) {
        o[m][j] *= factor;
        o[m][j + 2] *= factor;
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    p[j] = exp2f(p[j] - finite_or_zero(high[j % 2]));
    total[j % 2] += p[j];
  }
}

/// The warps meet: their outputs in shared memory, folded in warp order, go where the split's result belongs.
template <class T, int kSize, int kBlocks>
__device__ __forceinline__ void fold_warps(const float (&o)[kBlocks][kSize / 16][4], const float (&high)[kBlocks][2],
                                           float (&total)[kBlocks][2], float* results, const Task<T, T>& task,
                                           const Place& at, int first_head, int heads_here) {
  constexpr int kHeads = 8 * kBlocks, kRow = kSize + 4;
  static_assert(kWarps * kHeads * kRow * sizeof(float) <= Stage<kSize>::kBlock);
  __shared__ float2 weights[kWarps][kHeads];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int offset = 4; offset < kWarp; offset *= 2)
        total[n][j] += __shfl_xor_sync(0xffffffffu, total[n][j], offset);
      const int head = 8 * n + 2 * t + j;
      if (g == 0) weights[warp][head] = make_float2(high[n][j], total[n][j]);
#pragma unroll
      for (int m = 0; m < kSize / 16; ++m) {
        float* to = results + (warp * kHeads + head) * kRow + 16 * m + g;
        to[0] = o[n][m][j];
        to[8] = o[n][m][j + 2];
      }
    }
  __syncthreads();
  for (int i = threadIdx.x; i < heads_here * kSize; i += kThreads) {
    const int head = i / kSize, d = i % kSize;
    float top = -INFINITY, sum = 0, value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, weights[w][head].x);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2f(weights[w][head].x - top);
      sum = fmaf(weights[w][head].y, factor, sum);
      value = fmaf(results[(w * kHeads + head) * kRow + d], factor, value);
    }
    store_result(task, at, first_head + head, d, value, top, sum);
  }
}

/// kBlocks: blocks of 8 query heads. Per 16 keys, transposed: scores[key, head] = K . q^T, out[d, head] += V^T . P^T.
template <class T, int kSize, int kBlocks>
__global__ void __launch_bounds__(kThreads) tensor_kernel(const __grid_constant__ Task<T, T> task) {
  constexpr int kSteps = kSize / 16, kHeads = 8 * kBlocks;
  using Stage = Stage<kSize>;
  extern __shared__ uint4 shared[];

  const Heads heads = task.heads;
  const int ratio = heads.query / heads.kv, tiles = (ratio + kHeads - 1) / kHeads, group = blockIdx.y / tiles;
  const int head_of_group = blockIdx.y % tiles * kHeads, heads_here = min(kHeads, ratio - head_of_group);
  const int first_head = group * ratio + head_of_group;
  const Place at(task, first_head, heads_here);
  if (!at.active()) return;

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int32_t* pages_of_row = task.table + int64_t(at.b) * task.max_pages;
  const int64_t cell = int64_t(heads.kv) * kSize;
  const T* keys = task.pages + int64_t(warp * kKeys) * cell + int64_t(group) * kSize;
  const uint32_t stages = shared_address(shared) + warp * Stage::kBytes;

  int page_ids = 0;  // lane l holds the id of page (l mod 32) of the current 32
  const int pages = at.split.last - at.split.first;
  const auto start_copy = [&](int i) {
    if (i < pages) {
      if (i % kWarp == 0 && i + lane < pages) page_ids = pages_of_row[at.split.first + i + lane];
      const T* from = keys + int64_t(__shfl_sync(0xffffffffu, page_ids, i % kWarp)) * kAttentionTile * cell;
      const uint32_t to = stages + i % Stage::kCount * (kWarps * Stage::kBytes);
      const int valid = at.length - (at.split.first + i) * kAttentionTile - warp * kKeys;
      constexpr int kPieces = kSize / 8;
#pragma unroll
      for (int j = 0; j < kKeys * kPieces / kWarp; ++j) {
        const int piece = j * kWarp + lane, r = piece / kPieces, c = piece % kPieces;
        const T* row = from + r * cell + c * 8;
        copy_async(to + tile_byte<kSize>(r, c), row, r < valid);
        copy_async(to + Stage::kBytes / 2 + tile_byte<kSize>(r, c), row + task.plane, r < valid);
      }
    }
    commit_copies();  // empty beyond the end, so that counting stays simple
  };
#pragma unroll
  for (int i = 0; i < Stage::kCount; ++i) start_copy(i);

  uint32_t q[kBlocks][kSteps][2];
  load_queries<T, kSize>(q, task, at.b, first_head, heads_here);
  float o[kBlocks][kSteps][4] = {};  // [d 16 m + g (+ 8), head 8 n + 2t (+ 1)]
  float high[kBlocks][2], total[kBlocks][2] = {};
#pragma unroll
  for (int n = 0; n < kBlocks; ++n) high[n][0] = high[n][1] = -INFINITY;

  for (int i = 0; i < pages; ++i) {
    wait_copies<Stage::kCount - 1>();
    __syncwarp();
    const uint32_t stage = stages + i % Stage::kCount * (kWarps * Stage::kBytes);
    float p[kBlocks][4] = {};  // [key g (+ 8), head 8 n + 2t (+ 1)]
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      uint32_t a[4];
      load_a<kSize>(a, stage, 0, k);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) mma<T>(p[n], a, q[n][k][0], q[n][k][1]);
    }
    const int valid = at.length - (at.split.first + i) * kAttentionTile - warp * kKeys;
    uint32_t weight[kBlocks][2], rest[kBlocks][2];
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      take_scores(p[n], o[n], high[n], total[n], task.scale, valid);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float a = p[n][2 * j], b = p[n][2 * j + 1];
        weight[n][j] = transpose_matrix(pack_two<T>(a, b));
        // The part of the weight that the 16-bit type lost goes through a product of its own: P stays fp32 in effect.
        if (!task.peer) rest[n][j] = transpose_matrix(pack_two<T>(a - rounded<T>(a), b - rounded<T>(b)));
      }
    }
#pragma unroll
    for (int m = 0; m < kSteps; ++m) {
      uint32_t a[4];
      load_a_of_columns<kSize>(a, stage + Stage::kBytes / 2, 0, m);
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) {
        mma<T>(o[n][m], a, weight[n][0], weight[n][1]);
        if (!task.peer) mma<T>(o[n][m], a, rest[n][0], rest[n][1]);
      }
    }
    __syncwarp();
    start_copy(i + Stage::kCount);
  }
  wait_copies<0>();
  __syncthreads();
  fold_warps<T, kSize>(o, high, total, reinterpret_cast<float*>(shared), task, at, first_head, heads_here);
}

}  // namespace mantissa::cuda_kernels::decode
