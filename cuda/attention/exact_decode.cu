// Paged decode by the definition of exact.cuh: query rows against the pages of their sequences, with the bits of the
// packed kernel. A block has one segment of 1,024 keys of a row and up to 16 query heads of one kv head; where rows of
// one sequence follow each other (guesses), as many of them as 16 heads allow, and keys are read once for all. Of a
// row with several segments the block that ends last folds them, or, where blocks wait for their turn, a second kernel;
// where there are rows enough to fill the device, a block has all of a row's segments and folds them as they end.
// New tokens (rope_attention_decode) are rotated by the blocks that need them: queries by all, the key by those of the
// row's last segment, the first of which stores it with the value. Older keys come from the cache while the kernel
// ahead, which makes qkv, still runs.
//
// Legend: B rows, H/G/D heads, P pages. pages[2,P,kAttentionTile,GD], table[B,max_pages], lengths[B], out[B,HD].
#include <map>
#include <mutex>

#include "cuda/attention/attention.h"
#include "cuda/attention/exact_decode_tiles.cuh"
#include "cuda/attention/rope.cuh"

namespace mantissa::cuda_kernels {
namespace exact {
namespace {

/// Tiles of keys and values in a block's shared memory: the one it works on and those on their way. Two let the most
/// blocks share a multiprocessor; a block that has one nearly to itself needs more, to keep memory busy alone.
constexpr int kFewTiles = 2;
template <int kSize>
constexpr int kManyTiles = kSize <= 64 ? 5 : 3;
/// Segments that one block may have: the block of a long row must not be what all others wait for.
constexpr int kMostWhole = 5;

/// A thread folds four elements of a head, from d on, over the `count` segments of row b, which lie aside.
template <class T, int kSize>
__device__ __forceinline__ void fold_segments(const Task<T>& task, int b, int count, int head, int d) {
  constexpr int kAtOnce = 4;  // whose loads are under way together
  float o[4] = {}, high = -INFINITY, sum = 0;
  for (int begin = 0; begin < count; begin += kAtOnce) {
    float2 weight[kAtOnce];
    float4 x[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i >= count) break;
      const int64_t slot = (int64_t(b) * task.segments + begin + i) * task.heads.query + head;
      weight[i] = __ldcg(task.part_weight + slot);  // of other multiprocessors
      x[i] = __ldcg(reinterpret_cast<const float4*>(task.part + slot * kSize + d));
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i >= count) break;
      const float part[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
      if (begin + i == 0) {
        high = weight[i].x;
        sum = weight[i].y;
#pragma unroll
        for (int j = 0; j < 4; ++j) o[j] = part[j];
        continue;
      }
      const Fold fold(high, sum, weight[i].x, weight[i].y, task.c);
      high = fold.top;
      sum = fold.sum;
#pragma unroll
      for (int j = 0; j < 4; ++j) o[j] = fold(o[j], part[j]);
    }
  }
  const float inverse = 1.0f / sum;
#pragma unroll
  for (int j = 0; j < 4; ++j) o[j] *= inverse;
  store_floats(task.out + (int64_t(b) * task.heads.query + head) * kSize + d, o);
}

/// For a launch without counters: block (4 kThreads elements of all heads, row).
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) fold_kernel(const __grid_constant__ Task<T> task) {
  const int b = blockIdx.y, element = (blockIdx.x * kThreads + threadIdx.x) * 4;
  const int head = element / kSize, count = segments_of(task.lengths[b]);
  if (head >= task.heads.query || count <= 1) return;  // one segment is already in place
  fold_segments<T, kSize>(task, b, count, head, element % kSize);
}

/// Counts this segment, which lies aside; true in the block that is the row's last to do so, where all of them can be
/// read then. The counter is zero again.
template <class T>
__device__ __forceinline__ bool last_to_end(const Task<T>& task, const Place& at) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* ended = task.ended + blockIdx.z * gridDim.y + blockIdx.y;
    last = atomicAdd(ended, 1u) == unsigned(segments_of(at.length)) - 1;
    if (last) *ended = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

/// From a row that is not rotated: queries, and the new token's key and value, which go to the cache too.
template <class T, int kSize>
__device__ __forceinline__ void take_new_token(const Task<T>& task, const Place& at, Exchange<T, kSize>& exchange,
                                               int32_t position, int32_t slot) {
  constexpr int kPieces = kSize / 8, kRow = Exchange<T, kSize>::kRow;
  const Heads& heads = task.heads;
  const NewRow<T> row{task.qkv + at.b * row_of(heads),
                      task.fresh.angles + int64_t(position) * kSize,
                      at.first_head,
                      at.heads_here,
                      heads.query + at.group,
                      heads.query + heads.kv + at.group,
                      at.new_key >= 0};
  T* cell = at.first_of_group && slot >= 0 ? task.pages + (int64_t(slot) * heads.kv + at.group) * kSize : nullptr;
  for (int i = at.heads_here * kPieces + threadIdx.x; i < kHeads * kPieces; i += kThreads)
    store_shared(exchange.rows + i / kPieces * kRow + i % kPieces * 8, Pack<T>{});
  take_new_row<T, kSize, kThreads, kRow>(exchange.rows, row, [&](bool value, int piece, const Pack<T>& x) {
    exchange.token[value][piece] = x;
    if (cell) store_pack(cell + (value ? task.plane : 0) + 8 * piece, x);
  });
}

/// Block (segment, kv head and 16 of its query heads, row). kWhole: all segments of a row, if there are several.
template <class T, int kSize, class Tiles, bool kWhole>
__global__ void __launch_bounds__(kThreads, Tiles::kCount == kFewTiles && kSize <= 64 ? 5 : 1)
    decode_kernel(const __grid_constant__ Task<T> task) {
  using Keys = typename Tiles::Keys;
  constexpr int kStages = Tiles::kCount;
  extern __shared__ uint4 shared[];
  __shared__ Exchange<T, kSize> exchange;
  let_next_begin();
  // What the first copies wait for, all at once.
  const int first_page = blockIdx.x * (kSegment / kTile);
  const int32_t* pages = task.table + int64_t(blockIdx.z) * task.max_pages + first_page;
  const auto page_of = [&](int tile) { return first_page + tile < task.max_pages ? load_now(pages + tile) : 0; };
  const int32_t length = load_now(task.lengths + blockIdx.z);
  int32_t ids[kStages], position = 0, slot = 0;
#pragma unroll
  for (int i = 0; i < kStages; ++i) ids[i] = page_of(i);
  if (task.fresh.angles) {
    position = load_now(task.fresh.positions + blockIdx.z);
    slot = load_now(task.fresh.slots + blockIdx.z);
  }
  const int together = rows_together(task, blockIdx.z, length);
  if (together == 0) return;
  const Place at(task, length, together);
  if (at.length <= 0 && blockIdx.x == 0) {
    await_previous();  // which may read what lay here
    T* out = task.out + (int64_t(at.b) * task.heads.query + at.first_head) * kSize;
    for (int i = threadIdx.x; i < at.heads_here * kSize; i += kThreads) out[i] = from_float<T>(0.0f);
  }
  if (at.from >= at.until) return;
  Tiles tiles(task, at, reinterpret_cast<char*>(shared));
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) tiles.start(i, ids[i]);

