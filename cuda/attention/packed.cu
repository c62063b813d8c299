// Own packed causal attention, forward and backward, on the ordinary cores: fp32 arithmetic for every type and head
// size. tensor.cu takes what tensor cores serve.
//
// A block owns a tile of rows of one head and visits tiles of the other side in a fixed order, tiles counted from the
// beginning of the sequence: no atomics, results do not depend on the neighbours in the batch. The backward makes two
// passes over the scores, one for dq and one for dk and dv:
//   P = exp(scale q.k - lse)   delta = rowsum(dO * O)   dS = scale * P * (dO.v - delta)
//   dv += P^T dO   dk += dS^T q   dq += dS k
//
// Legend: T tokens, S sequences, H/G/D heads. qkv[T,(H+2G)D], out[T,HD], lse[T,H], offsets[S+1].
#include "cuda/attention/attention.h"
#include "cuda/attention/tiles.cuh"

namespace mantissa::cuda_kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 256;  // a square of kSide x kSide threads over a tile of scores
constexpr int kSide = 16;

/// Rows of a tile in shared memory are this many floats apart: 16-byte aligned, and consecutive rows start in different
/// banks.
__host__ __device__ constexpr int padded(int size) {
  return size + 4;
}

template <int kTile>
constexpr int kScoreRow = kTile + 4;

/// tile[kTile, size] = the rows of a matrix, zero beyond `rows`.
template <int kTile, class T>
__device__ void load_tile(float* tile, const T* in, int64_t stride, int rows, int size) {
  constexpr int kVector = 8;
  const int vectors = size / kVector;
  for (int i = threadIdx.x; i < kTile * vectors; i += kThreads) {
    const int r = i / vectors, d = i % vectors * kVector;
    float x[kVector] = {};
    if (r < rows) load_floats(x, in + r * stride + d);
    store_shared(tile + r * padded(size) + d, x);
  }
}

/// Row i and column j of this thread's scores: rows ty + kSide i, columns tx + kSide j.
struct Place {
  int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
};

/// s[i][j] = row (ty + kSide i) of a times row (tx + kSide j) of b.
template <int kTile>
__device__ void tile_dot(float (&s)[kTile / kSide][kTile / kSide], const float* a, const float* b, int size) {
  constexpr int kEach = kTile / kSide;
  const Place at;
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) s[i][j] = 0;
  for (int d = 0; d < size; d += 4) {
    float4 x[kEach], y[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      x[i] = *reinterpret_cast<const float4*>(a + (at.ty + kSide * i) * padded(size) + d);
      y[i] = *reinterpret_cast<const float4*>(b + (at.tx + kSide * i) * padded(size) + d);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        s[i][j] = fmaf(x[i].x, y[j].x, s[i][j]);
        s[i][j] = fmaf(x[i].y, y[j].y, s[i][j]);
        s[i][j] = fmaf(x[i].z, y[j].z, s[i][j]);
        s[i][j] = fmaf(x[i].w, y[j].w, s[i][j]);
      }
  }
}

/// acc row (ty + kSide i), columns 4 tx + 64 j .. + 3: the rows of the block's tile times the whole head size.
template <int kTile, int kColumns>
struct Accumulator {
  static constexpr int kRows = kTile / kSide;
  float4 v[kRows][kColumns];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j) v[i][j] = make_float4(0, 0, 0, 0);
  }
  /// v[r] += sum over l of scores(r, l) * b[l], l ascending. scores(r, l) is at r * row_step + l * step.
  __device__ void add(const float* scores, int row_step, int step, const float* b, int size) {
    const Place at;
    for (int l = 0; l < kTile; ++l) {
      float p[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) p[i] = scores[(at.ty + kSide * i) * row_step + l * step];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int d = 4 * at.tx + 64 * j;
        if (d >= size) break;
        const float4 x = *reinterpret_cast<const float4*>(b + l * padded(size) + d);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          v[i][j].x = fmaf(p[i], x.x, v[i][j].x);
          v[i][j].y = fmaf(p[i], x.y, v[i][j].y);
          v[i][j].z = fmaf(p[i], x.z, v[i][j].z);
          v[i][j].w = fmaf(p[i], x.w, v[i][j].w);
        }
      }
    }
  }
  /// Rounds to out[rows, size]; f(value, row of the tile) is what is stored.
  template <class T, class F>
  __device__ void store(T* out, int64_t stride, int rows, int size, F f) const {
    const Place at;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int r = at.ty + kSide * i;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const int d = 4 * at.tx + 64 * j;
        if (d >= size || r >= rows) continue;
        const float x[4] = {f(v[i][j].x, r), f(v[i][j].y, r), f(v[i][j].z, r), f(v[i][j].w, r)};
        store_floats(out + r * stride + d, x);
      }
    }
  }
};

