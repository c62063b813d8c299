// Exact products of few rows (cuda/matmul/exact.h), at the speed of memory. The chain over k cannot be cut, so what is
// kept short is the traffic into a multiprocessor, and what waits is never the chain: a block has kRows rows of a and
// kColumns of b and streams both through a ring in shared memory. One warp fills the ring with a's boxes, one with b's;
// the others multiply. A kernel begins while the one ahead of it still runs, and has its first part of b brought near
// meanwhile. Of a chained product (cuda/matmul/chained.h) whose u is yet to be made, either blocks of their own make
// it, for which the others wait, or each block makes what it needs of it beside its columns: rows of `down` are kU more
// columns, and their sums, rounded, the left operand of the second product.
//
// Legend: c[M,N] = a[M,K] . b[N,K]^T. A box is 64 elements of some rows, a piece kBoxes of them along k.
#include "cuda/matmul/exact.cuh"
#include "cuda/matmul/segments.cuh"
#include "cuda/overlap.cuh"
#include "cuda/wgmma.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kAlone = 208 << 10;   // bytes of the ring of a block that has a multiprocessor to itself
constexpr int kOfThree = 64 << 10;  // and of one that shares it with two others
constexpr int kMostStages = 8;
[[maybe_unused]] constexpr int kGroupWarps = kGroupThreads / kWarp, kThreads = kGroupThreads + 2 * kWarp;

/// Rows and columns of a block, boxes of a piece, and columns of u that a block makes. A warpgroup multiplies 64 rows:
/// those past kRows are whatever lies behind in shared memory, and go nowhere.
template <int kRowsOf, int kColumnsOf, int kBoxesOf, int kRing = kAlone, int kUOf = 0>
struct Form {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf, kBoxes = kBoxesOf, kU = kUOf, kWidth = kColumns + kU;
  static constexpr int kFromA = kBoxes * kRows * kBoxRow, kFromB = kBoxes * kWidth * kBoxRow, kStage = kFromA + kFromB;
  static constexpr int kStages = kRing / kStage < kMostStages ? kRing / kStage : kMostStages;
  static constexpr int kPast = (kGroupRows - kRows) * kBoxRow;  // bytes read behind the last stage
  static constexpr int kV = (kU > 0) * kColumns * kBoxRow;      // bytes of v
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kV + 8 + kPast + kBoxAlignment;  // the 8: v's barrier
  static_assert(kRows % 8 == 0 && kColumns % 8 == 0);  // the swizzle repeats every eight rows
  static_assert(kU % 16 == 0 && kU <= kBoxDepth && kStages >= 2 && kShared <= 227 << 10);
};

template <class F>
constexpr int kPiece = F::kBoxes * kBoxDepth;  // elements of k of a stage