  Rows<T, kSize, Keys> rows(at);
  if (task.fresh.angles) {
    take_new_token<T, kSize>(task, at, exchange, position, slot);
    __syncthreads();
    rows.load_queries(exchange);
  } else {
    load_query_rows(rows.q, at.heads(), [&](int h) {
      return task.qkv + (at.b + at.row_of(h)) * row_of(task.heads) + int64_t(at.head_of(h)) * kSize;
    });
  }
  int32_t id = ids[kStages - 1];
  for (int i = 0; i < at.tiles(); ++i) {
    const int coming = i + kStages - 1;
    tiles.wait(i);
    if (at.new_key >= 0 && i == at.new_key / kTile && threadIdx.x < 2 * Keys::kPieces) {
      const int value = threadIdx.x / Keys::kPieces, piece = threadIdx.x % Keys::kPieces;
      tiles.put(i, value, at.new_key % kTile, piece, exchange.token[value][piece]);
    }
    __syncthreads();
    tiles.start(coming, id);
    if (coming + 1 < at.tiles()) id = pages[coming + 1];
    rows.score(tiles.keys(i), at.valid(i) - 16 * rows.warp, exchange);
    __syncthreads();
    rows.weigh(task.c, exchange);
    __syncthreads();
    rows.add_values(tiles.values(i), exchange);
    if (kWhole && (i + 1) % (kSegment / kTile) == 0 && i + 1 < at.tiles()) rows.end_segment(task.c);
  }
  if (kWhole && rows.folded) {
    rows.end_segment(task.c);
    rows.take_totals();
  }
  rows.store(task, at);
  if constexpr (!kWhole) {
    if (!task.ended || at.length <= kSegment || !last_to_end(task, at)) return;
    for (int element = threadIdx.x * 4; element < at.heads() * kSize; element += kThreads * 4) {
      const int h = element / kSize;
      fold_segments<T, kSize>(task, at.b + at.row_of(h), segments_of(at.length), at.head_of(h), element % kSize);
    }
  }
}

/// At least `count` zeros that stay so between launches. A graph keeps the address: what was given out is kept.
unsigned* counters(Exec& exec, int64_t count) {
  static std::mutex mutex;
  static auto& all = *new std::map<cudaStream_t, std::vector<Tensor>>;  // never destroyed: the driver may be gone first
  const std::lock_guard lock(mutex);
  std::vector<Tensor>& own = all[stream(exec)];
  if (own.empty() || own.back().numel() < count) {
    check(!capturing(exec), "[attention_decode] a step is recorded after it has run once with the same shapes");
    own.push_back(exec.zeros({std::max<int64_t>(4096, 2 * count)}, Dtype::kI32));
  }
  return static_cast<unsigned*>(own.back().raw());
}