/// Writes this thread's scores to tile[kTile, kScoreRow].
template <int kTile>
__device__ void keep_scores(float* tile, const float (&s)[kTile / kSide][kTile / kSide]) {
  const Place at;
#pragma unroll
  for (int i = 0; i < kTile / kSide; ++i)
#pragma unroll
    for (int j = 0; j < kTile / kSide; ++j) tile[(at.ty + kSide * i) * kScoreRow<kTile> + at.tx + kSide * j] = s[i][j];
}

/// One block per (query tile, query head). Scores in shared memory; kThreads / kTile threads share the softmax of a
/// row.
template <class T, int kTile, int kColumns>
__global__ void __launch_bounds__(kThreads) forward_kernel(T* out, float* lse, const T* qkv, const int32_t* offsets,
                                                           int sequences, Heads heads, float scale, bool round_p) {
  const Tile tile = find_tile(offsets, sequences, gridDim.x - 1 - blockIdx.x, kTile);
  if (tile.rows <= 0) return;
  extern __shared__ float4 shared[];
  const int size = heads.size, head = blockIdx.y;
  float* q = reinterpret_cast<float*>(shared);
  float* kv = q + kTile * padded(size);
  float* p = kv + kTile * padded(size);
  float* high = p + kTile * kScoreRow<kTile>;  // per row: maximum so far, sum, and the factor of the old output
  float* total = high + kTile;
  float* keep = total + kTile;

  const int64_t row = row_of(heads);
  const T* in = qkv + tile.begin * row;
  const T* keys = in + int64_t(heads.query + head / (heads.query / heads.kv)) * size;
  const T* values = keys + int64_t(heads.kv) * size;
  load_tile<kTile>(q, in + tile.first * row + int64_t(head) * size, row, tile.rows, size);
  if (threadIdx.x < kTile) {
    high[threadIdx.x] = -INFINITY;
    total[threadIdx.x] = 0;
  }
  Accumulator<kTile, kColumns> o;
  o.clear();
  const Place at;
  for (int key = 0; key <= tile.first; key += kTile) {
    const int count = min(kTile, tile.length - key);
    __syncthreads();
    load_tile<kTile>(kv, keys + key * row, row, count, size);
    __syncthreads();
    float s[kTile / kSide][kTile / kSide];
    tile_dot<kTile>(s, q, kv, size);
    keep_scores<kTile>(p, s);
    __syncthreads();
    load_tile<kTile>(kv, values + key * row, row, count, size);
    {
      constexpr int kSharers = kThreads / kTile, kEach = kTile / kSharers;
      const int r = threadIdx.x / kSharers, lane = threadIdx.x % kSharers;
      const int limit = min(count, tile.first + r - key + 1);  // keys that row r sees, at least one
      float* scores = p + r * kScoreRow<kTile>;
      float top = -INFINITY;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int l = lane + kSharers * j;
        if (l < limit) top = fmaxf(top, scores[l] * scale);
      }
#pragma unroll
      for (int offset = kSharers / 2; offset > 0; offset /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
      const float before = high[r], now = fmaxf(before, top);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int l = lane + kSharers * j;
        const float weight = l < limit ? expf(scores[l] * scale - now) : 0.0f;
        sum += weight;
        scores[l] = round_p ? rounded<T>(weight) : weight;
      }
#pragma unroll
      for (int offset = kSharers / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      __syncwarp();  // every lane has read the old maximum
      if (lane == 0) {
        const float factor = expf(before - now);  // 0 at the first tile
        keep[r] = factor;
        high[r] = now;
        total[r] = fmaf(total[r], factor, sum);
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile / kSide; ++i) {
      const float factor = keep[at.ty + kSide * i];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        o.v[i][j].x *= factor;
        o.v[i][j].y *= factor;
        o.v[i][j].z *= factor;
        o.v[i][j].w *= factor;
      }
    }
    o.add(p, kScoreRow<kTile>, 1, kv, size);
  }
  const int64_t token = tile.begin + tile.first;
  o.store(out + (token * heads.query + head) * size, int64_t(heads.query) * size, tile.rows, size,
          [&](float x, int r) { return x / total[r]; });
  if (threadIdx.x < tile.rows)
    lse[(token + threadIdx.x) * heads.query + head] = high[threadIdx.x] + logf(total[threadIdx.x]);
}

