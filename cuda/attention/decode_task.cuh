// What the kernels of decode attention share: the rule that cuts a row's pages into splits, what a kernel is told, and
// where a block's result goes. cuda/attention/decode.cu says how the family works.
#pragma once

#include "cuda/attention/tiles.cuh"

namespace mantissa::cuda_kernels::decode {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxSplits = 16;
constexpr int kPagesOfSplit = 8;  // shorter splits would spend their time on starting and on partial results

/// Number of splits of a row and the pages [first, last) of one. Match::kPeer: always four, some may be empty.
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

/// The row and split a block works on. For a row without keys it writes the zeros of the output and stays inactive.
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

/// Stores one element of this split: in the output where the row has no other split, else in the partial results.
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

}  // namespace mantissa::cuda_kernels::decode
