// Own packed causal attention on tensor cores: 16-bit types, heads of 64 or 128. The same tiles and order as
// packed.cu: no atomics, so the backward is deterministic without holding the score gradients, at the price
// of computing the scores twice. Products take 16-bit operands and accumulate in fp32: forward probabilities keep what
// the type would lose in a second product, the gradient's P and dS are rounded once.
//
// A warp owns 16 rows of the block's tile of 64 and all of the other side's tile. Scores are in units of log 2. Legend:
// T tokens, S sequences, H/G/D heads. qkv[T,(H+2G)D], out[T,HD], lse[T,H], delta[T,H] = rowsum(dO * O).
#include "cuda/attention/attention.h"
#include "cuda/attention/tiles.cuh"
#include "cuda/mma.cuh"

namespace mantissa::cuda_kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int kTile = 64;
constexpr int kRows = 16;  // of a warp
static_assert(kThreads / kWarp * kRows == kTile);
constexpr float kLog2e = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;

constexpr int kHalf = kTile / 2;

template <int kSize>
constexpr int kTileBytes = kTile * kSize * 2;

/// The A operand of this warp's 16 rows straight from memory; zero beyond `valid` rows.
template <class T, int kSize>
__device__ void load_rows(uint32_t (&a)[kSize / 16][4], const T* from, int64_t stride, int valid) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < kSize / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = g + i % 2 * 8;
      a[k][i] = r < valid ? *reinterpret_cast<const uint32_t*>(from + r * stride + 16 * k + i / 2 * 8 + 2 * t) : 0;
    }
}

/// Stores a warp's 16 rows of accumulators; the row's factor is factor[0] or, for the lower eight rows, factor[1].
template <class T, int kSize>
__device__ void store_rows(T* to, int64_t stride, int valid, const float (&acc)[kSize / 8][4], float factor0,
                           float factor1) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (g + 8 * i >= valid) continue;
    const float factor = i ? factor1 : factor0;
#pragma unroll
    for (int n = 0; n < kSize / 8; ++n)
      *reinterpret_cast<uint32_t*>(to + (g + 8 * i) * stride + 8 * n + 2 * t) =
          pack_two<T>(acc[n][2 * i] * factor, acc[n][2 * i + 1] * factor);
  }
}

/// Accumulators of 16 columns as the A operand of the next product.
template <class T>
__device__ __forceinline__ void to_operand(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack_two<T>(left[0], left[1]);
  a[1] = pack_two<T>(left[2], left[3]);
  a[2] = pack_two<T>(right[0], right[1]);
  a[3] = pack_two<T>(right[2], right[3]);
}

/// What rounding to T takes away.
template <class T>
__device__ __forceinline__ void to_rest(float (&rest)[4], const float (&x)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) rest[i] = x[i] - rounded<T>(x[i]);
}

/// Keys and values of the tiles before and up to a query tile, two tiles ahead of the arithmetic.
template <class T, int kSize>
struct KeyTiles {
  const T *keys, *values;
  int64_t row;
  int length;
  uint32_t shared;

  __device__ uint32_t key_tile(int i) const { return shared + i % 2 * 2 * kTileBytes<kSize>; }
  __device__ uint32_t value_tile(int i) const { return key_tile(i) + kTileBytes<kSize>; }
  __device__ void start_copy(int i) const {
    const int valid = length - i * kTile;
    copy_tile_async<kThreads, kTile, kSize>(key_tile(i), keys + int64_t(i) * kTile * row, row, valid);
    copy_tile_async<kThreads, kTile, kSize>(value_tile(i), values + int64_t(i) * kTile * row, row, valid);
  }
  /// Calls f(i) for i in [0, tiles) with tile i in shared memory.
  template <class F>
  __device__ void for_each(int tiles, F f) const {
    start_copy(0);
    commit_copies();
    for (int i = 0; i < tiles; ++i) {
      if (i + 1 < tiles) start_copy(i + 1);
      commit_copies();
      wait_copies<1>();
      __syncthreads();
      f(i);
      __syncthreads();
    }
  }
};