/// Launches the kernels that this step needs, with tiles that come as Tiles says. False: new tokens are rotated and
/// stored first.
template <class T, int kSize, template <class, int, int> class Tiles>
bool launch(Exec& exec, Task<T> task, int64_t batch) {
  using Few = Tiles<T, kSize, kFewTiles>;
  using Many = Tiles<T, kSize, kManyTiles<kSize>>;
  const Heads& heads = task.heads;
  const int64_t rows = heads.kv * ((heads.query / heads.kv + kHeads - 1) / kHeads), all = rows * batch;
  // Blocks that run at once with so much memory for tiles.
  const auto at_once = [&](int tiles) {
    const size_t shared = size_t(tiles) + sizeof(Exchange<T, kSize>) + 1024;
    return int64_t(device_facts(exec).sms) * int64_t(device_facts(exec).shared_per_block / shared);
  };
  const int64_t few = at_once(Few::kShared), many = at_once(Many::kShared);
  // Where blocks wait for their turn, what each does for a new token or for the fold costs more than a kernel of its
  // own.
  const bool whole = task.segments > 1 && task.segments <= kMostWhole && all >= many;
  const bool waits = (whole ? 1 : task.segments) * all > few;
  if (task.fresh.angles && waits) return false;
  Scratch scratch(exec);
  if (task.segments > 1 && !whole) {
    task.part = scratch.take<float>(batch * task.segments * heads.query * kSize);
    task.part_weight = scratch.take<float2>(batch * task.segments * heads.query);
    if (!waits) task.ended = counters(exec, all);
  }
  const auto launch = [&]<class Ring>(std::type_identity<Ring>) {
    auto* kernel = whole ? decode_kernel<T, kSize, Ring, true> : decode_kernel<T, kSize, Ring, false>;
    MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Ring::kShared));
    const dim3 grid(whole ? 1 : task.segments, unsigned(rows), unsigned(batch));
    if (task.fresh.angles) return launch_early(exec, kernel, grid, kThreads, Ring::kShared, task);
    kernel<<<grid, kThreads, Ring::kShared, stream(exec)>>>(task);
    MANTISSA_LAUNCH_CHECK();
  };
  // More tiles where all blocks run at once with them, too, and where wide heads make blocks wait for their turn in
  // any case: then the last ones have a multiprocessor to themselves.
  if (all <= many || (kSize > 64 && all > few))
    launch(std::type_identity<Many>());
  else
    launch(std::type_identity<Few>());
  if (task.segments == 1 || whole || !waits) return true;
  const dim3 grid(blocks(int64_t(heads.query) * kSize / 4, kThreads), unsigned(batch));
  fold_kernel<T, kSize><<<grid, kThreads, 0, stream(exec)>>>(task);
  MANTISSA_LAUNCH_CHECK();
  return true;
}

template <class T>
bool decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table, const Tensor& lengths,
            const Tensor& ahead, Heads heads, const NewTokens& fresh) {
  const int64_t batch = qkv.size(0), plane = pages.numel() / 2, plane_rows = plane / (heads.kv * heads.size);
  const int max_pages = int(table.size(1));
  check(batch <= 65535, "[attention_decode] at most 65535 rows, got ", batch, ": lower the decode batch");
  Task<T> task{elements<T>(out),
               nullptr,
               nullptr,
               nullptr,
               elements<T>(qkv),
               elements<T>(pages),
               table.data<int32_t>(),
               lengths.data<int32_t>(),
               ahead.defined() ? ahead.data<int32_t>() : nullptr,
               fresh,
               heads,
               plane,
               int(plane_rows),
               max_pages,
               std::max(1, segments_of(max_pages * kTile)),
               softmax_scale(heads) * kLog2e,
               {}};
  bool served = false;
  visit_head_size(heads.size, [&]<int kSize>(std::integral_constant<int, kSize>) {
    if constexpr (kSize % kBoxDepth == 0)
      if (has_box_copies(device_facts(exec)) && 2 * plane_rows <= INT32_MAX && aligned({pages.raw()})) {
        task.boxes = box_map(pages.raw(), pages.dtype(), 2 * plane_rows, heads.kv * kSize, kTile, Read::kOnce);
        served = launch<T, kSize, BoxedTiles>(exec, task, batch);
        return;
      }
    served = launch<T, kSize, CopiedTiles>(exec, task, batch);
  });
  return served;
}

}  // namespace
}  // namespace exact

bool exact_attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                            const Tensor& lengths, const Tensor& ahead, Heads heads, const NewTokens& fresh) {
  if (pages.dtype() != qkv.dtype()) return false;
  if (qkv.dtype() == Dtype::kF16)
    return exact::decode<__half>(exec, out, qkv, pages, table, lengths, ahead, heads, fresh);
  if (qkv.dtype() == Dtype::kBF16)
    return exact::decode<__nv_bfloat16>(exec, out, qkv, pages, table, lengths, ahead, heads, fresh);
  return false;
}

}  // namespace mantissa::cuda_kernels