/// Boxes of the operands of a product and of the one that goes on where it ends.
struct Operands {
  CUtensorMap a[2], b[2];
  CUtensorMap down[2];  // the first: as b, where u is made here
  int depth[2];
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/// Addresses of the ring: its stages, and for each stage a barrier for filled and one for used. Where blocks make their
/// own u, its columns of v and their barrier.
struct Ring {
  uint32_t stages, full, empty, v, v_full;
};

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

/// One thread fills one operand's part of every stage: at(piece) is where the piece begins in it, (k, row). Behind each
/// box lies one of kBeside rows of another matrix, from row_beside on, if that is not negative.
template <class F, int kRows, int kBeside = 0, class At>
__device__ __forceinline__ void fill(const Ring& ring, uint32_t to, const Pieces<F>& pieces,
                                     const CUtensorMap (&maps)[2], At at, const CUtensorMap* beside = nullptr,
                                     int row_beside = -1) {
  constexpr int kBox = (kRows + kBeside) * kBoxRow;
  const bool both = kBeside > 0 && row_beside >= 0;
  for (int i = 0; i < pieces.count; ++i) {
    const int stage = i % F::kStages, boxes = pieces.boxes(i);
    const uint32_t full = ring.full + stage * 8;
    const CUtensorMap& map = maps[pieces.second(i)];
    const int2 from = at(i);
    if (i >= F::kStages) wait_barrier(ring.empty + stage * 8, (i / F::kStages - 1) & 1);
    expect_bytes(full, boxes * (both ? kBox : kRows * kBoxRow));
    for (int box = 0; box < boxes; ++box) {
      const uint32_t here = to + stage * F::kStage + box * kBox;
      copy_box(here, map, from.x + box * kBoxDepth, from.y, full);
      if (both) copy_box(here + kRows * kBoxRow, *beside, from.x + box * kBoxDepth, row_beside, full);
    }
  }
}

/// By one thread. Until the kernel ahead has ended it asks for b in the second-level cache alone, where a later write
/// is seen.
template <class F>
__device__ void fill_b(const Ring& ring, const CUtensorMap (&maps)[2], const CUtensorMap& down, const Pieces<F>& pieces,
                       const Segment& segment, int first_column) {
  for (int k = 0; k < min(pieces.depth[0], F::kStages * kPiece<F>); k += kBoxDepth)
    prefetch_box(maps[0], k, first_column);
  await_previous();
  const int v_row = segment.v_row + first_column - segment.begin;
  if (F::kU > 0 && segment.u_column >= 0) {
    expect_bytes(ring.v_full, F::kV);
    copy_box(ring.v, maps[1], 0, v_row, ring.v_full);
  }
  const auto at = [&](int i) { return int2{pieces.begin(i), pieces.second(i) ? v_row : first_column}; };
  fill<F, F::kColumns, F::kU>(ring, ring.stages, pieces, maps, at, &down, segment.u_column);
}
template <class F>
__device__ void fill_a(const Ring& ring, const CUtensorMap (&maps)[2], const Pieces<F>& pieces, const Segment& segment,
                       int first_row, const MadeU& made) {
  await_previous();
  fill<F, F::kRows>(ring, ring.stages + F::kFromB, pieces, maps, [&](int i) {
    if (i == pieces.first && made.blocks > 0) await_progress(made.progress + blockIdx.y, made.blocks, made.users);
    return int2{pieces.begin(i) + (pieces.second(i) ? segment.u_column : 0), first_row};
  });
}

/// By a warpgroup: a piece is under way while the next is awaited.
template <class F, class T>
__device__ void multiply(float (&sums)[F::kWidth / 2], const Ring& ring, const Pieces<F>& pieces) {
  const auto multiply_box = [&](uint64_t a, uint64_t b, int box) {  // a descriptor counts in 16 bytes
#pragma unroll
    for (int step = 0; step < kBoxDepth / 16; ++step)
      group_mma<T, false>(sums, a + (box * F::kRows * kBoxRow + step * 32) / 16,
                          b + (box * F::kWidth * kBoxRow + step * 32) / 16);
  };
  for (int i = 0; i < pieces.count; ++i) {
    const int stage = i % F::kStages, boxes = pieces.boxes(i);
    const uint32_t here = ring.stages + stage * F::kStage;
    const uint64_t a = rows_operand(here + F::kFromB), b = rows_operand(here);
    wait_barrier(ring.full + stage * 8, i / F::kStages & 1);
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
    if (i > 0 && threadIdx.x % kWarp == 0) arrive(ring.empty + (i - 1) % F::kStages * 8);
  }
  wait_groups<0>();
  settle(sums);
}

/// By a warpgroup, behind multiply(): the second product, by the u that it has made. store_u(row of the block, column,
/// two elements) is told of its columns below the rank.
template <class F, class T, class Store>
__device__ void add_by_own_u(float (&all)[F::kWidth / 2], const Ring& ring, int rank, float scale, Store store_u) {
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * 16 + lane / 4;
  // The first of them, which are the block's columns.
  float(&sums)[F::kColumns / 2] = reinterpret_cast<float(&)[F::kColumns / 2]>(all);
  uint32_t left[F::kU / 16][4];  // sums of a product lie as the left operand of the next one
#pragma unroll
  for (int i = 0; i < F::kU / 4; ++i) {
    const int column = i / 2 * 8 + lane % 4 * 2, at = F::kColumns / 2 + 2 * i;
    const uint32_t two = i / 2 * 8 < rank ? pack_two<T>(scale * all[at], scale * all[at + 1]) : 0;
    left[i / 4][i % 4] = two;
    if (i / 2 * 8 < rank) store_u(row + i % 2 * 8, column, two);
  }
  wait_barrier(ring.v_full, 0);
  begin_group();
#pragma unroll
  for (int step = 0; step < F::kU / 16; ++step)  // zeros behind the rank change nothing
    group_mma<T, false>(sums, left[step], rows_operand(ring.v + step * 32));
  commit_group();
  wait_groups<0>();
  settle(sums);
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

/// Grid (made.blocks + segments.blocks, rows / kRows).
template <class F, class T, class Out>
__global__ void __launch_bounds__(kThreads)
    stream_kernel(Out* c, const __grid_constant__ Operands operands, const Out* bias, int rows,
                  const __grid_constant__ Segments segments, int64_t c_stride, float scale, MadeU made) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint4 shared[];
  let_next_begin();
  const int warp = __shfl_sync(~0u, threadIdx.x / kWarp, 0), lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const bool makes = int(blockIdx.x) < made.blocks;
  const int block = makes ? blockIdx.x : blockIdx.x - made.blocks;
  const Segment segment = makes ? Segment{0, 0, made.columns, -1, 0} : segments.of(block);
  const int first_row = blockIdx.y * F::kRows, columns = segment.end;
  const int first_column = segment.begin + (block - segment.first_block) * F::kColumns;
  const bool chained = segment.u_column >= 0;
  const Pieces<F> pieces(operands, chained && F::kU == 0);
  Ring ring;
  ring.stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  ring.v = ring.stages + F::kStages * F::kStage;
  ring.full = ring.v + F::kV;
  ring.empty = ring.full + F::kStages * 8;
  ring.v_full = ring.empty + F::kStages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      init_barrier(ring.full + i * 8, 2);
      init_barrier(ring.empty + i * 8, kGroupWarps);
    }
    init_barrier(ring.v_full, 1);
    fence_barriers();
  }
  __syncthreads();

  if (warp == kGroupWarps) {
    if (elected()) fill_b<F>(ring, makes ? operands.down : operands.b, operands.down[0], pieces, segment, first_column);
  } else if (warp > kGroupWarps) {
    if (elected()) fill_a<F>(ring, operands.a, pieces, segment, first_row, made);
  } else {
    float sums[F::kWidth / 2] = {};
    multiply<F, T>(sums, ring, pieces);
    if constexpr (F::kU > 0) {
      const auto store_u = [&](int down, int column, uint32_t two) {
        if (first_column != segment.begin || down >= F::kRows || first_row + down >= rows) return;
        T* to = static_cast<T*>(made.u) + int64_t(first_row + down) * made.columns + segment.u_column + column;
        *reinterpret_cast<uint32_t*>(to) = two;
      };
      if (chained) add_by_own_u<F, T>(sums, ring, operands.depth[1], made.scale, store_u);
    }
    const bool in_pairs = (uintptr_t(c + first_column) | uintptr_t(c_stride * sizeof(Out))) % (2 * sizeof(Out)) == 0;
#pragma unroll
    for (int i = 0; i < F::kColumns / 2; i += 2) {
      const int down = 16 * warp + g + i % 4 / 2 * 8, row = first_row + down, column = first_column + i / 4 * 8 + 2 * t;
      if (down >= F::kRows || row >= rows || column >= columns) continue;
      if (makes) {
        const uint32_t two = pack_two<T>(made.scale * sums[i], made.scale * sums[i + 1]);
        *reinterpret_cast<uint32_t*>(static_cast<T*>(made.u) + int64_t(row) * made.columns + column) = two;
        continue;
      }
      Out* to = c + row * c_stride + column;
      const Out* own_bias = bias ? bias + column : nullptr;
      if (in_pairs && column + 1 < columns) {
        store_two_sums(to, scale * sums[i], scale * sums[i + 1], own_bias);
        continue;
      }
      store_sum(to, scale * sums[i], own_bias);
      if (column + 1 < columns) store_sum(to + 1, scale * sums[i + 1], own_bias ? own_bias + 1 : nullptr);
    }
    if (makes) {
      publish();
      asm volatile("bar.sync 1, %0;" ::"n"(kGroupThreads) : "memory");
      if (threadIdx.x == 0) count_progress(made.progress + blockIdx.y);
    }
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: has_box_copies() should have said no
#endif
}