/// delta[t,h] = dO . O, one warp each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    delta_kernel(float* delta, const T* dout, const T* out, int64_t count, int size) {
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (i >= count) return;
  float sum = 0;
  for (int d = threadIdx.x % kWarp; d < size; d += kWarp)
    sum = fmaf(to_float(dout[i * size + d]), to_float(out[i * size + d]), sum);
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) delta[i] = sum;
}

/// Of a tile of scores: P, and dS = scale * P * (dO.v - delta), into shared memory; zero where the query does not see
/// the key. Rows are queries from `query` on, columns keys from `key` on, both counted in the sequence.
template <int kTile>
__device__ void score_gradient(float* p, float* ds, const float* q, const float* d_o, const float* k, const float* v,
                               const float* lse, const float* delta, int query, int key, int length, int size,
                               float scale) {
  constexpr int kEach = kTile / kSide;
  const Place at;
  float s[kEach][kEach], dp[kEach][kEach];
  tile_dot<kTile>(s, q, k, size);
  tile_dot<kTile>(dp, d_o, v, size);
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int r = at.ty + kSide * i, c = at.tx + kSide * j;
      const bool sees = query + r < length && key + c <= query + r;
      s[i][j] = sees ? expf(s[i][j] * scale - lse[r]) : 0.0f;
      dp[i][j] = sees ? scale * s[i][j] * (dp[i][j] - delta[r]) : 0.0f;
    }
  if (p) keep_scores<kTile>(p, s);
  keep_scores<kTile>(ds, dp);
}

/// lse and delta of the rows of a query tile.
template <int kTile>
__device__ void load_row_numbers(float* lse_tile, float* delta_tile, const float* lse, const float* delta,
                                 int64_t token, int rows, int head, int heads) {
  if (threadIdx.x < kTile) {
    const bool valid = int(threadIdx.x) < rows;
    const int64_t at = (token + threadIdx.x) * heads + head;
    lse_tile[threadIdx.x] = valid ? lse[at] : 0.0f;
    delta_tile[threadIdx.x] = valid ? delta[at] : 0.0f;
  }
}

