// The one definition of attention under Match::kExact, shared by its packed and decode kernels. A query's keys, from
// key 0 on, come in tiles of kAttentionTile, and tiles in segments of kSegment keys:
//
//   scores    s = q.k, dimensions ascending, 16 a step, in one fp32 accumulator
//   in a tile m' = max(m, s); f = 2^((m - m') c); p = round(2^(s c - m' c)); l = l f + sum p; o = o f + p.v,
//             keys ascending, 16 a step; m, l and o start anew in every segment; c = log2(e) / sqrt(D)
//   folding   segments ascending; the first as it is, then M' = max(M, m), f = 2^((M - M') c), g = 2^((m - M') c),
//             L = l g + L f, O = o g + O f
//   at last   out = round(O (1 / L)), lse = M / sqrt(D) + log L
//
// p is rounded to the compute type before it is summed or multiplied. What is done to a row depends on nothing but the
// row, so any grid of blocks that keeps these orders gives the same bits.
#pragma once

#include "cuda/attention/tiles.cuh"
#include "cuda/mma.cuh"

namespace mantissa::cuda_kernels::exact {

constexpr int kSegment = 1024;
constexpr int kTile = kAttentionTile;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr float kLog2e = 1.44269504088896340736f;

/// 2^x, subnormal results as zero.
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Two ones of T: a column of ones sums rows of P by the tensor cores.
template <class T>
__device__ __forceinline__ uint32_t ones() {
  return std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;
}

/// How a tile of keys or values in shared memory is read as an operand, wherever Layout::at(row, piece) says that 16
/// bytes of a row lie.
template <class Layout>
struct TileReads {
  /// Of scores: 16 keys from `row` on, dimensions from 16 k on; (r[0], r[1]) are 8 keys, (r[2], r[3]) the next.
  static __device__ __forceinline__ void load_keys(uint32_t (&r)[4], uint32_t tile, int row, int k) {
    const int lane = threadIdx.x % kWarp;
    load_matrices(r, tile + Layout::at(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  }
  /// Of outputs: 16 values from `row` on, dimensions from 16 n on; (r[0], r[1]) are 8 of them, (r[2], r[3]) the next.
  static __device__ __forceinline__ void load_values(uint32_t (&r)[4], uint32_t tile, int row, int n) {
    const int lane = threadIdx.x % kWarp;
    load_matrices_transposed(r, tile + Layout::at(row + lane % 16, 2 * n + lane / 16));
  }
};

/// A tile of kTile rows of kSize elements. Rows lie 16 bytes further apart than they are long: an odd number of 16-byte
/// pieces, so that eight neighbouring rows lie in different banks at every head size.
template <int kSize>
struct KeyTile : TileReads<KeyTile<kSize>> {
  static constexpr int kPieces = kSize / 8;
  static constexpr int kRow = kSize * 2 + 16;
  static constexpr int kBytes = kTile * kRow;
  static __device__ __forceinline__ int at(int row, int piece) { return row * kRow + piece * 16; }
};

/// The largest of a row's scores in a tile: its four lanes exchange theirs.
__device__ __forceinline__ float max_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// 16 query rows, row(r) each, as the first operand of products: lane (g, t) gets of rows g and g + 8 what mma<T>
/// wants; zeros from row `valid` on.
template <int kSteps, class Row>
__device__ __forceinline__ void load_query_rows(uint32_t (&q)[kSteps][4], int valid, Row&& row) {
  const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = g + i % 2 * 8;
      q[k][i] = r < valid ? *reinterpret_cast<const uint32_t*>(row(r) + 16 * k + i / 2 * 8 + 2 * t) : 0u;
    }
}

/// 0 for a row that has seen no key yet, so that differences of maxima stay numbers.
__device__ __forceinline__ float finite_or_zero(float high) {
  return high == -INFINITY ? 0.0f : high;
}

/// Maximum, sum and the factors of one fold.
struct Fold {
  float top, sum, keep, add;

  __device__ __forceinline__ Fold(float high_before, float sum_before, float high, float sum_of_segment, float c) {
    top = fmaxf(high_before, high);
    keep = power_of_two((high_before - top) * c);
    add = power_of_two((high - top) * c);
    sum = fmaf(sum_of_segment, add, sum_before * keep);
  }
  __device__ __forceinline__ float operator()(float before, float of_segment) const {
    return fmaf(of_segment, add, before * keep);
  }
};

/// Calls f(std::integral_constant<int, D>) for the head sizes that have kernels; false for others.
template <class F>
bool visit_head_size(int size, F&& f) {
  const auto with = [&]<int kSize>() {
    f(std::integral_constant<int, kSize>());
    return true;
  };
  switch (size) {
    case 16:
      return with.template operator()<16>();
    case 32:
      return with.template operator()<32>();
    case 64:
      return with.template operator()<64>();
    case 80:
      return with.template operator()<80>();
    case 96:
      return with.template operator()<96>();
    case 128:
      return with.template operator()<128>();
    default:
      return false;
  }
}

/// Packed attention by warpgroups (exact_groups.cu). several: a sequence may have more than one segment. False where it
/// has no kernel: other devices than Hopper, other head sizes than 64 and 128.
bool group_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, bool several,
                         Heads heads);

}  // namespace mantissa::cuda_kernels::exact
