// The packed kernel of exact attention for Hopper and heads of 64 and 128, with the bits of exact_packed.cu: products
// by warpgroups, 64 query rows of a head each, two to a block. One warp has keys and values copied into a ring in
// shared memory. While a tile's values are multiplied, the weights of the next tile are computed.
//
// Legend: T tokens, H/G/D heads; qkv rows are (H+2G)D wide, out[T,HD], lse[T,H].
#include "cuda/attention/attention.h"
#include "cuda/attention/exact.cuh"
#include "cuda/wgmma.cuh"

namespace mantissa::cuda_kernels {
namespace exact {
namespace {

constexpr int kGroups = 2, kBlockRows = kGroups * kGroupRows;
constexpr int kBlockThreads = kGroups * kGroupThreads + kWarp;
constexpr int kBoxBytes = kTile * kBoxRow;  // 64 rows of 64 elements
static_assert(kTile == kGroupRows);

/// kLong: sequences may be longer than a segment, and what the segments so far gave is kept in shared memory.
template <int kSize, bool kLong>
struct Form {
  static constexpr int kBoxes = kSize / kBoxDepth, kPart = kBoxes * kBoxBytes;  // queries of a group; keys; values
  static constexpr int kStage = 2 * kPart, kStages = kLong ? 3 : 4;
  static constexpr int kTotals = kLong ? kGroups * kGroupRows * kSize * int(sizeof(float)) : 0;
  static constexpr int kShared = kGroups * kPart + kStages * kStage + kTotals + (2 * kStages + 2) * 8 + kBoxAlignment;
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/// Where things lie in shared memory. `landed`: of the one tile that is not whole.
template <class F>
struct Room {
  uint32_t queries, stages, full, empty, queries_came, landed;
  float2* totals;

  __device__ explicit Room(char* shared) {
    const uint32_t begin = shared_address(shared);
    queries = (begin + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
    stages = queries + kGroups * F::kPart;
    totals = reinterpret_cast<float2*>(shared + (stages - begin) + F::kStages * F::kStage);
    full = stages + F::kStages * F::kStage + F::kTotals;
    empty = full + F::kStages * 8;
    queries_came = empty + F::kStages * 8;
    landed = queries_came + 8;
  }
  __device__ uint32_t keys(int tile) const { return stages + tile % F::kStages * F::kStage; }
  __device__ uint32_t values(int tile) const { return keys(tile) + F::kPart; }
  __device__ uint32_t came(int tile) const { return full + tile % F::kStages * 8; }
  __device__ uint32_t read(int tile) const { return empty + tile % F::kStages * 8; }
  __device__ uint32_t parity(int tile) const { return tile / F::kStages & 1; }
};

/// Boxes of 64 rows from `token` on, of the head whose elements begin at `column`.
template <class F>
__device__ __forceinline__ void copy_part(uint32_t to, const CUtensorMap& qkv, int column, int token,
                                          uint32_t barrier) {
#pragma unroll
  for (int box = 0; box < F::kBoxes; ++box)
    copy_box(to + box * kBoxBytes, qkv, column + box * kBoxDepth, token, barrier);
}

/// By one warp: queries of `groups` groups, then `count` tiles of keys and values. Values past the sequence's end
/// become zero: what lies there is another's, and need not be finite.
template <class F>
__device__ void fill(const Room<F>& room, const CUtensorMap& qkv, const Tile& tile, int groups, int count,
                     const int (&columns)[3]) {
  const bool one = elected();
  if (one) {
    expect_bytes(room.queries_came, groups * F::kPart);
    for (int group = 0; group < groups; ++group)
      copy_part<F>(room.queries + group * F::kPart, qkv, columns[0], tile.begin + tile.first + group * kGroupRows,
                   room.queries_came);
  }
  for (int i = 0; i < count; ++i) {
    const int valid = tile.length - i * kTile;
    const uint32_t came = valid < kTile ? room.landed : room.came(i);
    if (i >= F::kStages) wait_barrier(room.read(i), room.parity(i) ^ 1);
    if (one) {
      expect_bytes(came, F::kStage);
      copy_part<F>(room.keys(i), qkv, columns[1], tile.begin + i * kTile, came);
      copy_part<F>(room.values(i), qkv, columns[2], tile.begin + i * kTile, came);
    }
    __syncwarp();
    if (valid >= kTile) continue;
    wait_barrier(room.landed, 0);
    for (int box = 0; box < F::kBoxes; ++box)
      for (int at = valid * kBoxRow + int(threadIdx.x) % kWarp * 16; at < kBoxBytes; at += kWarp * 16)
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(room.values(i) + box * kBoxBytes + at), "r"(0)
                     : "memory");
    publish_shared();
    __syncwarp();
    if (one) arrive(room.came(i));
  }
}

/// A warpgroup's rows: lane (g, t) of warp w holds rows 16 w + g and 8 further.
template <class T, int kSize>
struct GroupRows {
  float s[kTile / 2], o[kSize / 2] = {}, l[4] = {}, high[2] = {-INFINITY, -INFINITY};
  uint32_t p[kTile / 16][4];