/// One block per (query tile, query head): dq over ascending key tiles.
template <class T, int kTile, int kColumns>
__global__ void __launch_bounds__(kThreads)
    dq_kernel(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta, const int32_t* offsets,
              int sequences, Heads heads, float scale) {
  const Tile tile = find_tile(offsets, sequences, gridDim.x - 1 - blockIdx.x, kTile);
  if (tile.rows <= 0) return;
  extern __shared__ float4 shared[];
  const int size = heads.size, head = blockIdx.y, area = kTile * padded(size);
  float* q = reinterpret_cast<float*>(shared);
  float *d_o = q + area, *k = d_o + area, *v = k + area, *ds = v + area;
  float *lse_tile = ds + 2 * kTile * kScoreRow<kTile>, *delta_tile = lse_tile + kTile;

  const int64_t row = row_of(heads), out_row = int64_t(heads.query) * size, token = tile.begin + tile.first;
  const T* keys = qkv + tile.begin * row + int64_t(heads.query + head / (heads.query / heads.kv)) * size;
  const T* values = keys + int64_t(heads.kv) * size;
  load_tile<kTile>(q, qkv + token * row + int64_t(head) * size, row, tile.rows, size);
  load_tile<kTile>(d_o, dout + token * out_row + int64_t(head) * size, out_row, tile.rows, size);
  load_row_numbers<kTile>(lse_tile, delta_tile, lse, delta, token, tile.rows, head, heads.query);
  Accumulator<kTile, kColumns> dq;
  dq.clear();
  for (int key = 0; key <= tile.first; key += kTile) {
    const int count = min(kTile, tile.length - key);
    __syncthreads();
    load_tile<kTile>(k, keys + key * row, row, count, size);
    load_tile<kTile>(v, values + key * row, row, count, size);
    __syncthreads();
    score_gradient<kTile>(nullptr, ds, q, d_o, k, v, lse_tile, delta_tile, tile.first, key, tile.length, size, scale);
    __syncthreads();
    dq.add(ds, kScoreRow<kTile>, 1, k, size);
  }
  dq.store(dqkv + token * row + int64_t(head) * size, row, tile.rows, size, [](float x, int) { return x; });
}

/// One block per (key tile, kv head): dk and dv over ascending query tiles, then the query heads of the group.
template <class T, int kTile, int kColumns>
__global__ void __launch_bounds__(kThreads)
    dkdv_kernel(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta, const int32_t* offsets,
                int sequences, Heads heads, float scale) {
  const Tile tile = find_tile(offsets, sequences, blockIdx.x, kTile);
  if (tile.rows <= 0) return;
  extern __shared__ float4 shared[];
  const int size = heads.size, group = blockIdx.y, ratio = heads.query / heads.kv, area = kTile * padded(size);
  float* k = reinterpret_cast<float*>(shared);
  float *v = k + area, *q = v + area, *d_o = q + area, *p = d_o + area, *ds = p + kTile * kScoreRow<kTile>;
  float *lse_tile = ds + kTile * kScoreRow<kTile>, *delta_tile = lse_tile + kTile;

  const int64_t row = row_of(heads), out_row = int64_t(heads.query) * size, token = tile.begin + tile.first;
  const int64_t key_column = int64_t(heads.query + group) * size, value_column = key_column + int64_t(heads.kv) * size;
  load_tile<kTile>(k, qkv + token * row + key_column, row, tile.rows, size);
  load_tile<kTile>(v, qkv + token * row + value_column, row, tile.rows, size);
  Accumulator<kTile, kColumns> dk, dv;
  dk.clear();
  dv.clear();
  for (int query = tile.first; query < tile.length; query += kTile)
    for (int head = group * ratio; head < (group + 1) * ratio; ++head) {
      const int rows = min(kTile, tile.length - query);
      const int64_t at = tile.begin + query;
      __syncthreads();
      load_tile<kTile>(q, qkv + at * row + int64_t(head) * size, row, rows, size);
      load_tile<kTile>(d_o, dout + at * out_row + int64_t(head) * size, out_row, rows, size);
      load_row_numbers<kTile>(lse_tile, delta_tile, lse, delta, at, rows, head, heads.query);
      __syncthreads();
      score_gradient<kTile>(p, ds, q, d_o, k, v, lse_tile, delta_tile, query, tile.first, tile.length, size, scale);
      __syncthreads();
      dv.add(p, 1, kScoreRow<kTile>, d_o, size);
      dk.add(ds, 1, kScoreRow<kTile>, q, size);
    }
  const auto same = [](float x, int) { return x; };
  dk.store(dqkv + token * row + key_column, row, tile.rows, size, same);
  dv.store(dqkv + token * row + value_column, row, tile.rows, size, same);
}

