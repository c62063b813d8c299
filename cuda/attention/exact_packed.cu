// Causal attention over packed sequences by the definition of exact.cuh: training forward and prefill. A block has 64
// query rows of one head, each warp 16 of them; keys and values stream through shared memory two tiles deep. On Hopper
// heads of 64 and 128 have a kernel of their own (exact_groups.cu).
//
// Legend: T tokens, H/G/D heads; qkv rows are (H+2G)D wide, out[T,HD], lse[T,H].
#include "cuda/attention/attention.h"
#include "cuda/attention/exact.cuh"

namespace mantissa::cuda_kernels {
namespace exact {
namespace {

/// Outputs of the segments so far, of 64 rows: held only where a sequence may have several segments.
template <int kSize>
constexpr int kTotalBytes = kTile * kSize * int(sizeof(float));

/// One warp's 16 rows: lane (g, t) holds rows g and g + 8.
template <class T, int kSize>
struct Rows {
  using Keys = KeyTile<kSize>;
  static constexpr int kSteps = kSize / 16;

  uint32_t q[kSteps][4];
  float o[kSize / 8][4] = {}, l[4] = {};
  float high[2] = {-INFINITY, -INFINITY};

  /// One tile. Row g sees the keys up to `last_seen` + g of the tile; kTile or more: all of them.
  __device__ __forceinline__ void add_tile(uint32_t keys, uint32_t values, int last_seen, float c) {
    const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
    float p[kTile / 8][4] = {};
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int n = 0; n < kTile / 16; ++n) {
        uint32_t b[4];
        Keys::load_keys(b, keys, 16 * n, k);
        mma<T>(p[2 * n], q[k], b[0], b[1]);
        mma<T>(p[2 * n + 1], q[k], b[2], b[3]);
      }
    if (last_seen < kTile)
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (8 * n + 2 * t + j % 2 > last_seen + g + j / 2 * 8) p[n][j] = -INFINITY;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = p[0][2 * r];
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) top = fmaxf(top, fmaxf(p[n][2 * r], p[n][2 * r + 1]));
      const float now = fmaxf(high[r], max_of_row(top)), factor = power_of_two((high[r] - now) * c), base = now * c;
      high[r] = now;
      l[2 * r] *= factor;
#pragma unroll
      for (int n = 0; n < kSize / 8; ++n) {
        o[n][2 * r] *= factor;
        o[n][2 * r + 1] *= factor;
      }
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) {
        p[n][2 * r] = power_of_two(fmaf(p[n][2 * r], c, -base));
        p[n][2 * r + 1] = power_of_two(fmaf(p[n][2 * r + 1], c, -base));
      }
    }
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      const uint32_t a[4] = {pack_two<T>(p[2 * k][0], p[2 * k][1]), pack_two<T>(p[2 * k][2], p[2 * k][3]),
                             pack_two<T>(p[2 * k + 1][0], p[2 * k + 1][1]),
                             pack_two<T>(p[2 * k + 1][2], p[2 * k + 1][3])};
      mma<T>(l, a, ones<T>(), ones<T>());  // every column is the same sum
#pragma unroll
      for (int n = 0; n < kSteps; ++n) {
        uint32_t b[4];
        Keys::load_values(b, values, 16 * k, n);
        mma<T>(o[2 * n], a, b[0], b[1]);
        mma<T>(o[2 * n + 1], a, b[2], b[3]);
      }
    }
    l[1] = l[0];
    l[3] = l[2];
  }
};

