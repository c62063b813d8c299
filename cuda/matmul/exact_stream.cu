// Exact products of few rows (cuda/matmul/exact.h), at the speed of memory. The chain over k cannot be cut, so what is
// kept short is the traffic into a multiprocessor, and what waits is never the chain: a block has kRows rows of a and
// kColumns of b and streams both through a ring in shared memory. One warp fills the ring by tensor copies; the others
// multiply, each 16 rows by all columns of the block. A kernel begins while the one ahead of it still runs, and has its
// first part of b brought near meanwhile.
//
// Legend: c[M,N] = a[M,K] . b[N,K]^T. A box is 64 elements of some rows, a piece kBoxes of them along k.
#include "cuda/bulk.cuh"
#include "cuda/matmul/exact.cuh"
#include "cuda/matmul/segments.cuh"
#include "cuda/overlap.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kBoxes = 4;                                    // of a stage
[[maybe_unused]] constexpr int kPiece = kBoxes * kBoxDepth;  // elements of k of a stage
constexpr int kRing = 208 << 10;                             // bytes of shared memory that a ring may take
constexpr int kMostStages = 8;

/// A form of the kernel: rows and columns of a block.
template <int kRowsOf, int kColumnsOf>
struct Form {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf;
  static constexpr int kWarps = kRows / 16, kThreads = (kWarps + 1) * kWarp;
  static constexpr int kStage = kBoxes * (kRows + kColumns) * kBoxRow;
  static constexpr int kStages = kRing / kStage < kMostStages ? kRing / kStage : kMostStages;
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kBoxAlignment;
  static_assert(kRows % 16 == 0 && kColumns % 8 == 0);  // the swizzle repeats every eight rows
};

/// Boxes of the operands of a product and of the one that goes on where it ends.
struct Operands {
  CUtensorMap a[2], b[2];
  int depth[2];
  CUtensorMap down;  // as b, where u is made here
};

#if __CUDA_ARCH__ >= 900

/// Addresses of the ring: its stages, and for each stage a barrier for filled and one for used.
struct Ring {
  uint32_t stages, full, empty;
};

/// The pieces of k of a block: those of the first product, then those of the second.
struct Pieces {
  int depth[2], first, count;

  __device__ Pieces(const Operands& operands, bool both)
      : depth{operands.depth[0], operands.depth[1]},
        first((depth[0] + kPiece - 1) / kPiece),
        count(first + (both ? (depth[1] + kPiece - 1) / kPiece : 0)) {}
  __device__ __forceinline__ bool second(int piece) const { return piece >= first; }
  __device__ __forceinline__ int begin(int piece) const { return (piece - (second(piece) ? first : 0)) * kPiece; }
  /// Boxes along k: the last piece of a product may have fewer.
  __device__ __forceinline__ int boxes(int piece) const {
    return min(kBoxes, (depth[second(piece)] - begin(piece) + kBoxDepth - 1) / kBoxDepth);
  }
};

/// One thread fills the ring. Until the kernel ahead has ended it asks for b in the second-level cache alone, where a
/// later write is seen.
template <class F>
__device__ void fill_ring(const Ring& ring, const Operands& operands, const Pieces& pieces, const Segment& segment,
                          int first_row, int first_column, const MadeU& made, bool makes) {
  for (int k = 0; k < min(operands.depth[0], F::kStages * kPiece); k += kBoxDepth)
    prefetch_box(makes ? operands.down : operands.b[0], k, first_column);
  await_previous();
  for (int i = 0; i < pieces.count; ++i) {
    if (i == pieces.first && made.blocks > 0) await_progress(made.progress + blockIdx.y, made.blocks, made.users);
    const int stage = i % F::kStages, boxes = pieces.boxes(i), second = pieces.second(i);
    const uint32_t to = ring.stages + stage * F::kStage, full = ring.full + stage * 8;
    const int b_row = second ? segment.v_row + first_column - segment.begin : first_column;
    if (i >= F::kStages) wait_barrier(ring.empty + stage * 8, (i / F::kStages - 1) & 1);
    expect_bytes(full, boxes * (F::kStage / kBoxes));
    for (int box = 0; box < boxes; ++box) {
      const int k = pieces.begin(i) + box * kBoxDepth;
      copy_box(to + box * F::kColumns * kBoxRow, makes ? operands.down : operands.b[second], k, b_row, full);
      copy_box(to + (kBoxes * F::kColumns + box * F::kRows) * kBoxRow, operands.a[second],
               second ? segment.u_column + k : k, first_row, full);
    }
  }
}