  /// Begins the scores of a tile.
  __device__ __forceinline__ void score(uint32_t queries, uint32_t keys) {
#pragma unroll
    for (int j = 0; j < kTile / 2; ++j) s[j] = 0;
    const uint64_t a = rows_operand(queries), b = rows_operand(keys);  // a descriptor counts in 16 bytes
    begin_group();
#pragma unroll
    for (int step = 0; step < kSize / 16; ++step) {
      const int at = (step / 4 * kBoxBytes + step % 4 * 32) / 16;
      group_mma<T, false>(s, a + at, b + at);
    }
    commit_group();
  }
  /// Row i of the group sees keys 0..i of its last tile.
  __device__ __forceinline__ void mask() {
    const int lane = threadIdx.x % kWarp, row = threadIdx.x % kGroupThreads / kWarp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < kTile / 2; ++j)
      if (j / 4 * 8 + lane % 4 * 2 + j % 2 > row + j % 4 / 2 * 8) s[j] = -INFINITY;
  }
  /// Scores become weights; factor[r] takes what was added up so far into their terms.
  __device__ __forceinline__ void weigh(float c, float (&factor)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = s[2 * r];
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n) top = fmaxf(top, fmaxf(s[4 * n + 2 * r], s[4 * n + 2 * r + 1]));
      const float now = fmaxf(high[r], max_of_row(top)), base = now * c;
      factor[r] = power_of_two((high[r] - now) * c);
      high[r] = now;
#pragma unroll
      for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
        for (int j = 4 * n + 2 * r; j < 4 * n + 2 * r + 2; ++j) s[j] = power_of_two(fmaf(s[j], c, -base));
    }
  }
  /// The weights, rounded, are added to l; o is taken into their terms.
  __device__ __forceinline__ void take_weights(const float (&factor)[2]) {
#pragma unroll
    for (int j = 0; j < kSize / 2; ++j) o[j] *= factor[j % 4 / 2];
    l[0] *= factor[0];
    l[2] *= factor[1];
    l[1] = l[0];
    l[3] = l[2];
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[k][i] = pack_two<T>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
      mma<T>(l, p[k], ones<T>(), ones<T>());  // every column is the same sum
    }
  }
  /// Begins o += p . values.
  __device__ __forceinline__ void add_values(uint32_t values) {
    begin_group();
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k)
      group_mma<T, true>(o, p[k], columns_operand(values + 16 * k * kBoxRow, kBoxBytes));
    commit_group();
  }
  __device__ __forceinline__ void begin_segment() {
#pragma unroll
    for (int j = 0; j < kSize / 2; ++j) o[j] = 0;
    l[0] = l[1] = l[2] = l[3] = 0;
    high[0] = high[1] = -INFINITY;
  }
};

/// What the segments so far gave: each thread keeps its own part of o in `mine`, kGroupThreads apart.
template <class T, int kSize>
struct Totals {
  float2* mine;
  float high[2], sum[2];
  bool folded = false;

  /// Folds what rows hold into it, and leaves the new totals in both.
  __device__ __forceinline__ void fold(GroupRows<T, kSize>& rows, float c) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (folded) {
        const Fold fold(high[r], sum[r], rows.high[r], rows.l[2 * r], c);
        rows.high[r] = fold.top;
        rows.l[2 * r] = fold.sum;
#pragma unroll
        for (int n = 0; n < kSize / 8; ++n) {
          const float2 before = mine[(2 * n + r) * kGroupThreads];
          rows.o[4 * n + 2 * r] = fold(before.x, rows.o[4 * n + 2 * r]);
          rows.o[4 * n + 2 * r + 1] = fold(before.y, rows.o[4 * n + 2 * r + 1]);
        }
      }
      high[r] = rows.high[r];
      sum[r] = rows.l[2 * r];
#pragma unroll
      for (int n = 0; n < kSize / 8; ++n)
        mine[(2 * n + r) * kGroupThreads] = make_float2(rows.o[4 * n + 2 * r], rows.o[4 * n + 2 * r + 1]);
    }
    folded = true;
  }
};

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

