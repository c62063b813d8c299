// One query row per sequence against its paged keys and values. The price is reading the cache once, so all
// query heads of a kv head share the read, and enough blocks and copies are in flight to keep memory busy.
//
// A row's pages are cut into splits by a rule that knows the row's length only; a block does one (split, kv
// head, row), and a second kernel folds the splits of a row in ascending order. So a row gives the same bits
// alone and in any batch. Two ways through a block: tensor cores for 16-bit caches of 64 or 128 wide heads,
// ordinary cores for the rest. Softmax is kept in units of log 2: z = q.k * scale * log2(e).
//
// Legend: B rows, H/G/D heads, P pages. pages[2,P,kAttentionTile,GD], table[B,max_pages], lengths[B],
// out[B,HD].
#include "cuda/attention/attention.h"
#include "cuda/attention/tiles.cuh"
#include "cuda/mma.cuh"

namespace mantissa::cuda_kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxSplits = 16;
constexpr int kPagesOfSplit = 8;  // shorter splits would spend their time on starting and on partial results

/// Number of splits of a row and the pages [first, last) of one. Match::kPeer: always four, some may be
/// empty.
__host__ __device__ inline int split_count(int pages, bool peer) {
  if (peer) return 4;
  const int wanted = (pages + kPagesOfSplit - 1) / kPagesOfSplit;
  return wanted < kMaxSplits ? wanted : kMaxSplits;
}
struct Split {
  int first, last;
};
/// 32 bits hold the product: a table of 2^27 pages would not fit a GPU.
__device__ inline Split split_of(int pages, int split, int count) {
  return {int(unsigned(pages) * unsigned(split) / unsigned(count)),
          int(unsigned(pages) * unsigned(split + 1) / unsigned(count))};
}

/// What both kernels are told.
template <class T, class K>
struct Task {
  T* out;
  float* part;          // [B, splits, H, D] unnormalised outputs of the splits
  float2* part_weight;  // [B, splits, H] maximum and sum
  const T* qkv;
  const K* pages;
  const int32_t *table, *lengths;
  Heads heads;
  int64_t plane;  // elements from keys to values
  int max_pages, splits;
  float scale;  // with log2(e)
  bool peer;
};

/// The row a block works on: writes zeros and stays inactive for a row without keys.
struct Place {
  template <class T, class K>
  __device__ Place(const Task<T, K>& task, int first_head, int heads_here) : b(blockIdx.z) {
    length = task.lengths[b];
    const int pages = (length + kAttentionTile - 1) / kAttentionTile, size = task.heads.size;
    if (length <= 0) {
      T* out = task.out + (int64_t(b) * task.heads.query + first_head) * size;
      if (blockIdx.x == 0)
        for (int i = threadIdx.x; i < heads_here * size; i += kThreads) out[i] = from_float<T>(0.0f);
      return;
    }
    count = split_count(pages, task.peer);
    if (int(blockIdx.x) < count) split = split_of(pages, blockIdx.x, count);
  }
  __device__ bool active() const { return split.first < split.last; }

  int b, length, count = 0;
  Split split{0, 0};
};

/// Stores one element of this split: to the output when it is the only one.
template <class T, class K>
__device__ void store_result(const Task<T, K>& task, const Place& at, int head, int d, float o, float high,
                             float total) {
  const int size = task.heads.size;
  if (at.count == 1) {
    task.out[(int64_t(at.b) * task.heads.query + head) * size + d] = from_float<T>(o / total);
    return;
  }
  const int64_t slot = (int64_t(at.b) * task.splits + blockIdx.x) * task.heads.query + head;
  task.part[slot * size + d] = o;
  if (d == 0) task.part_weight[slot] = make_float2(high, total);
}

__device__ __forceinline__ float finite_or_zero(float high) {
  return high == -INFINITY ? 0.0f : high;
}

// ---- tensor cores
// ----------------------------------------------------------------------------------------------------

/// Keys of a page that one warp takes: it streams its 16 of every page through its own shared memory, with
/// its own running softmax, and meets the other warps only at the end.
constexpr int kKeys = 16;
static_assert(kWarps * kKeys == kAttentionTile);

template <int kSize>
struct Stage {
  static constexpr int kCount = 256 / kSize;       // 64 KB of copies under way in a block: three fit a Hopper SM
  static constexpr int kRow = kSize * 2;           // bytes
  static constexpr int kBytes = 2 * kKeys * kRow;  // keys and values
  static constexpr int kBlock = kCount * kWarps * kBytes;
};