/// A warp's operands of two steps of k: a's 16 rows, and the block's columns in eights.
template <class F>
struct Fragments {
  uint32_t a[2][4], b[F::kColumns / 8][4];

  /// Steps 2 pair and 2 pair + 1 of the piece that lies at `stage`.
  __device__ __forceinline__ void load(uint32_t stage, int pair) {
    const int lane = threadIdx.x % kWarp, box = pair / 2, swizzle = lane % 8;
    const uint32_t rows =
        stage + (kBoxes * F::kColumns + box * F::kRows + threadIdx.x / kWarp * 16 + lane % 16) * kBoxRow;
    const uint32_t columns = stage + (box * F::kColumns + lane % 8) * kBoxRow;
    const int half = pair % 2 * 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) load_matrices(a[i], rows + (((lane / 16) ^ swizzle ^ (half + 2 * i)) << 4));
#pragma unroll
    for (int n = 0; n < F::kColumns / 8; ++n)
      load_matrices(b[n], columns + n * 8 * kBoxRow + (((lane / 8) ^ swizzle ^ half) << 4));
  }
  template <class T>
  __device__ __forceinline__ void multiply(float (&sum)[F::kColumns / 8][4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int n = 0; n < F::kColumns / 8; ++n) mma<T>(sum[n], a[i], b[n][2 * i], b[n][2 * i + 1]);
  }
};

/// A warp that multiplies. Operands are loaded some pairs of steps ahead, across pieces too, and whether the next piece
/// has come is asked a piece ahead: the chain over k waits for nothing that is there.
template <class F, class T>
__device__ void multiply(float (&sum)[F::kColumns / 8][4], const Ring& ring, const Pieces& pieces) {
  constexpr int kPairs = kPiece / 32, kSets = F::kColumns <= 24 ? 4 : 2, kAhead = kSets - 1;
  Fragments<F> operands[kSets];
  wait_barrier(ring.full, 0);
#pragma unroll
  for (int pair = 0; pair < kAhead; ++pair) operands[pair].load(ring.stages, pair);
  for (int i = 0; i < pieces.count; ++i) {
    const int stage = i % F::kStages, next = (i + 1) % F::kStages, pairs = 2 * pieces.boxes(i);
    const uint32_t here = ring.stages + stage * F::kStage, there = ring.stages + next * F::kStage;
    const uint32_t next_full = ring.full + next * 8, parity = (i + 1) / F::kStages & 1;
    const bool more = i + 1 < pieces.count, come = more && test_barrier(next_full, parity);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const int ahead = pair + kAhead;
      if (ahead < kPairs) {
        operands[ahead % kSets].load(here, ahead);  // beyond the last box: old values that nobody multiplies
      } else if (more) {
        if (ahead == kPairs && !come) wait_barrier(next_full, parity);
        operands[ahead % kSets].load(there, ahead - kPairs);
      }
      if (pair < pairs) operands[pair % kSets].template multiply<T>(sum);
    }
    __syncwarp();
    if (threadIdx.x % kWarp == 0) arrive(ring.empty + stage * 8);
  }
}

#endif  // __CUDA_ARCH__ >= 900

