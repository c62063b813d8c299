// One query row per sequence against its paged keys and values. The price is reading the cache once, so all query heads
// of a kv head share the read, and enough blocks and copies are in flight to keep memory busy.
//
// A row's pages are cut into splits by a rule that knows the row's length only; a block does one (split, kv head, row),
// and a second kernel folds the splits of a row in ascending order. So a row gives the same bits alone and in any
// batch. Two ways through a block: tensor cores for 16-bit caches of 64 or 128 wide heads, ordinary cores for the rest.
// Softmax is kept in units of log 2: z = q.k * scale * log2(e).
//
// Legend: B rows, H/G/D heads, P pages. pages[2,P,kAttentionTile,GD], table[B,max_pages], lengths[B], out[B,HD].
#include "cuda/attention/attention.h"
#include "cuda/attention/decode_tensor.cuh"

namespace mantissa::cuda_kernels {
namespace decode {

// ---- every type and size --------------------------------------------------------------------------------------------

/// Shared memory in floats: queries and outputs [ratio, D], a page of keys or values [64, D + 4], weights [ratio, 64],
/// and maximum, sum and the factor of the old output per head.
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
        store_shared(rows + i / vectors * row_size + i % vectors * 8, x);
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

// ---- folding the splits ---------------------------------------------------------------------------------------------

/// A thread folds four elements of a row over its splits, ascending.
template <class T, class K>
__global__ void __launch_bounds__(kThreads) fold_kernel(const __grid_constant__ Task<T, K> task) {
  const int b = blockIdx.y, size = task.heads.size, element = (blockIdx.x * kThreads + threadIdx.x) * 4;
  const int head = element / size;
  const int pages = (task.lengths[b] + kAttentionTile - 1) / kAttentionTile;
  if (head >= task.heads.query || pages <= 0) return;
  const int count = split_count(pages, task.peer);
  if (count == 1) return;  // already in place
  // Four splits at a time, all their loads under way before the first is used; the running maximum moves between.
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
void run(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table, const Tensor& lengths,
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

}  // namespace decode

void attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                      const Tensor& lengths, const Tensor& ahead, Heads heads) {
  if (qkv.size(0) == 0) return;
  if (exec.match == Match::kExact && exact_attention_decode(exec, out, qkv, pages, table, lengths, ahead, heads))
    return;
  visit_float(qkv.dtype(), [&]<class T>(std::type_identity<T>) {
    visit_float(
        pages.dtype(),
        [&]<class K>(std::type_identity<K>) { decode::run<T, K>(exec, out, qkv, pages, table, lengths, heads); },
        "attention_decode");
  });
}

}  // namespace mantissa::cuda_kernels