template <class F>
void launch(Exec& exec, const ChainedProduct& chained) {
  const ExactProduct& p = chained.first;
  Operands operands{{box_map(p.a, p.type, p.rows, p.depth, F::kRows)},
                    {box_map(p.b, p.type, p.columns, p.depth, F::kColumns, Read::kOnce)},
                    {},
                    {int(p.depth), int(chained.rank)}};
  if (chained.rank > 0) {
    if (F::kU == 0) operands.a[1] = box_map(chained.u, p.type, p.rows, chained.u_columns(), F::kRows);
    operands.b[1] = box_map(chained.v, p.type, chained.v_rows(), chained.rank, F::kColumns);
  }
  const Segments segments = segments_of(p.columns, chained.parts, chained.rank, F::kColumns);
  MadeU made = made_u(chained, segments, F::kColumns, chained.down ? progress_counters(exec) : nullptr);
  if (F::kU > 0) made.blocks = 0;
  if (chained.down)
    operands.down[0] = box_map(chained.down, p.type, made.columns, p.depth, F::kU > 0 ? F::kU : F::kColumns);
  visit_product(p, [&]<class T, class Out>() {
    if constexpr (F::kU == 0 || std::is_same_v<T, Out>) {  // stream_serves() asks for it
      auto* kernel = stream_kernel<F, T, Out>;
      MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
      launch_early(exec, kernel, dim3(made.blocks + segments.blocks, blocks(p.rows, F::kRows)), kThreads, F::kShared,
                   static_cast<Out*>(p.c), operands, static_cast<const Out*>(p.bias), int(p.rows), segments, p.c_stride,
                   chained.scale, made);
    }
  });
}

