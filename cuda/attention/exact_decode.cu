// Paged decode by the definition of exact.cuh: one query row a sequence against the pages of its cache, with the bits
// of the packed kernel. A block has one segment of 1,024 keys of a row and up to 16 query heads of one kv head; a
// second kernel folds the segments of rows that have several.
//
// Legend: B rows, H/G/D heads, P pages. pages[2,P,kAttentionTile,GD], table[B,max_pages], lengths[B], out[B,HD].
#include "cuda/attention/attention.h"
#include "cuda/attention/exact.cuh"

namespace mantissa::cuda_kernels {
namespace exact {
namespace {

constexpr int kHeads = 16;  // rows of a product

/// Tiles of keys and values in a block's shared memory: the one it works on and those on their way. Two let the most
/// blocks share a multiprocessor; a block that has one nearly to itself needs more, to keep memory busy alone.
constexpr int kFewTiles = 2;
template <int kSize>
constexpr int kManyTiles = kSize <= 64 ? 5 : 3;

template <class T>
struct Task {
  T* out;
  float* part;          // [B, segments, H, D] outputs of segments
  float2* part_weight;  // [B, segments, H] maximum and sum
  const T* qkv;
  const T* pages;
  const int32_t *table, *lengths;
  Heads heads;
  int64_t plane;  // elements from keys to values
  int max_pages, segments;
  float c;
};

constexpr int kWeightRow = kTile + 8;  // rows of P lie 16 bytes further apart than they are long

/// What the warps of a block exchange: the heads' maxima in a tile, and P of a tile.
template <class T>
struct Exchange {
  float tops[kWarps][kHeads];
  alignas(16) T weights[kHeads * kWeightRow];
};

/// What a block works on: a segment of row b, and heads [first_head, first_head + heads_here) of kv head `group`.
struct Place {
  int b, group, first_head, heads_here, length, from, until;

  template <class T>
  __device__ explicit Place(const Task<T>& task) : b(blockIdx.z) {
    const int ratio = task.heads.query / task.heads.kv, tiles = (ratio + kHeads - 1) / kHeads;
    const int in_group = blockIdx.y % tiles * kHeads;
    group = blockIdx.y / tiles;
    heads_here = min(kHeads, ratio - in_group);
    first_head = group * ratio + in_group;
    length = task.lengths[b];
    from = blockIdx.x * kSegment;
    until = min(length, from + kSegment);
  }
  __device__ int tiles() const { return (until - from + kTile - 1) / kTile; }
  __device__ int valid(int tile) const { return until - from - tile * kTile; }
};

/// Starts the copies of a tile, a page, zeros beyond the row's end. A group of copies even past the last tile, so that
/// counting stays simple.
template <class T, int kSize, int kStages>
__device__ __forceinline__ void start_tile(const Task<T>& task, const Place& at, uint32_t stages, int i) {
  using Keys = KeyTile<kSize>;
  if (i < at.tiles()) {
    const int64_t cell = int64_t(task.heads.kv) * kSize;
    const int32_t id = task.table[int64_t(at.b) * task.max_pages + at.from / kTile + i];
    const T* page = task.pages + int64_t(id) * kTile * cell + int64_t(at.group) * kSize;
    const uint32_t to = stages + i % kStages * 2 * Keys::kBytes;
    const int valid = at.valid(i);
#pragma unroll
    for (int j = 0; j < kTile * Keys::kPieces / kThreads; ++j) {
      const int piece = j * kThreads + threadIdx.x, r = piece / Keys::kPieces, c = piece % Keys::kPieces;
      const T* row = page + r * cell + c * 8;
      copy_async(to + r * Keys::kRow + c * 16, row, r < valid);
      copy_async(to + Keys::kBytes + r * Keys::kRow + c * 16, row + task.plane, r < valid);
    }
  }
  commit_copies();
}

/// The heads of a block as rows of products: lane (g, t) holds rows g and g + 8. A warp has 16 keys of a tile for the
/// scores, and blocks of 16 dimensions for the outputs: its own and every kWarps further.
template <class T, int kSize>
struct Rows {
  using Keys = KeyTile<kSize>;
  static constexpr int kSteps = kSize / 16, kOwn = (kSteps + kWarps - 1) / kWarps;