/// Launches with as much shared memory as asked for.
template <class Kernel, class... Args>
void launch(Kernel* kernel, dim3 grid, size_t shared, cudaStream_t stream, Args... args) {
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  kernel<<<grid, kThreads, shared, stream>>>(args...);
  MANTISSA_LAUNCH_CHECK();
}

size_t shared_bytes(int tile, int tiles, int size, int score_tiles, int row_numbers) {
  return sizeof(float) * size_t(tile * (tiles * padded(size) + score_tiles * (tile + 4) + row_numbers));
}

/// Calls f(tile rows, 64-column strips): small tiles for wide heads, so that they fit in 99 KB of shared memory.
template <int kWide, int kNarrow, class F>
void visit_size(int size, F&& f) {
  check(size <= 256, "[attention] head sizes up to 256 have a CUDA kernel: got ", size);
  if (size <= 128)
    f(std::integral_constant<int, kWide>(), std::integral_constant<int, 2>());
  else
    f(std::integral_constant<int, kNarrow>(), std::integral_constant<int, 4>());
}

}  // namespace

void own_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, int64_t,
                       Heads heads) {
  if (tensor_attention_fwd(exec, out, lse, qkv, offsets, heads)) return;
  const int sequences = int(offsets.numel()) - 1;
  const bool round_p = exec.match == Match::kPeer;
  visit_float(
      qkv.dtype(),
      [&]<class T>(std::type_identity<T>) {
        visit_size<64, 32>(heads.size, [&]<int kTile, int kColumns>(std::integral_constant<int, kTile>,
                                                                    std::integral_constant<int, kColumns>) {
          launch(forward_kernel<T, kTile, kColumns>, dim3(tile_ids(qkv.size(0), sequences, kTile), heads.query),
                 shared_bytes(kTile, 2, heads.size, 1, 3), stream(exec), elements<T>(out), lse.data<float>(),
                 elements<T>(qkv), offsets.data<int32_t>(), sequences, heads, softmax_scale(heads), round_p);
        });
      },
      "attention_fwd");
}

void own_attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse, const Tensor& offsets, int64_t, Heads heads) {
  const int sequences = int(offsets.numel()) - 1;
  const int64_t count = qkv.size(0) * heads.query;
  Scratch scratch(exec);
  float* delta = scratch.take<float>(count);
  visit_float(
      qkv.dtype(),
      [&]<class T>(std::type_identity<T>) {
        delta_kernel<<<blocks(count * kWarp, kThreads), kThreads, 0, stream(exec)>>>(
            delta, elements<T>(dout), elements<T>(out), count, heads.size);
        MANTISSA_LAUNCH_CHECK();
        if (tensor_attention_bwd(exec, dqkv, dout, qkv, delta, lse, offsets, heads)) return;
        visit_size<32, 16>(heads.size, [&]<int kTile, int kColumns>(std::integral_constant<int, kTile>,
                                                                    std::integral_constant<int, kColumns>) {
          const unsigned tiles = tile_ids(qkv.size(0), sequences, kTile);
          const size_t shared = shared_bytes(kTile, 4, heads.size, 2, 2);
          const auto run = [&](auto* kernel, int y) {
            launch(kernel, dim3(tiles, y), shared, stream(exec), elements<T>(dqkv), elements<T>(dout), elements<T>(qkv),
                   lse.data<float>(), delta, offsets.data<int32_t>(), sequences, heads, softmax_scale(heads));
          };
          run(dq_kernel<T, kTile, kColumns>, heads.query);
          run(dkdv_kernel<T, kTile, kColumns>, heads.kv);
        });
      },
      "attention_bwd");
}

}  // namespace mantissa::cuda_kernels