/// Block (tile of 128 rows, query head).
template <class T, int kSize, bool kLong>
__global__ void __launch_bounds__(kBlockThreads)
    group_kernel(T* out, float* lse, const __grid_constant__ CUtensorMap qkv, const int32_t* offsets, int sequences,
                 Heads heads, float scale) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using F = Form<kSize, kLong>;
  const Tile tile = find_tile(offsets, sequences, gridDim.x - 1 - blockIdx.x, kBlockRows);
  if (tile.rows <= 0) return;
  extern __shared__ uint4 shared[];
  const Room<F> room(reinterpret_cast<char*>(shared));
  const int warp = __shfl_sync(~0u, threadIdx.x / kWarp, 0), group = warp / 4, lane = threadIdx.x % kWarp;
  const int groups = tile.rows > kGroupRows ? 2 : 1, head = blockIdx.y;
  const float c = scale * kLog2e;
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      init_barrier(room.came(i), 1);
      init_barrier(room.read(i), groups);
    }
    init_barrier(room.queries_came, 1);
    init_barrier(room.landed, 1);
    fence_barriers();
  }
  __syncthreads();
  if (group == kGroups) {
    const int kv = heads.query + head / (heads.query / heads.kv);
    fill<F>(room, qkv, tile, groups, tile.first / kTile + groups, {head * kSize, kv * kSize, (kv + heads.kv) * kSize});
    return;
  }
  if (group >= groups) return;

  GroupRows<T, kSize> rows;
  [[maybe_unused]] Totals<T, kSize> totals{room.totals + group * kSize / 4 * kGroupThreads +
                                           threadIdx.x % kGroupThreads};
  const uint32_t queries = room.queries + group * F::kPart;
  const int count = tile.first / kTile + group + 1;  // tiles that this group sees
  const auto score = [&](int i) {
    wait_barrier(room.came(i), room.parity(i));
    rows.score(queries, room.keys(i));
  };
  wait_barrier(room.queries_came, 0);
  score(0);
  wait_groups<0>();
  for (int i = 0;; ++i) {
    if (kLong && i > 0 && i % (kSegment / kTile) == 0) {
      wait_groups<0>();
      settle(rows.o);
      totals.fold(rows, c);
      rows.begin_segment();
    }
    settle(rows.s);
    if (i + 1 == count) rows.mask();
    float factor[2];
    rows.weigh(c, factor);
    wait_groups<0>();  // the values before
    settle(rows.o);
    if (i > 0 && threadIdx.x % kGroupThreads == 0) arrive(room.read(i - 1));
    rows.take_weights(factor);
    if (i + 1 == count) break;
    score(i + 1);
    rows.add_values(room.values(i));
    wait_groups<1>();  // the scores
  }
  rows.add_values(room.values(count - 1));
  wait_groups<0>();
  settle(rows.o);
  if (kLong && totals.folded) totals.fold(rows, c);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = group * kGroupRows + warp % 4 * 16 + lane / 4 + 8 * r;
    if (row >= tile.rows) continue;
    const int64_t token = tile.begin + tile.first + row, at = token * heads.query + head;
    const float sum = rows.l[2 * r], inverse = 1.0f / sum;
    if (lane % 4 == 0) lse[at] = fmaf(rows.high[r], scale, logf(sum));
#pragma unroll
    for (int n = 0; n < kSize / 8; ++n)
      *reinterpret_cast<uint32_t*>(out + at * kSize + 8 * n + 2 * (lane % 4)) =
          pack_two<T>(rows.o[4 * n + 2 * r] * inverse, rows.o[4 * n + 2 * r + 1] * inverse);
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: has_box_copies() should have said no
#endif
}

template <class T, int kSize, bool kLong>
void launch(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, Heads heads) {
  const int sequences = int(offsets.numel()) - 1;
  const CUtensorMap map = box_map(qkv.raw(), qkv.dtype(), qkv.size(0), heads.row(), kTile);
  constexpr int kShared = Form<kSize, kLong>::kShared;
  auto* kernel = group_kernel<T, kSize, kLong>;
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  kernel<<<dim3(tile_ids(qkv.size(0), sequences, kBlockRows), heads.query), kBlockThreads, kShared, stream(exec)>>>(
      elements<T>(out), lse.data<float>(), map, offsets.data<int32_t>(), sequences, heads, softmax_scale(heads));
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace

bool group_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, bool several,
                         Heads heads) {
  if (!has_box_copies(device_facts(exec)) || !aligned({qkv.raw()})) return false;
  const auto run = [&]<class T>(std::type_identity<T>) {
    if (heads.size == 128)
      several ? launch<T, 128, true>(exec, out, lse, qkv, offsets, heads)
              : launch<T, 128, false>(exec, out, lse, qkv, offsets, heads);
    else if (heads.size == 64)
      several ? launch<T, 64, true>(exec, out, lse, qkv, offsets, heads)
              : launch<T, 64, false>(exec, out, lse, qkv, offsets, heads);
    else
      return false;
    return true;
  };
  return qkv.dtype() == Dtype::kF16 ? run(std::type_identity<__half>()) : run(std::type_identity<__nv_bfloat16>());
}

}  // namespace exact
}  // namespace mantissa::cuda_kernels
