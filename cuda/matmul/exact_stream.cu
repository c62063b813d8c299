// Exact products of few rows (cuda/matmul/exact.h), at the speed of memory. The chain over k cannot be cut, so what is
// kept short is the traffic into a multiprocessor, and what waits is never the chain: a block has kRows rows of a and
// kColumns of b and streams both through a ring in shared memory. One warp fills the ring by tensor copies; the others
// multiply, each 16 rows by all columns of the block.
//
// Legend: c[M,N] = a[M,K] . b[N,K]^T. A box is 64 elements of some rows, a piece kBoxes of them along k.
#include <cudaTypedefs.h>

#include "cuda/matmul/exact.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kBoxDepth = 64;                                // elements: 128 bytes, swizzled
constexpr int kBoxes = 4;                                    // of a stage
[[maybe_unused]] constexpr int kPiece = kBoxes * kBoxDepth;  // elements of k of a stage
constexpr int kBoxRow = kBoxDepth * 2;                       // bytes
constexpr int kRing = 208 << 10;                             // bytes of shared memory that a ring may take
constexpr int kMostStages = 8;
constexpr int kAlignment = 1024;  // of a box

/// A form of the kernel: rows and columns of a block.
template <int kRowsOf, int kColumnsOf>
struct Form {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf;
  static constexpr int kWarps = kRows / 16, kThreads = (kWarps + 1) * kWarp;
  static constexpr int kStage = kBoxes * (kRows + kColumns) * kBoxRow;
  static constexpr int kStages = kRing / kStage < kMostStages ? kRing / kStage : kMostStages;
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kAlignment;
  static_assert(kRows % 16 == 0 && kColumns % 8 == 0);  // the swizzle repeats every eight rows
};

#if __CUDA_ARCH__ >= 900

// ---- barriers and copies

__device__ __forceinline__ void init_barrier(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/// This thread arrives, and so many bytes are to come.
__device__ __forceinline__ void expect_bytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void wait_barrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\nagain:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
      " @!done bra again;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
/// Whether the phase of that parity is over.
__device__ __forceinline__ bool test_barrier(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n .reg .pred done;\n mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n selp.u32 %0, 1, 0, done;\n}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done;
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// The box at (k, row); beyond the matrix it is zero.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int k, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(&map), "r"(k), "r"(row), "r"(barrier)
      : "memory");
}
/// Addresses of the ring: its stages, and for each stage a barrier for filled and one for used.
struct Ring {
  uint32_t stages, full, empty;
};

/// Boxes along k of a piece: the last piece may have fewer.
__device__ __forceinline__ int boxes_of(int piece, int depth) {
  return min(kBoxes, (depth - piece * kPiece + kBoxDepth - 1) / kBoxDepth);
}

/// One thread fills the ring.
template <class F>
__device__ void fill_ring(const Ring& ring, const CUtensorMap& a, const CUtensorMap& b, int first_row, int first_column,
                          int depth) {
  const int pieces = (depth + kPiece - 1) / kPiece;
  for (int i = 0; i < pieces; ++i) {
    const int stage = i % F::kStages, boxes = boxes_of(i, depth);
    const uint32_t to = ring.stages + stage * F::kStage, full = ring.full + stage * 8;
    if (i >= F::kStages) wait_barrier(ring.empty + stage * 8, (i / F::kStages - 1) & 1);
    expect_bytes(full, boxes * (F::kStage / kBoxes));
    for (int box = 0; box < boxes; ++box) {
      const int k = i * kPiece + box * kBoxDepth;
      copy_box(to + box * F::kColumns * kBoxRow, b, k, first_column, full);
      copy_box(to + (kBoxes * F::kColumns + box * F::kRows) * kBoxRow, a, k, first_row, full);
    }
  }
}

