// Exact products of few rows (cuda/matmul/exact.h), at the speed of memory. The chain over k cannot be cut, so what is
// kept short is the traffic into a multiprocessor, and what waits is never the chain: a block has kRows rows of a and
// kColumns of b and streams both through a ring in shared memory. One warp fills the ring with a's boxes, one with b's;
// the others multiply. A kernel begins while the one ahead of it still runs, and has its first part of b brought near
// meanwhile.
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

/// Rows and columns of a block, and boxes of a piece. A warpgroup multiplies 64 rows: those past kRows are whatever
/// lies behind in shared memory, and go nowhere.
template <int kRowsOf, int kColumnsOf, int kBoxesOf, int kRing = kAlone>
struct Form {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf, kBoxes = kBoxesOf;
  static constexpr int kFromA = kBoxes * kRows * kBoxRow, kFromB = kBoxes * kColumns * kBoxRow,
                       kStage = kFromA + kFromB;
  static constexpr int kStages = kRing / kStage < kMostStages ? kRing / kStage : kMostStages;
  static constexpr int kPast = (kGroupRows - kRows) * kBoxRow;  // bytes read behind the last stage
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kPast + kBoxAlignment;
  static_assert(kRows % 8 == 0 && kColumns % 8 == 0);  // the swizzle repeats every eight rows
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

/// Addresses of the ring: its stages, and for each stage a barrier for filled and one for used.
struct Ring {
  uint32_t stages, full, empty;
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
    return min(F::kBoxes, (depth[second(piece)] - begin(piece) + kBoxDepth - 1) / kBoxDepth);
  }
};

/// One thread fills one operand's part of every stage: at(piece) is where the piece begins in it, (k, row).
template <class F, int kRows, class At>
__device__ __forceinline__ void fill(const Ring& ring, uint32_t to, const Pieces<F>& pieces,
                                     const CUtensorMap (&maps)[2], At at) {
  for (int i = 0; i < pieces.count; ++i) {
    const int stage = i % F::kStages, boxes = pieces.boxes(i);
    const uint32_t full = ring.full + stage * 8;
    const CUtensorMap& map = maps[pieces.second(i)];
    const int2 from = at(i);
    if (i >= F::kStages) wait_barrier(ring.empty + stage * 8, (i / F::kStages - 1) & 1);
    expect_bytes(full, boxes * kRows * kBoxRow);
    for (int box = 0; box < boxes; ++box)
      copy_box(to + stage * F::kStage + box * kRows * kBoxRow, map, from.x + box * kBoxDepth, from.y, full);
  }
}

/// By one thread. Until the kernel ahead has ended it asks for b in the second-level cache alone, where a later write
/// is seen.
template <class F>
__device__ void fill_b(const Ring& ring, const CUtensorMap (&maps)[2], const Pieces<F>& pieces, const Segment& segment,
                       int first_column) {
  for (int k = 0; k < min(pieces.depth[0], F::kStages * kPiece<F>); k += kBoxDepth)
    prefetch_box(maps[0], k, first_column);
  await_previous();
  fill<F, F::kColumns>(ring, ring.stages, pieces, maps, [&](int i) {
    return int2{pieces.begin(i), pieces.second(i) ? segment.v_row + first_column - segment.begin : first_column};
  });
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
__device__ void multiply(float (&sums)[F::kColumns / 2], const Ring& ring, const Pieces<F>& pieces) {
  const auto multiply_box = [&](uint64_t a, uint64_t b, int box) {  // a descriptor counts in 16 bytes
#pragma unroll
    for (int step = 0; step < kBoxDepth / 16; ++step)
      group_mma<T, false>(sums, a + (box * F::kRows * kBoxRow + step * 32) / 16,
                          b + (box * F::kColumns * kBoxRow + step * 32) / 16);
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
  const Pieces<F> pieces(operands, segment.u_column >= 0);
  Ring ring;
  ring.stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  ring.full = ring.stages + F::kStages * F::kStage;
  ring.empty = ring.full + F::kStages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      init_barrier(ring.full + i * 8, 2);
      init_barrier(ring.empty + i * 8, kGroupWarps);
    }
    fence_barriers();
  }
  __syncthreads();

  if (warp == kGroupWarps) {
    if (elected()) fill_b<F>(ring, makes ? operands.down : operands.b, pieces, segment, first_column);
  } else if (warp > kGroupWarps) {
    if (elected()) fill_a<F>(ring, operands.a, pieces, segment, first_row, made);
  } else {
    float sums[F::kColumns / 2] = {};
    multiply<F, T>(sums, ring, pieces);
#pragma unroll
    for (int i = 0; i < F::kColumns / 2; ++i) {
      const int down = 16 * warp + g + i % 4 / 2 * 8, row = first_row + down;
      const int column = first_column + i / 4 * 8 + 2 * t + i % 2;
      if (down >= F::kRows || row >= rows || column >= columns) continue;
      if (makes)
        static_cast<T*>(made.u)[int64_t(row) * made.columns + column] = from_float<T>(made.scale * sums[i]);
      else
        store_sum(c + row * c_stride + column, scale * sums[i], bias ? bias + column : nullptr);
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
                    {box_map(p.b, p.type, p.columns, p.depth, F::kColumns)},
                    {},
                    {int(p.depth), int(chained.rank)}};
  if (chained.rank > 0) {
    operands.a[1] = box_map(chained.u, p.type, p.rows, chained.u_columns(), F::kRows);
    operands.b[1] = box_map(chained.v, p.type, chained.v_rows(), chained.rank, F::kColumns);
  }
  const Segments segments = segments_of(p.columns, chained.parts, chained.rank, F::kColumns);
  const MadeU made = made_u(chained, segments, F::kColumns, chained.down ? progress_counters(exec) : nullptr);
  if (chained.down) operands.down[0] = box_map(chained.down, p.type, made.columns, p.depth, F::kColumns);
  visit_product(p, [&]<class T, class Out>() {
    auto* kernel = stream_kernel<F, T, Out>;
    MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
    launch_early(exec, kernel, dim3(made.blocks + segments.blocks, blocks(p.rows, F::kRows)), kThreads, F::kShared,
                 static_cast<Out*>(p.c), operands, static_cast<const Out*>(p.bias), int(p.rows), segments, p.c_stride,
                 chained.scale, made);
  });
}

using Launch = void (*)(Exec&, const ChainedProduct&);
constexpr Launch kForms[] = {launch<Form<16, 16, 4>>, launch<Form<32, 24, 4>>,          launch<Form<32, 32, 4>>,
                             launch<Form<64, 16, 4>>, launch<Form<64, 24, 4>>,          launch<Form<64, 48, 2>>,
                             launch<Form<64, 64, 2>>, launch<Form<64, 64, 1, kOfThree>>};

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
  return int(std::size(kForms));
}
void run_stream(Exec& exec, const ChainedProduct& p, int form) {
  kForms[form](exec, p);
}

}  // namespace mantissa::cuda_kernels