template <class T, int kSize>
__device__ KeyTiles<T, kSize> key_tiles(const Tile& tile, const T* qkv, Heads heads, int head, const void* shared) {
  const int64_t row = row_of(heads);
  const T* keys = qkv + tile.begin * row + int64_t(heads.query + head / (heads.query / heads.kv)) * kSize;
  return {keys, keys + int64_t(heads.kv) * kSize, row, tile.length, shared_address(shared)};
}

/// One block per (query tile, query head).
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) forward_kernel(T* out, float* lse, const T* qkv, const int32_t* offsets,
                                                           int sequences, Heads heads, float scale, bool peer) {
  const Tile tile = find_tile(offsets, sequences, gridDim.x - 1 - blockIdx.x, kTile);
  if (tile.rows <= 0) return;
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, head = blockIdx.y;
  const int first = tile.first + warp * kRows, valid = tile.rows - warp * kRows;
  const int64_t token = tile.begin + first;
  const KeyTiles<T, kSize> tiles = key_tiles<T, kSize>(tile, qkv, heads, head, shared);
  uint32_t q[kSize / 16][4];
  load_rows<T, kSize>(q, qkv + token * tiles.row + int64_t(head) * kSize, tiles.row, valid);

  float o[kSize / 8][4] = {}, high[2] = {-INFINITY, -INFINITY}, total[2] = {};
  tiles.for_each(tile.first / kTile + 1, [&](int i) {
    float p[kTile / 8][4] = {};
#pragma unroll
    for (int k = 0; k < kSize / 16; ++k)
#pragma unroll
      for (int n = 0; n < kTile / 16; ++n) {
        uint32_t b[4];
        load_b_of_columns<kSize>(b, tiles.key_tile(i), 16 * n, k);
        mma<T>(p[2 * n], q[k], b[0], b[1]);
        mma<T>(p[2 * n + 1], q[k], b[2], b[3]);
      }
    const bool diagonal = i * kTile == tile.first;
    float now[2] = {high[0], high[1]};
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool sees = !diagonal || 8 * n + 2 * t + j % 2 <= warp * kRows + g + j / 2 * 8;
        p[n][j] = sees ? p[n][j] * scale : -INFINITY;
        now[j / 2] = fmaxf(now[j / 2], p[n][j]);
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], __shfl_xor_sync(0xffffffffu, now[r], 1));
      now[r] = fmaxf(now[r], __shfl_xor_sync(0xffffffffu, now[r], 2));
      const float factor = exp2f(high[r] - now[r]);  // every row sees a key of every tile: now is finite
      high[r] = now[r];
      total[r] *= factor;
#pragma unroll
      for (int n = 0; n < kSize / 8; ++n) {
        o[n][2 * r] *= factor;
        o[n][2 * r + 1] *= factor;
      }
    }
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        p[n][j] = exp2f(p[n][j] - high[j / 2]);
        total[j / 2] += p[n][j];
      }
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      uint32_t weight[4], rest[4];
      to_operand<T>(weight, p[2 * k], p[2 * k + 1]);
      float left[4], right[4];
      to_rest<T>(left, p[2 * k]);
      to_rest<T>(right, p[2 * k + 1]);
      to_operand<T>(rest, left, right);
#pragma unroll
      for (int n = 0; n < kSize / 16; ++n) {
        uint32_t b[4];
        load_b_of_rows<kSize>(b, tiles.value_tile(i), 16 * k, n);
        mma<T>(o[2 * n], weight, b[0], b[1]);
        mma<T>(o[2 * n + 1], weight, b[2], b[3]);
        if (peer) continue;
        mma<T>(o[2 * n], rest, b[0], b[1]);
        mma<T>(o[2 * n + 1], rest, b[2], b[3]);
      }
    }
  });
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    if (t == 0 && g + 8 * r < valid)
      lse[(token + g + 8 * r) * heads.query + head] = fmaf(high[r], kLn2, logf(total[r]));
  }
  store_rows<T, kSize>(out + (token * heads.query + head) * kSize, int64_t(heads.query) * kSize, valid, o,
                       1.0f / total[0], 1.0f / total[1]);
}