/// kBlocks: blocks of 8 query heads. Per 16 keys, transposed: scores[key, head] = K . q^T, out[d, head] +=
/// V^T . P^T.
template <class T, int kSize, int kBlocks>
__global__ void __launch_bounds__(kThreads) tensor_kernel(const __grid_constant__ Task<T, T> task) {
  constexpr int kSteps = kSize / 16, kHeads = 8 * kBlocks;
  using Stage = Stage<kSize>;
  extern __shared__ uint4 shared[];
  __shared__ float2 weights[kWarps][kHeads];

  const Heads heads = task.heads;
  const int ratio = heads.query / heads.kv, tiles = (ratio + kHeads - 1) / kHeads, group = blockIdx.y / tiles;
  const int head_of_group = blockIdx.y % tiles * kHeads, heads_here = min(kHeads, ratio - head_of_group);
  const int first_head = group * ratio + head_of_group;
  const Place at(task, first_head, heads_here);
  if (!at.active()) return;

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
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
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const bool valid = 8 * n + g < heads_here;
      const T* row = task.qkv + at.b * row_of(heads) + int64_t(first_head + 8 * n + g) * kSize + 16 * k + 2 * t;
      q[n][k][0] = valid ? *reinterpret_cast<const uint32_t*>(row) : 0;
      q[n][k][1] = valid ? *reinterpret_cast<const uint32_t*>(row + 8) : 0;
    }

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
#pragma unroll
      for (int j = 0; j < 4; ++j) p[n][j] = g + 8 * (j / 2) < valid ? p[n][j] * task.scale : -INFINITY;
      float now[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float top = fmaxf(p[n][j], p[n][j + 2]);
#pragma unroll
        for (int offset = 4; offset < kWarp; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        now[j] = fmaxf(high[n][j], top);
      }
      // Most tiles leave the maximum alone: then the factor is 1 and there is nothing to do.
      if (__any_sync(0xffffffffu, now[0] != high[n][0] || now[1] != high[n][1])) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float factor = exp2f(high[n][j] - finite_or_zero(now[j]));
          high[n][j] = now[j];
          total[n][j] *= factor;
#pragma unroll
          for (int m = 0; m < kSteps; ++m) {
            o[n][m][j] *= factor;
            o[n][m][j + 2] *= factor;
          }
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        p[n][j] = exp2f(p[n][j] - finite_or_zero(high[n][j % 2]));
        total[n][j % 2] += p[n][j];
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float a = p[n][2 * j], b = p[n][2 * j + 1];
        weight[n][j] = transpose_matrix(pack_two<T>(a, b));
        // The part of the weight that the 16-bit type lost goes through a product of its own: P stays fp32 in
        // effect.
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

  // The warps meet: their outputs in shared memory, folded in warp order.
  wait_copies<0>();
  __syncthreads();
  constexpr int kRow = kSize + 4;
  static_assert(kWarps * kHeads * kRow * sizeof(float) <= Stage::kBlock);
  float* results = reinterpret_cast<float*>(shared);
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
      for (int m = 0; m < kSteps; ++m) {
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

// ---- every type and size
// ---------------------------------------------------------------------------------------------

/// Shared memory in floats: queries and outputs [ratio, D], a page of keys or values [64, D + 4], weights
/// [ratio, 64], and maximum, sum and the factor of the old output per head.
__host__ __device__ inline int plain_floats(int ratio, int size) {
  return 2 * ratio * size + kAttentionTile * (size + 4) + ratio * kAttentionTile + 3 * ratio;
}

template <class T, class K>
__global__ void __launch_bounds__(kThreads) plain_kernel(const __grid_constant__ Task<T, K> task) {
  const Heads heads = task.heads;
  const int ratio = heads.query / heads.kv, group = blockIdx.y, first_head = group * ratio, size = heads.size;
  const Place at(task, first_head, ratio);
  if (!at.active()) return;
  extern __shared__ uint4 shared[];
  float* rows = reinterpret_cast<float*>(shared);
  const int row_size = size + 4;
  float *q = rows + kAttentionTile * row_size, *o = q + ratio * size, *p = o + ratio * size;
  float *high = p + ratio * kAttentionTile, *total = high + ratio, *keep = total + ratio;

  const T* query = task.qkv + at.b * row_of(heads) + int64_t(first_head) * size;
  for (int i = threadIdx.x; i < ratio * size; i += kThreads) {
    q[i] = to_float(query[i]);
    o[i] = 0;
  }
  for (int h = threadIdx.x; h < ratio; h += kThreads) {
    high[h] = -INFINITY;
    total[h] = 0;
  }
  const int64_t cell = int64_t(heads.kv) * size;
  const int32_t* pages_of_row = task.table + int64_t(at.b) * task.max_pages;
  for (int page = at.split.first; page < at.split.last; ++page) {
    const int count = min(kAttentionTile, at.length - page * kAttentionTile);
    const K* keys = task.pages + int64_t(pages_of_row[page]) * kAttentionTile * cell + int64_t(group) * size;
    const auto load_rows = [&](const K* from) {
      const int vectors = size / 8;
      for (int i = threadIdx.x; i < count * vectors; i += kThreads) {
        float x[8];
        load_floats(x, from + i / vectors * cell + i % vectors * 8);
        store_floats(rows + i / vectors * row_size + i % vectors * 8, x);
      }
    };
    __syncthreads();
    load_rows(keys);
    __syncthreads();
    for (int i = threadIdx.x; i < ratio * kAttentionTile; i += kThreads) {
      const int h = i / kAttentionTile, j = i % kAttentionTile;
      float score = 0;
      if (j < count)
        for (int d = 0; d < size; d += 4) {
          const float4 a = *reinterpret_cast<const float4*>(q + h * size + d);
          const float4 b = *reinterpret_cast<const float4*>(rows + j * row_size + d);
          score = fmaf(a.x, b.x, score);
          score = fmaf(a.y, b.y, score);
          score = fmaf(a.z, b.z, score);
          score = fmaf(a.w, b.w, score);
        }
      p[i] = j < count ? score * task.scale : -INFINITY;
    }
    __syncthreads();
    load_rows(keys + task.plane);
    const int lane = threadIdx.x % kWarp;
    for (int h = threadIdx.x / kWarp; h < ratio; h += kWarps) {
      float *a = p + h * kAttentionTile + lane, *b = a + kWarp;
      const float before = high[h], now = fmaxf(before, warp_reduce(fmaxf(*a, *b), Max()));
      const float x = exp2f(*a - now), y = exp2f(*b - now), sum = warp_sum(x + y);
      *a = task.peer ? rounded<T>(x) : x;
      *b = task.peer ? rounded<T>(y) : y;
      __syncwarp();  // every lane has read the old maximum
      if (lane == 0) {
        keep[h] = exp2f(before - now);
        high[h] = now;
        total[h] = fmaf(total[h], keep[h], sum);
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ratio * size; i += kThreads) {
      const int h = i / size, d = i % size;
      float sum = o[i] * keep[h];
      for (int j = 0; j < count; ++j) sum = fmaf(p[h * kAttentionTile + j], rows[j * row_size + d], sum);
      o[i] = sum;
    }
  }
  // Each thread reads back what it wrote itself; the heads' numbers are behind the last barrier.
  for (int i = threadIdx.x; i < ratio * size; i += kThreads)
    store_result(task, at, first_head + i / size, i % size, o[i], high[i / size], total[i / size]);
}

// ---- folding the splits
// ----------------------------------------------------------------------------------------------

/// A thread folds four elements of a row over its splits, ascending.
template <class T, class K>
__global__ void __launch_bounds__(kThreads) fold_kernel(const __grid_constant__ Task<T, K> task) {
  const int b = blockIdx.y, size = task.heads.size, element = (blockIdx.x * kThreads + threadIdx.x) * 4;
  const int head = element / size;
  const int pages = (task.lengths[b] + kAttentionTile - 1) / kAttentionTile;
  if (head >= task.heads.query || pages <= 0) return;
  const int count = split_count(pages, task.peer);
  if (count == 1) return;  // already in place
  // Four splits at a time, all their loads under way before the first is used; the running maximum moves
  // between.
  constexpr int kAtOnce = 4;
  const int64_t first = int64_t(b) * task.splits * task.heads.query + head;
  float o[4] = {}, total = 0, top = -INFINITY;
  for (int begin = 0; begin < count; begin += kAtOnce) {
    float2 weight[kAtOnce];
    float x[kAtOnce][4];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int s = begin + i;
      weight[i] = make_float2(-INFINITY, 0);
      if (s >= count) continue;
      if (const Split split = split_of(pages, s, count); split.first >= split.last) continue;
      const int64_t slot = first + int64_t(s) * task.heads.query;
      weight[i] = task.part_weight[slot];
      load_floats(x[i], task.part + slot * size + element % size);
    }
    float now = top;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) now = fmaxf(now, weight[i].x);
    const float keep = exp2f(top - now);
    top = now;
    total *= keep;
#pragma unroll
    for (int j = 0; j < 4; ++j) o[j] *= keep;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (weight[i].x == -INFINITY) continue;
      const float factor = exp2f(weight[i].x - top);
      total = fmaf(weight[i].y, factor, total);
#pragma unroll
      for (int j = 0; j < 4; ++j) o[j] = fmaf(x[i][j], factor, o[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) o[j] /= total;
  store_floats(task.out + int64_t(b) * task.heads.query * size + element, o);
}

template <class Kernel, class Task>
void launch(Kernel* kernel, dim3 grid, size_t shared, cudaStream_t stream, const Task& task) {
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  kernel<<<grid, kThreads, shared, stream>>>(task);
  MANTISSA_LAUNCH_CHECK();
}

template <class T, int kSize>
void launch_tensor(dim3 grid, int ratio, cudaStream_t stream, const Task<T, T>& task) {
  const int blocks_of_heads = ratio <= 8 ? 1 : 2;
  grid.y *= (ratio + 8 * blocks_of_heads - 1) / (8 * blocks_of_heads);
  launch(blocks_of_heads == 1 ? tensor_kernel<T, kSize, 1> : tensor_kernel<T, kSize, 2>, grid, Stage<kSize>::kBlock,
         stream, task);
}

template <class T, class K>
void decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table, const Tensor& lengths,
            Heads heads) {
  const bool peer = exec.match == Match::kPeer;
  const int64_t batch = qkv.size(0);
  const int ratio = heads.query / heads.kv, max_pages = int(table.size(1));
  const int splits = std::max(1, split_count(max_pages, peer));
  Scratch scratch(exec);
  Task<T, K> task{elements<T>(out),
                  nullptr,
                  nullptr,
                  elements<T>(qkv),
                  elements<K>(pages),
                  table.data<int32_t>(),
                  lengths.data<int32_t>(),
                  heads,
                  pages.numel() / 2,
                  max_pages,
                  splits,
                  softmax_scale(heads) * 1.44269504088896340736f,
                  peer};
  if (splits > 1) {
    task.part = scratch.take<float>(batch * splits * heads.query * heads.size);
    task.part_weight = scratch.take<float2>(batch * splits * heads.query);
  }
  check(batch <= 65535, "[attention_decode] at most 65535 rows, got ", batch, ": lower the decode batch");
  const dim3 grid(splits, heads.kv, unsigned(batch));
  bool done = false;
  if constexpr (std::is_same_v<T, K> && sizeof(T) == 2) {
    done = true;
    if (heads.size == 64)
      launch_tensor<T, 64>(grid, ratio, stream(exec), task);
    else if (heads.size == 128)
      launch_tensor<T, 128>(grid, ratio, stream(exec), task);
    else
      done = false;
  }
  if (!done) launch(plain_kernel<T, K>, grid, sizeof(float) * plain_floats(ratio, heads.size), stream(exec), task);
  if (splits > 1) {
    const int64_t threads = int64_t(heads.query) * heads.size / 4;
    fold_kernel<<<dim3(blocks(threads, kThreads), unsigned(batch)), kThreads, 0, stream(exec)>>>(task);
    MANTISSA_LAUNCH_CHECK();
  }
}

}  // namespace

void attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                      const Tensor& lengths, Heads heads) {
  if (qkv.size(0) == 0) return;
  if (exec.match == Match::kExact && exact_attention_decode(exec, out, qkv, pages, table, lengths, heads)) return;
  visit_float(qkv.dtype(), [&]<class T>(std::type_identity<T>) {
    visit_float(
        pages.dtype(),
        [&]<class K>(std::type_identity<K>) { decode<T, K>(exec, out, qkv, pages, table, lengths, heads); },
        "attention_decode");
  });
}

}  // namespace mantissa::cuda_kernels