  uint32_t q[kSteps][4];
  float o[2 * kOwn][4] = {}, l[4] = {}, high[2] = {-INFINITY, -INFINITY};
  float p[2][4];  // scores of this warp's keys
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;

  __device__ __forceinline__ void load_queries(const T* query, int heads) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = g + i % 2 * 8;
        q[k][i] = r < heads ? *reinterpret_cast<const uint32_t*>(query + r * kSize + 16 * k + i / 2 * 8 + 2 * t) : 0u;
      }
  }

  /// Scores of this warp's keys, of which `valid` are there, and their maxima for the others.
  __device__ __forceinline__ void score(uint32_t keys, int valid, Exchange<T>& exchange) {
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
        if (8 * n + 2 * t + j % 2 >= valid) p[n][j] = -INFINITY;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float top = max_of_row(fmaxf(fmaxf(p[0][2 * r], p[0][2 * r + 1]), fmaxf(p[1][2 * r], p[1][2 * r + 1])));
      if (t == 0) exchange.tops[warp][g + 8 * r] = top;
    }
  }

  /// The new maxima, what was added up so far in their terms, and this warp's part of P.
  __device__ __forceinline__ void weigh(float c, Exchange<T>& exchange) {
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
        *reinterpret_cast<uint32_t*>(exchange.weights + (g + 8 * r) * kWeightRow + 16 * warp + 8 * n + 2 * t) =
            pack_two<T>(power_of_two(fmaf(p[n][2 * r], c, -base)), power_of_two(fmaf(p[n][2 * r + 1], c, -base)));
    }
  }

  __device__ __forceinline__ void add_values(uint32_t values, const Exchange<T>& exchange) {
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      uint32_t a[4];
      load_matrices(a, shared_address(exchange.weights + (lane % 16) * kWeightRow + 16 * k + lane / 16 * 8));
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

  /// To the output where the row has one segment, else aside for the fold.
  __device__ __forceinline__ void store(const Task<T>& task, const Place& at) const {
    const bool single = at.length <= kSegment;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int h = g + 8 * r;
      if (h >= at.heads_here) continue;
      const int64_t head = at.first_head + h, row = int64_t(at.b) * task.heads.query + head;
      const int64_t slot = (int64_t(at.b) * task.segments + blockIdx.x) * task.heads.query + head;
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

/// Block (segment, kv head and 16 of its query heads, row).
template <class T, int kSize, int kStages>
__global__ void __launch_bounds__(kThreads) decode_kernel(const __grid_constant__ Task<T> task) {
  using Keys = KeyTile<kSize>;
  extern __shared__ uint4 shared[];
  __shared__ Exchange<T> exchange;
  const Place at(task);
  if (at.length <= 0 && blockIdx.x == 0) {
    T* out = task.out + (int64_t(at.b) * task.heads.query + at.first_head) * kSize;
    for (int i = threadIdx.x; i < at.heads_here * kSize; i += kThreads) out[i] = from_float<T>(0.0f);
  }
  if (at.from >= at.until) return;
  const uint32_t stages = shared_address(shared);
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) start_tile<T, kSize, kStages>(task, at, stages, i);
  Rows<T, kSize> rows;
  rows.load_queries(task.qkv + at.b * row_of(task.heads) + int64_t(at.first_head) * kSize, at.heads_here);
  for (int i = 0; i < at.tiles(); ++i) {
    wait_copies<kStages - 2>();
    __syncthreads();
    start_tile<T, kSize, kStages>(task, at, stages, i + kStages - 1);
    const uint32_t keys = stages + i % kStages * 2 * Keys::kBytes;
    rows.score(keys, at.valid(i) - 16 * rows.warp, exchange);
    __syncthreads();
    rows.weigh(task.c, exchange);
    __syncthreads();
    rows.add_values(keys + Keys::kBytes, exchange);
  }
  rows.store(task, at);
}

/// A thread folds four elements of a row over its segments.
template <class T>
__global__ void __launch_bounds__(kThreads) fold_kernel(const __grid_constant__ Task<T> task) {
  const int b = blockIdx.y, size = task.heads.size, element = (blockIdx.x * kThreads + threadIdx.x) * 4;
  const int head = element / size, count = (task.lengths[b] + kSegment - 1) / kSegment;
  if (head >= task.heads.query || count <= 1) return;  // one segment is already in place
  float o[4], high, sum;
  for (int s = 0; s < count; ++s) {
    const int64_t slot = (int64_t(b) * task.segments + s) * task.heads.query + head;
    const float2 weight = task.part_weight[slot];
    float x[4];
    load_floats(x, task.part + slot * size + element % size);
    if (s == 0) {
      high = weight.x;
      sum = weight.y;
#pragma unroll
      for (int j = 0; j < 4; ++j) o[j] = x[j];
      continue;
    }
    const Fold fold(high, sum, weight.x, weight.y, task.c);
    high = fold.top;
    sum = fold.sum;
#pragma unroll
    for (int j = 0; j < 4; ++j) o[j] = fold(o[j], x[j]);
  }
  const float inverse = 1.0f / sum;
#pragma unroll
  for (int j = 0; j < 4; ++j) o[j] *= inverse;
  store_floats(task.out + int64_t(b) * task.heads.query * size + element, o);
}

template <class T>
bool decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table, const Tensor& lengths,
            Heads heads) {
  const int64_t batch = qkv.size(0);
  const int ratio = heads.query / heads.kv, max_pages = int(table.size(1));
  const int segments = std::max(1, (max_pages * kTile + kSegment - 1) / kSegment);
  check(batch <= 65535, "[attention_decode] at most 65535 rows, got ", batch, ": lower the decode batch");
  Scratch scratch(exec);
  Task<T> task{elements<T>(out),
               nullptr,
               nullptr,
               elements<T>(qkv),
               elements<T>(pages),
               table.data<int32_t>(),
               lengths.data<int32_t>(),
               heads,
               pages.numel() / 2,
               max_pages,
               segments,
               softmax_scale(heads) * kLog2e};
  return visit_head_size(heads.size, [&]<int kSize>(std::integral_constant<int, kSize>) {
    if (segments > 1) {
      task.part = scratch.take<float>(batch * segments * heads.query * heads.size);
      task.part_weight = scratch.take<float2>(batch * segments * heads.query);
    }
    const int64_t rows = heads.kv * ((ratio + kHeads - 1) / kHeads);
    const auto launch = [&]<int kTiles>(std::integral_constant<int, kTiles>) {
      constexpr int kShared = kTiles * 2 * KeyTile<kSize>::kBytes;
      auto* kernel = decode_kernel<T, kSize, kTiles>;
      MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
      kernel<<<dim3(segments, unsigned(rows), unsigned(batch)), kThreads, kShared, stream(exec)>>>(task);
      MANTISSA_LAUNCH_CHECK();
    };
    // Blocks that run at once with so many tiles.
    const auto at_once = [&](int tiles) {
      const size_t shared = size_t(tiles) * 2 * KeyTile<kSize>::kBytes + sizeof(Exchange<T>) + 1024;
      return int64_t(device_facts(exec).sms) * int64_t(device_facts(exec).shared_per_block / shared);
    };
    // More tiles where all blocks run at once with them, too, and where wide heads make blocks wait for their turn in
    // any case: then the last ones have a multiprocessor to themselves.
    const int64_t all = rows * batch;
    if (all <= at_once(kManyTiles<kSize>) || (kSize > 64 && all > at_once(kFewTiles)))
      launch(std::integral_constant<int, kManyTiles<kSize>>());
    else
      launch(std::integral_constant<int, kFewTiles>());
    if (segments == 1) return;
    fold_kernel<<<dim3(blocks(int64_t(heads.query) * kSize / 4, kThreads), unsigned(batch)), kThreads, 0,
                  stream(exec)>>>(task);
    MANTISSA_LAUNCH_CHECK();
  });
}

}  // namespace
}  // namespace exact

bool exact_attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                            const Tensor& lengths, Heads heads) {
  if (pages.dtype() != qkv.dtype()) return false;
  if (qkv.dtype() == Dtype::kF16) return exact::decode<__half>(exec, out, qkv, pages, table, lengths, heads);
  if (qkv.dtype() == Dtype::kBF16) return exact::decode<__nv_bfloat16>(exec, out, qkv, pages, table, lengths, heads);
  return false;
}

}  // namespace mantissa::cuda_kernels
