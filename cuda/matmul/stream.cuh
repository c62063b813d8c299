// What a block of an exact product of few rows (cuda/matmul/exact_stream.cu) does: its ring of stages in shared memory,
// who fills it, the products of what lies in it, and the way of the sums to memory.
//
// Legend: c[M,N] = a[M,K] . b[N,K]^T. A box is 64 elements of some rows, a piece kBoxes of them along k.
#pragma once

#include "cuda/matmul/exact.cuh"
#include "cuda/wgmma.cuh"

namespace mantissa::cuda_kernels {

inline constexpr int kAlone = 208 << 10;   // bytes of the ring of a block that has a multiprocessor to itself
inline constexpr int kOfThree = 64 << 10;  // and of one that shares it with two others
inline constexpr int kMostStages = 8, kGroupWarps = kGroupThreads / kWarp;

/// Rows and columns of a block, boxes of a piece, columns of u that a block makes, and blocks of a cluster across (they
/// have the same rows) and down (the same columns). A warpgroup multiplies 64 rows, or 128: those past kRows are
/// whatever lies behind in shared memory, and go nowhere.
template <int kRowsOf, int kColumnsOf, int kBoxesOf, int kRingOf = kAlone, int kUOf = 0, int kAcrossOf = 1,
          int kDownOf = 1>
struct Form {
  static constexpr int kRing = kRingOf, kAcross = kAcrossOf, kDown = kDownOf;
  static constexpr bool kInClusters = kAcross * kDown > 1;
  static constexpr int kFillers = kAcross + kDown - 1;  // blocks that fill one's stages: those across, and those down
  static constexpr int kTall = (kRowsOf + kGroupRows - 1) / kGroupRows, kEach = kTall > 2 ? 2 : 1;
  static constexpr int kGroups = kTall / kEach, kMultiply = kGroups * kGroupWarps;  // warps
  static constexpr bool kTrades = kEach > 1;  // registers, which whole warpgroups give and take
  static constexpr int kThreads = kMultiply * kWarp + (kTrades ? kGroupThreads : 2 * kWarp);
  // Registers for more threads than there are: what is over lets the next kernel in.
  static constexpr int kBound = kTrades ? 512 : kThreads;
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf, kBoxes = kBoxesOf, kU = kUOf, kWidth = kColumns + kU;
  static constexpr int kFromA = kBoxes * kRows * kBoxRow, kFromB = kBoxes * kWidth * kBoxRow, kStage = kFromA + kFromB;
  static constexpr int kStages = kRing / kStage < kMostStages ? kRing / kStage : kMostStages;
  static constexpr int kPast = (kTall * kGroupRows - kRows) * kBoxRow;  // bytes read behind the last stage
  static constexpr int kV = (kU > 0) * kColumns * kBoxRow;              // bytes of v
  static constexpr int kBias = kColumns * int(sizeof(float));
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kV + 8 + kBias + kPast + kBoxAlignment;  // 8: v's barrier
  static_assert(kRows % 8 == 0 && kColumns % 8 == 0);  // the swizzle repeats every eight rows
  static_assert(kEach == 1 || (kU == 0 && kTrades && kThreads <= 512));
  static_assert(!kInClusters || (kU == 0 && kRows % (8 * kAcross) == 0 && kColumns % (8 * kDown) == 0));
  static_assert(kU % 16 == 0 && kU <= kBoxDepth && kStages >= 2 && kShared <= 227 << 10);
  using Sums = float[kEach][kWidth / 2];
};

template <class F>
constexpr int kPiece = F::kBoxes * kBoxDepth;  // elements of k of a stage

/// Boxes of the operands of a product and of the one that goes on where it ends; and of those of u, if it is made here.
struct Operands {
  CUtensorMap a[2], b[2], a_of_u, down;
  int depth[2];
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/// Addresses of the ring: its stages, and for each stage a barrier for filled and one for used. Where blocks make their
/// own u, its columns of v and their barrier. Then the bias of its columns.
struct Ring {
  uint32_t stages, full, empty, v, v_full;
  uint32_t
      told;  // `empty` of the block of the cluster that this lane of a warp tells, one of those that fill the stages
  char* memory;  // the stages once more
  float* bias;
};

/// By all threads of a block, who have to meet before it is used, in a cluster those of all its blocks.
template <class F>
__device__ __forceinline__ Ring begin_ring(void* shared) {
  Ring ring;
  ring.stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  ring.v = ring.stages + F::kStages * F::kStage;
  ring.full = ring.v + F::kV;
  ring.empty = ring.full + F::kStages * 8;
  ring.v_full = ring.empty + F::kStages * 8;
  ring.memory = static_cast<char*>(shared) + (ring.stages - shared_address(shared));
  ring.bias = reinterpret_cast<float*>(ring.memory + (ring.v_full + 8 - ring.stages));
  ring.told = ring.empty;
  if constexpr (F::kInClusters) {
    const int lane = threadIdx.x % kWarp, down = lane - F::kAcross + 1;  // a block further down, around
    const int2 at = place_in_cluster();
    ring.told =
        address_in(down < 1 ? at.y * F::kAcross + lane : (at.y + down) % F::kDown * F::kAcross + at.x, ring.empty);
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      init_barrier(ring.full + i * 8, 2);
      init_barrier(ring.empty + i * 8, F::kMultiply * F::kFillers);
    }
    init_barrier(ring.v_full, 1);
    fence_barriers();
  }
  return ring;
}

/// The pieces of k of a block: those of the first product, then those of the second.
template <class F>
struct Pieces {
  int depth[2], first, count;