/// One block per (query tile, query head): dq over ascending key tiles, half a tile at a time.
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads)
    dq_kernel(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta, const int32_t* offsets,
              int sequences, Heads heads, float scale) {
  const Tile tile = find_tile(offsets, sequences, gridDim.x - 1 - blockIdx.x, kTile);
  if (tile.rows <= 0) return;
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, head = blockIdx.y;
  const int valid = tile.rows - warp * kRows;
  const int64_t token = tile.begin + tile.first + warp * kRows, out_row = int64_t(heads.query) * kSize;
  const KeyTiles<T, kSize> tiles = key_tiles<T, kSize>(tile, qkv, heads, head, shared);
  uint32_t q[kSize / 16][4], d_o[kSize / 16][4];
  load_rows<T, kSize>(q, qkv + token * tiles.row + int64_t(head) * kSize, tiles.row, valid);
  load_rows<T, kSize>(d_o, dout + token * out_row + int64_t(head) * kSize, out_row, valid);
  float row_lse[2], row_delta[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t at = (token + g + 8 * r) * heads.query + head;
    const bool there = g + 8 * r < valid;
    row_lse[r] = there ? lse[at] * kLog2e : 0.0f;
    row_delta[r] = there ? delta[at] : 0.0f;
  }

  float dq[kSize / 8][4] = {};
  tiles.for_each(tile.first / kTile + 1, [&](int i) {
    const bool diagonal = i * kTile == tile.first;
#pragma unroll 1
    for (int half = 0; half < kTile; half += kHalf) {
      float p[kHalf / 8][4] = {}, ds[kHalf / 8][4] = {};
#pragma unroll
      for (int k = 0; k < kSize / 16; ++k)
#pragma unroll
        for (int n = 0; n < kHalf / 16; ++n) {
          uint32_t b[4];
          load_b_of_columns<kSize>(b, tiles.key_tile(i), half + 16 * n, k);
          mma<T>(p[2 * n], q[k], b[0], b[1]);
          mma<T>(p[2 * n + 1], q[k], b[2], b[3]);
          load_b_of_columns<kSize>(b, tiles.value_tile(i), half + 16 * n, k);
          mma<T>(ds[2 * n], d_o[k], b[0], b[1]);
          mma<T>(ds[2 * n + 1], d_o[k], b[2], b[3]);
        }
#pragma unroll
      for (int n = 0; n < kHalf / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const bool sees = !diagonal || half + 8 * n + 2 * t + j % 2 <= warp * kRows + g + j / 2 * 8;
          const float prob = sees ? exp2f(fmaf(p[n][j], scale * kLog2e, -row_lse[j / 2])) : 0.0f;
          ds[n][j] = scale * prob * (ds[n][j] - row_delta[j / 2]);
        }
#pragma unroll
      for (int k = 0; k < kHalf / 16; ++k) {
        uint32_t a[4];
        to_operand<T>(a, ds[2 * k], ds[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < kSize / 16; ++n) {
          uint32_t b[4];
          load_b_of_rows<kSize>(b, tiles.key_tile(i), half + 16 * k, n);
          mma<T>(dq[2 * n], a, b[0], b[1]);
          mma<T>(dq[2 * n + 1], a, b[2], b[3]);
        }
      }
    }
  });
  store_rows<T, kSize>(dqkv + token * tiles.row + int64_t(head) * kSize, tiles.row, valid, dq, 1.0f, 1.0f);
}

/// dv += P . dO and dk += dS . q of rows half.. of a query tile, P and dS rounded to T.
template <class T, int kSize>
__device__ __forceinline__ void add_gradients(float (&dk)[kSize / 8][4], float (&dv)[kSize / 8][4],
                                              const float (&p)[kHalf / 8][4], const float (&ds)[kHalf / 8][4],
                                              uint32_t q, uint32_t d_o, int half) {
#pragma unroll
  for (int k = 0; k < kHalf / 16; ++k) {
    uint32_t a[4], b[4];
    to_operand<T>(a, p[2 * k], p[2 * k + 1]);
#pragma unroll
    for (int n = 0; n < kSize / 16; ++n) {
      load_b_of_rows<kSize>(b, d_o, half + 16 * k, n);
      mma<T>(dv[2 * n], a, b[0], b[1]);
      mma<T>(dv[2 * n + 1], a, b[2], b[3]);
    }
    to_operand<T>(a, ds[2 * k], ds[2 * k + 1]);
#pragma unroll
    for (int n = 0; n < kSize / 16; ++n) {
      load_b_of_rows<kSize>(b, q, half + 16 * k, n);
      mma<T>(dk[2 * n], a, b[0], b[1]);
      mma<T>(dk[2 * n + 1], a, b[2], b[3]);
    }
  }
}

/// One block per (key tile, kv head): dk and dv over ascending query tiles, then the query heads of the group. Scores
/// are transposed: a warp's rows are keys.
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads)
    dkdv_kernel(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta, const int32_t* offsets,
                int sequences, Heads heads, float scale) {
  const Tile tile = find_tile(offsets, sequences, blockIdx.x, kTile);
  if (tile.rows <= 0) return;
  extern __shared__ uint4 shared[];
  __shared__ float2 numbers[2][kTile];  // lse (in units of log 2) and delta of the rows of a query tile
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int group = blockIdx.y, ratio = heads.query / heads.kv;
  const int64_t row = row_of(heads), out_row = int64_t(heads.query) * kSize, token = tile.begin + tile.first;
  const int64_t key_column = int64_t(heads.query + group) * kSize,
                value_column = key_column + int64_t(heads.kv) * kSize;
  const uint32_t key_tile = shared_address(shared), value_tile = key_tile + kTileBytes<kSize>,
                 queries = value_tile + kTileBytes<kSize>;
  const auto query_tile = [&](int i) { return queries + i % 2 * 2 * kTileBytes<kSize>; };
  const int steps = (tile.length - tile.first + kTile - 1) / kTile * ratio;
  // Step i: query tile i / ratio, head i % ratio of the group.
  const auto start_copy = [&](int i) {
    const int query = tile.first + i / ratio * kTile, head = group * ratio + i % ratio, rows = tile.length - query;
    const int64_t at = tile.begin + query;
    copy_tile_async<kThreads, kTile, kSize>(query_tile(i), qkv + at * row + int64_t(head) * kSize, row, rows);
    copy_tile_async<kThreads, kTile, kSize>(query_tile(i) + kTileBytes<kSize>,
                                            dout + at * out_row + int64_t(head) * kSize, out_row, rows);
    if (threadIdx.x < kTile) {
      const int64_t n = (at + threadIdx.x) * heads.query + head;
      numbers[i % 2][threadIdx.x] =
          int(threadIdx.x) < rows ? make_float2(lse[n] * kLog2e, delta[n]) : make_float2(0.0f, 0.0f);
    }
  };
  copy_tile_async<kThreads, kTile, kSize>(key_tile, qkv + token * row + key_column, row, tile.rows);
  copy_tile_async<kThreads, kTile, kSize>(value_tile, qkv + token * row + value_column, row, tile.rows);
  start_copy(0);
  commit_copies();

  float dk[kSize / 8][4] = {}, dv[kSize / 8][4] = {};
  for (int i = 0; i < steps; ++i) {
    if (i + 1 < steps) start_copy(i + 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const int query = tile.first + i / ratio * kTile, rows = tile.length - query;
    const uint32_t q = query_tile(i), d_o = q + kTileBytes<kSize>;
#pragma unroll 1
    for (int half = 0; half < kTile; half += kHalf) {
      float p[kHalf / 8][4] = {}, ds[kHalf / 8][4] = {};
#pragma unroll
      for (int k = 0; k < kSize / 16; ++k) {
        uint32_t a[4], b[4];
        load_a<kSize>(a, key_tile, warp * kRows, k);
#pragma unroll
        for (int n = 0; n < kHalf / 16; ++n) {
          load_b_of_columns<kSize>(b, q, half + 16 * n, k);
          mma<T>(p[2 * n], a, b[0], b[1]);
          mma<T>(p[2 * n + 1], a, b[2], b[3]);
        }
        load_a<kSize>(a, value_tile, warp * kRows, k);
#pragma unroll
        for (int n = 0; n < kHalf / 16; ++n) {
          load_b_of_columns<kSize>(b, d_o, half + 16 * n, k);
          mma<T>(ds[2 * n], a, b[0], b[1]);
          mma<T>(ds[2 * n + 1], a, b[2], b[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < kHalf / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int r = half + 8 * n + 2 * t + j % 2;  // query in its tile
          const float2 number = numbers[i % 2][r];
          const bool sees = r < rows && query + r >= tile.first + warp * kRows + g + j / 2 * 8;
          p[n][j] = sees ? exp2f(fmaf(p[n][j], scale * kLog2e, -number.x)) : 0.0f;
          ds[n][j] = scale * p[n][j] * (ds[n][j] - number.y);
        }
      add_gradients<T, kSize>(dk, dv, p, ds, q, d_o, half);
    }
    __syncthreads();
  }
  const int valid = tile.rows - warp * kRows;
  T* to = dqkv + (token + warp * kRows) * row;
  store_rows<T, kSize>(to + key_column, row, valid, dk, 1.0f, 1.0f);
  store_rows<T, kSize>(to + value_column, row, valid, dv, 1.0f, 1.0f);
}

template <class Kernel, class... Args>
void launch(Kernel* kernel, dim3 grid, int shared, cudaStream_t stream, Args... args) {
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  kernel<<<grid, kThreads, shared, stream>>>(args...);
  MANTISSA_LAUNCH_CHECK();
}

/// Calls f with the type and the head size when they have kernels here; false otherwise.
template <class F>
bool visit_tensor(Dtype dtype, int size, F&& f) {
  if (!is_16bit(dtype) || (size != 64 && size != 128)) return false;
  const auto with_type = [&](auto type) {
    if (size == 64)
      f(type, std::integral_constant<int, 64>());
    else
      f(type, std::integral_constant<int, 128>());
  };
  if (dtype == Dtype::kF16)
    with_type(std::type_identity<__half>());
  else
    with_type(std::type_identity<__nv_bfloat16>());
  return true;
}

}  // namespace

bool tensor_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, Heads heads) {
  const int sequences = int(offsets.numel()) - 1;
  return visit_tensor(
      qkv.dtype(), heads.size, [&]<class T, int kSize>(std::type_identity<T>, std::integral_constant<int, kSize>) {
        launch(forward_kernel<T, kSize>, dim3(tile_ids(qkv.size(0), sequences, kTile), heads.query),
               4 * kTileBytes<kSize>, stream(exec), elements<T>(out), lse.data<float>(), elements<T>(qkv),
               offsets.data<int32_t>(), sequences, heads, softmax_scale(heads) * kLog2e, exec.match == Match::kPeer);
      });
}

bool tensor_attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const float* delta,
                          const Tensor& lse, const Tensor& offsets, Heads heads) {
  const int sequences = int(offsets.numel()) - 1;
  return visit_tensor(
      qkv.dtype(), heads.size, [&]<class T, int kSize>(std::type_identity<T>, std::integral_constant<int, kSize>) {
        const auto run = [&](auto* kernel, int y, int tiles) {
          launch(kernel, dim3(tile_ids(qkv.size(0), sequences, kTile), y), tiles * kTileBytes<kSize>, stream(exec),
                 elements<T>(dqkv), elements<T>(dout), elements<T>(qkv), lse.data<float>(), delta,
                 offsets.data<int32_t>(), sequences, heads, softmax_scale(heads));
        };
        run(dq_kernel<T, kSize>, heads.query, 4);
        run(dkdv_kernel<T, kSize>, heads.kv, 6);
      });
}

}  // namespace mantissa::cuda_kernels