/// Grid (made.blocks + segments.blocks, rows / kRows).
template <class F, class T, class Out>
__global__ void __launch_bounds__(F::kThreads)
    stream_kernel(Out* c, const __grid_constant__ Operands operands, const Out* bias, int rows,
                  const __grid_constant__ Segments segments, int64_t c_stride, float scale, MadeU made) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  let_next_begin();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const bool makes = int(blockIdx.x) < made.blocks;
  const int block = makes ? blockIdx.x : blockIdx.x - made.blocks;
  const Segment segment = makes ? Segment{0, 0, made.columns, -1, 0} : segments.of(block);
  const int first_row = blockIdx.y * F::kRows, columns = segment.end;
  const int first_column = segment.begin + (block - segment.first_block) * F::kColumns;
  const Pieces pieces(operands, segment.u_column >= 0);
  Ring ring;
  ring.stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  ring.full = ring.stages + F::kStages * F::kStage;
  ring.empty = ring.full + F::kStages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      init_barrier(ring.full + i * 8, 1);
      init_barrier(ring.empty + i * 8, F::kWarps);
    }
    fence_barriers();
  }
  __syncthreads();

  if (warp == F::kWarps) {
    if (lane == 0) fill_ring<F>(ring, operands, pieces, segment, first_row, first_column, made, makes);
  } else {
    float sum[F::kColumns / 8][4] = {};
    multiply<F, T>(sum, ring, pieces);
#pragma unroll
    for (int n = 0; n < F::kColumns / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + 16 * warp + g + i / 2 * 8, column = first_column + 8 * n + 2 * t + i % 2;
        if (row >= rows || column >= columns) continue;
        if (makes)
          static_cast<T*>(made.u)[int64_t(row) * made.columns + column] = from_float<T>(made.scale * sum[n][i]);
        else
          store_sum(c + row * c_stride + column, scale * sum[n][i], bias ? bias + column : nullptr);
      }
    if (makes) {
      publish();
      asm volatile("bar.sync 1, %0;" ::"n"(F::kWarps * kWarp) : "memory");
      if (threadIdx.x == 0) count_progress(made.progress + blockIdx.y);
    }
  }
#endif
}

template <class F>
void launch(Exec& exec, const ChainedProduct& chained) {
  const ExactProduct& p = chained.first;
  Operands operands{{box_map(p.a, p.type, p.rows, p.depth, F::kRows)},
                    {box_map(p.b, p.type, p.columns, p.depth, F::kColumns)},
                    {int(p.depth), int(chained.rank)},
                    {}};
  if (chained.rank > 0) {
    operands.a[1] = box_map(chained.u, p.type, p.rows, chained.u_columns(), F::kRows);
    operands.b[1] = box_map(chained.v, p.type, chained.v_rows(), chained.rank, F::kColumns);
  }
  const Segments segments = segments_of(p.columns, chained.parts, chained.rank, F::kColumns);
  const MadeU made = made_u(chained, segments, F::kColumns, chained.down ? progress_counters(exec) : nullptr);
  if (chained.down) operands.down = box_map(chained.down, p.type, made.columns, p.depth, F::kColumns);
  visit_product(p, [&]<class T, class Out>() {
    auto* kernel = stream_kernel<F, T, Out>;
    MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
    launch_early(exec, kernel, dim3(made.blocks + segments.blocks, blocks(p.rows, F::kRows)), F::kThreads, F::kShared,
                 static_cast<Out*>(p.c), operands, static_cast<const Out*>(p.bias), int(p.rows), segments, p.c_stride,
                 chained.scale, made);
  });
}

using Launch = void (*)(Exec&, const ChainedProduct&);
constexpr Launch kForms[] = {launch<Form<16, 24>>, launch<Form<32, 24>>, launch<Form<64, 24>>, launch<Form<64, 64>>};

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
  const int wanted = p.rows <= 16 ? 1 : p.rows <= 64 ? 2 : 4;
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