using Launch = void (*)(Exec&, const ChainedProduct&);
/// Their numbers lie in checkpoints: new ones go last.
constexpr Launch kForms[] = {launch<Form<16, 16, 4>>, launch<Form<32, 24, 4>>,           launch<Form<32, 32, 4>>,
                             launch<Form<64, 16, 4>>, launch<Form<64, 24, 4>>,           launch<Form<64, 48, 2>>,
                             launch<Form<64, 64, 2>>, launch<Form<64, 64, 1, kOfThree>>, launch<Form<64, 136, 1>>};
/// Those that make their own u: of so many columns, in one box of v, and for so few rows, since all blocks of some rows
/// make the same u.
constexpr int kOwnRank = 32, kOwnRows = 2 * kGroupRows;
constexpr Launch kOwnU[] = {launch<Form<16, 16, 2, kAlone, kOwnRank>>, launch<Form<32, 24, 2, kAlone, kOwnRank>>,
                            launch<Form<64, 16, 2, kAlone, kOwnRank>>, launch<Form<64, 24, 2, kAlone, kOwnRank>>,
                            launch<Form<64, 32, 2, kAlone, kOwnRank>>, launch<Form<64, 64, 2, kAlone, kOwnRank>>,
                            launch<Form<64, 136, 1, kAlone, kOwnRank>>};

}  // namespace

int exact_kernels() {
  return 1 + int(std::size(kForms));
}

bool exact_kernel_serves(Exec& exec, const ExactProduct& p, int kernel) {
  if (kernel == 0) return true;
  return kernel > 0 && kernel < exact_kernels() && p.depth % 8 == 0 && aligned({p.a, p.b}) &&
         has_box_copies(device_facts(exec));
}

int exact_kernel_for(Exec& exec, const ExactProduct& p) {
  const int wanted = p.rows <= 16 ? 1 : p.rows <= 32 ? 2 : p.rows <= 64 ? 4 : 7;
  return exact_kernel_serves(exec, p, wanted) ? wanted : 0;
}

void run_exact_kernel(Exec& exec, const ExactProduct& p, int kernel) {
  if (kernel == 0)
    run_plain_product(exec, p);
  else
    kForms[kernel - 1](exec, {.first = p});
}

int stream_forms() {
  return int(std::size(kForms) + std::size(kOwnU));
}
bool stream_serves(const ChainedProduct& p, int form) {
  if (p.trans != Trans::kNT || p.first.rows > kFewRows) return false;
  if (p.down && p.first.type != p.first.out_type) return false;
  return form < int(std::size(kForms)) || (p.down && p.rank <= kOwnRank && p.first.rows <= kOwnRows);
}
void run_stream(Exec& exec, const ChainedProduct& p, int form) {
  const int own_u = form - int(std::size(kForms));
  (own_u < 0 ? kForms[form] : kOwnU[own_u])(exec, p);
}

}  // namespace mantissa::cuda_kernels