/// Block (tile of 64 rows, query head). kLong: sequences may be longer than a segment.
template <class T, int kSize, bool kLong>
__global__ void __launch_bounds__(kThreads)
    packed_kernel(T* out, float* lse, const T* qkv, const int32_t* offsets, int sequences, Heads heads, float scale) {
  const Tile tile = find_tile(offsets, sequences, gridDim.x - 1 - blockIdx.x, kTile);
  if (tile.rows <= 0) return;
  using Keys = KeyTile<kSize>;
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, head = blockIdx.y;
  const int64_t row = row_of(heads);
  const T* in = qkv + tile.begin * row;
  const T* keys = in + int64_t(heads.query + head / (heads.query / heads.kv)) * kSize;
  const T* values = keys + int64_t(heads.kv) * kSize;
  const uint32_t stages = shared_address(shared);
  float* totals = reinterpret_cast<float*>(shared) + 4 * Keys::kBytes / int(sizeof(float)) + warp * 16 * kSize;
  const float c = scale * kLog2e;

  const auto start = [&](int i) {
    const uint32_t to = stages + i % 2 * 2 * Keys::kBytes;
    const int valid = tile.length - i * kTile;
#pragma unroll
    for (int j = 0; j < kTile * Keys::kPieces / kThreads; ++j) {
      const int piece = j * kThreads + threadIdx.x, r = piece / Keys::kPieces, at = piece % Keys::kPieces;
      const int64_t from = int64_t(i * kTile + (r < valid ? r : 0)) * row + at * 8;
      copy_async(to + r * Keys::kRow + at * 16, keys + from, r < valid);
      copy_async(to + Keys::kBytes + r * Keys::kRow + at * 16, values + from, r < valid);
    }
  };
  start(0);
  commit_copies();
  Rows<T, kSize> rows;
  const int valid = tile.rows - 16 * warp;
  load_query_rows(rows.q, valid,
                  [&](int r) { return in + int64_t(tile.first + 16 * warp + r) * row + int64_t(head) * kSize; });
  const int count = tile.first / kTile + 1;
  float high[2], sum[2];  // of the segments folded so far
  bool folded = false;
  for (int i = 0; i < count; ++i) {
    if (i + 1 < count) start(i + 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const uint32_t stage = stages + i % 2 * 2 * Keys::kBytes;
    rows.add_tile(stage, stage + Keys::kBytes, i + 1 < count ? kTile : 16 * warp, c);
    const bool last = i + 1 == count;
    if (last || (kLong && (i + 1) % (kSegment / kTile) == 0)) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (kLong && folded) {
          const Fold fold(high[r], sum[r], rows.high[r], rows.l[2 * r], c);
          high[r] = fold.top;
          sum[r] = fold.sum;
#pragma unroll
          for (int n = 0; n < kSize / 8; ++n) {
            const float2 before = *reinterpret_cast<float2*>(totals + (g + 8 * r) * kSize + 8 * n + 2 * t);
            rows.o[n][2 * r] = fold(before.x, rows.o[n][2 * r]);
            rows.o[n][2 * r + 1] = fold(before.y, rows.o[n][2 * r + 1]);
          }
        } else {
          high[r] = rows.high[r];
          sum[r] = rows.l[2 * r];
        }
        if (last) continue;
#pragma unroll
        for (int n = 0; n < kSize / 8; ++n) {
          *reinterpret_cast<float2*>(totals + (g + 8 * r) * kSize + 8 * n + 2 * t) =
              make_float2(rows.o[n][2 * r], rows.o[n][2 * r + 1]);
          rows.o[n][2 * r] = rows.o[n][2 * r + 1] = 0;
        }
        rows.high[r] = -INFINITY;
        rows.l[2 * r] = rows.l[2 * r + 1] = 0;
      }
      folded = true;
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (g + 8 * r >= valid) continue;
    const int64_t token = tile.begin + tile.first + 16 * warp + g + 8 * r, at = token * heads.query + head;
    const float inverse = 1.0f / sum[r];
    if (t == 0) lse[at] = fmaf(high[r], scale, logf(sum[r]));
#pragma unroll
    for (int n = 0; n < kSize / 8; ++n)
      *reinterpret_cast<uint32_t*>(out + at * kSize + 8 * n + 2 * t) =
          pack_two<T>(rows.o[n][2 * r] * inverse, rows.o[n][2 * r + 1] * inverse);
  }
}

template <class T, int kSize, bool kLong>
void launch(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, Heads heads) {
  const int sequences = int(offsets.numel()) - 1;
  const size_t shared = 4 * KeyTile<kSize>::kBytes + (kLong ? kTotalBytes<kSize> : 0);
  auto* kernel = packed_kernel<T, kSize, kLong>;
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  kernel<<<dim3(tile_ids(qkv.size(0), sequences, kTile), heads.query), kThreads, shared, stream(exec)>>>(
      elements<T>(out), lse.data<float>(), elements<T>(qkv), offsets.data<int32_t>(), sequences, heads,
      softmax_scale(heads));
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace
}  // namespace exact

bool exact_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets,
                         int64_t longest, Heads heads) {
  const bool several = longest > exact::kSegment || longest <= 0;  // 0: not known
  const auto run = [&]<class T>(std::type_identity<T>) {
    if (exact::group_attention_fwd(exec, out, lse, qkv, offsets, several, heads)) return true;
    return exact::visit_head_size(heads.size, [&]<int kSize>(std::integral_constant<int, kSize>) {
      if (several)
        exact::launch<T, kSize, true>(exec, out, lse, qkv, offsets, heads);
      else
        exact::launch<T, kSize, false>(exec, out, lse, qkv, offsets, heads);
    });
  };
  if (qkv.dtype() == Dtype::kF16) return run(std::type_identity<__half>());
  if (qkv.dtype() == Dtype::kBF16) return run(std::type_identity<__nv_bfloat16>());
  return false;
}

bool has_exact_attention(int head_size) {
  return exact::visit_head_size(head_size, [](auto) {});
}

}  // namespace mantissa::cuda_kernels