/// Operands of two steps of k: a's 16 rows, and the block's columns in eights.
template <class F>
struct Operands {
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
__device__ void multiply(float (&sum)[F::kColumns / 8][4], const Ring& ring, int depth) {
  constexpr int kPairs = kPiece / 32, kSets = F::kColumns <= 24 ? 4 : 2, kAhead = kSets - 1;
  const int pieces = (depth + kPiece - 1) / kPiece;
  Operands<F> operands[kSets];
  wait_barrier(ring.full, 0);
#pragma unroll
  for (int pair = 0; pair < kAhead; ++pair) operands[pair].load(ring.stages, pair);
  for (int i = 0; i < pieces; ++i) {
    const int stage = i % F::kStages, next = (i + 1) % F::kStages, pairs = 2 * boxes_of(i, depth);
    const uint32_t here = ring.stages + stage * F::kStage, there = ring.stages + next * F::kStage;
    const uint32_t next_full = ring.full + next * 8, parity = (i + 1) / F::kStages & 1;
    const bool more = i + 1 < pieces, come = more && test_barrier(next_full, parity);
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

/// Grid (columns / kColumns, rows / kRows).
template <class F, class T, class Out>
__global__ void __launch_bounds__(F::kThreads)
    stream_kernel(Out* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, const Out* bias,
                  int rows, int columns, int depth, int64_t c_stride) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int first_row = blockIdx.y * F::kRows, first_column = blockIdx.x * F::kColumns;
  Ring ring;
  ring.stages = (shared_address(shared) + kAlignment - 1) / kAlignment * kAlignment;
  ring.full = ring.stages + F::kStages * F::kStage;
  ring.empty = ring.full + F::kStages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      init_barrier(ring.full + i * 8, 1);
      init_barrier(ring.empty + i * 8, F::kWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  if (warp == F::kWarps) {
    if (lane == 0) fill_ring<F>(ring, a, b, first_row, first_column, depth);
  } else {
    float sum[F::kColumns / 8][4] = {};
    multiply<F, T>(sum, ring, depth);
#pragma unroll
    for (int n = 0; n < F::kColumns / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + 16 * warp + g + i / 2 * 8, column = first_column + 8 * n + 2 * t + i % 2;
        if (row < rows && column < columns)
          store_sum(c + row * c_stride + column, sum[n][i], bias ? bias + column : nullptr);
      }
  }
#endif
}

/// How to encode a tensor map: a function of the driver, null where it has none.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const PFN_cuTensorMapEncodeTiled_v12000 function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    return PFN_cuTensorMapEncodeTiled_v12000(error == cudaSuccess && found == cudaDriverEntryPointSuccess ? entry
                                                                                                          : nullptr);
  }();
  return function;
}

/// Rows of `depth` 16-bit elements, in boxes of `box_rows`.
CUtensorMap map_of(const void* data, Dtype type, int64_t rows, int64_t depth, int box_rows) {
  CUtensorMap map;
  const cuuint64_t size[2] = {cuuint64_t(depth), cuuint64_t(rows)}, stride[1] = {cuuint64_t(depth) * 2};
  const cuuint32_t box[2] = {kBoxDepth, cuuint32_t(box_rows)}, step[2] = {1, 1};
  const CUresult result = encode_function()(
      &map, type == Dtype::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
      const_cast<void*>(data), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(result == CUDA_SUCCESS, "[matmul] cuTensorMapEncodeTiled failed with ", int(result), " for ", rows, " rows of ",
        depth);
  return map;
}

template <class F>
void launch(Exec& exec, const ExactProduct& p) {
  visit_product(p, [&]<class T, class Out>() {
    auto* kernel = stream_kernel<F, T, Out>;
    MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
    kernel<<<dim3(blocks(p.columns, F::kColumns), blocks(p.rows, F::kRows)), F::kThreads, F::kShared, stream(exec)>>>(
        static_cast<Out*>(p.c), map_of(p.a, p.type, p.rows, p.depth, F::kRows),
        map_of(p.b, p.type, p.columns, p.depth, F::kColumns), static_cast<const Out*>(p.bias), int(p.rows),
        int(p.columns), int(p.depth), p.c_stride);
    MANTISSA_LAUNCH_CHECK();
  });
}

using Launch = void (*)(Exec&, const ExactProduct&);
constexpr Launch kForms[] = {launch<Form<16, 24>>, launch<Form<32, 24>>, launch<Form<64, 24>>, launch<Form<64, 64>>};

}  // namespace

int exact_kernels() {
  return 1 + int(std::size(kForms));
}

bool exact_kernel_serves(Exec& exec, const ExactProduct& p, int kernel) {
  if (kernel == 0) return true;
  return kernel > 0 && kernel < exact_kernels() && p.depth % 8 == 0 && aligned({p.a, p.b}) &&
         device_facts(exec).major == 9 && encode_function();
}

int exact_kernel_for(Exec& exec, const ExactProduct& p) {
  const int wanted = p.rows <= 16 ? 1 : p.rows <= 64 ? 2 : 4;
  return exact_kernel_serves(exec, p, wanted) ? wanted : 0;
}

void run_exact_kernel(Exec& exec, const ExactProduct& p, int kernel) {
  if (kernel == 0)
    run_plain_product(exec, p);
  else
    kForms[kernel - 1](exec, p);
}

}  // namespace mantissa::cuda_kernels