  __device__ Pieces(const Operands& operands, bool both)
      : depth{operands.depth[0], operands.depth[1]},
        first((depth[0] + kPiece<F> - 1) / kPiece<F>),
        count(first + (both ? (depth[1] + kPiece<F> - 1) / kPiece<F> : 0)) {}
  __device__ __forceinline__ bool second(int piece) const { return piece >= first; }
  __device__ __forceinline__ int begin(int piece) const { return (piece - (second(piece) ? first : 0)) * kPiece<F>; }
  /// Boxes along k: the last piece of a product may have fewer.
  __device__ __forceinline__ int boxes(int piece) const {
    const int ends = second(piece) ? depth[1] : depth[0];  // an index known late would put them into memory
    return min(F::kBoxes, (ends - begin(piece) + kBoxDepth - 1) / kBoxDepth);
  }
};

/// Stages in turn, and the parity of the round.
template <class F>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage < F::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

/// The rows of a box that a block copies where kBlocks of its cluster, a bit of `blocks` each, need all of it.
template <int kBlocks>
struct Share {
  int number = 0;
  uint32_t blocks = 0;
};
template <class F>
__device__ __forceinline__ Share<F::kAcross> share_of_a() {
  if constexpr (F::kAcross == 1) return {};
  const int2 at = place_in_cluster();
  return {at.x, ((1u << F::kAcross) - 1) << (at.y * F::kAcross)};
}
template <class F>
__device__ __forceinline__ Share<F::kDown> share_of_b() {
  if constexpr (F::kDown == 1) return {};
  const int2 at = place_in_cluster();
  uint32_t blocks = 0;
  for (int y = 0; y < F::kDown; ++y) blocks |= 1u << (y * F::kAcross + at.x);
  return {at.y, blocks};
}

/// One thread fills one operand's part of every stage: at(piece) is where the piece begins in it, (k, row). A box has
/// box_rows of kRows rows, of which `share` is copied here. Behind each box lies one of kBeside rows of another matrix,
/// from row_beside on, if that is not negative.
template <class F, int kRows, int kBeside = 0, int kBlocks = 1, class At>
__device__ __forceinline__ void fill(const Ring& ring, uint32_t to, const Pieces<F>& pieces, const CUtensorMap* maps,
                                     At at, int box_rows = kRows, const CUtensorMap* beside = nullptr,
                                     int row_beside = -1, Share<kBlocks> share = {}) {
  constexpr int kBox = (kRows + kBeside) * kBoxRow;
  const bool both = kBeside > 0 && row_beside >= 0;
  const int own = share.number * (kRows / kBlocks);
  Turn<F> turn;
  for (int i = 0; i < pieces.count; ++i, turn.next()) {
    const int boxes = pieces.boxes(i);
    const uint32_t full = ring.full + turn.stage * 8;
    const CUtensorMap& map = maps[pieces.second(i)];
    const int2 from = at(i);
    if (i >= F::kStages) wait_barrier(ring.empty + turn.stage * 8, turn.parity ^ 1);
    expect_bytes(full, boxes * (both ? kBox : box_rows * kBoxRow));
    for (int box = 0; box < boxes; ++box) {
      const uint32_t here = to + turn.stage * F::kStage + box * kBox;
      if constexpr (kBlocks > 1)
        copy_box_to(share.blocks, here + own * kBoxRow, map, from.x + box * kBoxDepth, from.y + own, full);
      else
        copy_box(here, map, from.x + box * kBoxDepth, from.y, full);
      if (both) copy_box(here + kRows * kBoxRow, *beside, from.x + box * kBoxDepth, row_beside, full);
    }
  }
  if constexpr (F::kInClusters)  // others arrive at the barriers of this block, which has to be there
    for (int i = pieces.count; i < pieces.count + F::kStages; ++i, turn.next())
      if (i >= F::kStages) wait_barrier(ring.empty + turn.stage * 8, turn.parity ^ 1);
}

/// By a warp: the stage may be filled again.
template <class F>
__device__ __forceinline__ void release(const Ring& ring, int stage) {
  const int lane = threadIdx.x % kWarp;
  if (F::kInClusters && lane < F::kFillers) arrive_there(ring.told + stage * 8);
  if (!F::kInClusters && lane == 0) arrive(ring.empty + stage * 8);
}

/// The first row of the block that a warp has, of its warpgroup's products number `each`.
template <class F>
__device__ __forceinline__ int row_of_warp(int each) {
  const int warp = threadIdx.x / kWarp;
  return (warp / kGroupWarps * F::kEach + each) * kGroupRows + warp % kGroupWarps * 16;
}

/// By a warpgroup: a piece is under way while the next is awaited.
template <class F, class T>
__device__ void multiply(typename F::Sums& sums, const Ring& ring, const Pieces<F>& pieces) {
  const int first_row = F::kGroups > 1 ? threadIdx.x / kGroupThreads * F::kEach * kGroupRows : 0;
  const auto multiply_box = [&](uint64_t a, uint64_t b, int box) {  // a descriptor counts in 16 bytes
#pragma unroll
    for (int step = 0; step < kBoxDepth / 16; ++step)
#pragma unroll
      for (int each = 0; each < F::kEach; ++each)
        group_mma<T, false>(sums[each], a + ((box * F::kRows + each * kGroupRows) * kBoxRow + step * 32) / 16,
                            b + (box * F::kWidth * kBoxRow + step * 32) / 16);
  };
#pragma unroll
  for (auto& own : sums) settle(own);
  Turn<F> turn, before;
  for (int i = 0; i < pieces.count; ++i, turn.next()) {
    const int boxes = pieces.boxes(i);
    const uint32_t here = ring.stages + turn.stage * F::kStage;
    const uint64_t a = rows_operand(here + F::kFromB + first_row * kBoxRow), b = rows_operand(here);
    wait_barrier(ring.full + turn.stage * 8, turn.parity);
    if (boxes == F::kBoxes) {
      begin_group();
#pragma unroll
      for (int box = 0; box < F::kBoxes; ++box) multiply_box(a, b, box);
      commit_group();
      wait_groups<1>();
    } else {
      for (int box = 0; box < boxes; ++box) {
        begin_group();
        multiply_box(a, b, box);
        commit_group();
      }
      wait_groups<0>();
    }
    if (i == 0) continue;
    release<F>(ring, before.stage);
    before.next();
  }
  wait_groups<0>();
  if (F::kInClusters && pieces.count > 0) release<F>(ring, before.stage);  // who filled it waits for that
#pragma unroll
  for (auto& own : sums) settle(own);
}

template <int kWarps>
__device__ __forceinline__ void meet_warps() {
  asm volatile("bar.sync 1, %0;" ::"n"(kWarps * kWarp) : "memory");
}

/// By all warps that multiply: their sums, scaled, and bias, rounded, through the stages, which nobody reads any more,
/// to c. The way is short in instructions: a block goes it once, and they have to be brought.
template <class F, class Out>
__device__ __forceinline__ void store_sums(Out* c, const typename F::Sums& sums, const Ring& ring, float scale,
                                           int first_row, int first_column, int rows, int columns, int64_t c_stride) {
  constexpr int kInPiece = 16 / int(sizeof(Out)), kPieces = F::kColumns / kInPiece;
  constexpr int kStride = (kPieces | 1) * 16;  // bytes of a row; odd in pieces, so that rows lie on other banks
  constexpr int kOfWarp = F::kEach * 16;       // rows
  static_assert(F::kRows * kStride <= F::kStages * F::kStage);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  char* own = ring.memory + warp * kOfWarp * kStride;
  meet_warps<F::kMultiply>();
  if (row_of_warp<F>(0) >= F::kRows) return;
#pragma unroll
  for (int block = 0; block < F::kColumns / 8; ++block) {
    const float2 bias = *reinterpret_cast<const float2*>(ring.bias + block * 8 + 2 * t);
#pragma unroll
    for (int half = 0; half < 2 * F::kEach; ++half) {
      const float x = scale * sums[half / 2][block * 4 + half % 2 * 2] + bias.x;
      const float y = scale * sums[half / 2][block * 4 + half % 2 * 2 + 1] + bias.y;
      char* to = own + (half * 8 + g) * kStride + (block * 8 + 2 * t) * int(sizeof(Out));
      if constexpr (std::is_same_v<Out, float>)
        *reinterpret_cast<float2*>(to) = make_float2(x, y);
      else
        *reinterpret_cast<uint32_t*>(to) = pack_two<Out>(x, y);
    }
  }
  __syncwarp();
  const bool whole = (uintptr_t(c + first_column) | uintptr_t(c_stride * sizeof(Out))) % 16 == 0;
#pragma unroll 2
  for (int i = lane; i < kOfWarp * kPieces; i += kWarp) {
    const int r = i / kPieces, piece = i % kPieces, down = row_of_warp<F>(r / 16) + r % 16, row = first_row + down;
    const int column = first_column + piece * kInPiece;
    if (down >= F::kRows || row >= rows || column >= columns) continue;
    const char* from = own + r * kStride + piece * 16;
    Out* to = c + row * c_stride + column;
    if (whole && column + kInPiece <= columns)
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    else
      for (int e = 0; e < min(kInPiece, columns - column); ++e) to[e] = reinterpret_cast<const Out*>(from)[e];
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace mantissa::cuda_kernels
