// Gradients of the experts' weights (cuda/matmul/grouped.h): for each expert, sums over its rows. Tiles of 128 x 128;
// both operands lie with the summed dimension across the boxes. Two blocks share a multiprocessor, so that one
// multiplies while the other adds its sums to memory.
#include "cuda/matmul/grouped.cuh"
#include "cuda/matmul/tiles.cuh"

namespace mantissa::cuda_kernels {
namespace {

struct SumForm {
  static constexpr int kRows = 128, kColumns = 128, kGroups = kRows / kGroupRows;
  static constexpr int kReaders = kGroups * kGroupThreads, kThreads = kReaders + kWarp;
  static constexpr int kBox = kBoxDepth * kBoxRow;  // 64 columns by 64 rows
  static constexpr int kLeft = kRows / kBoxDepth, kBoxes = kLeft + kColumns / kBoxDepth;
  static constexpr int kStage = kBoxes * kBox, kStages = 3;
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kBoxAlignment;
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/// All readers together: rows of the boxes at `from` that belong to the next expert become zeros.
__device__ __forceinline__ void clear_rows(uint32_t from, int first) {
  const int pieces = (kBoxDepth - first) * (kBoxRow / 16);  // of 16 bytes, of a box
  for (int i = threadIdx.x; i < SumForm::kBoxes * pieces; i += SumForm::kReaders)
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(from + i / pieces * SumForm::kBox + first * kBoxRow +
                                                                  i % pieces * 16),
                 "r"(0)
                 : "memory");
  publish_shared();
  asm volatile("bar.sync 1, %0;" ::"n"(SumForm::kReaders) : "memory");
}

/// c += a warp's sums: 16 rows from `row` on of all columns of the tile.
__device__ __forceinline__ void add_sums(float* c, const float (&sums)[SumForm::kColumns / 2], int row, int column,
                                         int rows, int columns) {
  constexpr int kAtOnce = 4;  // loads under way
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int own = row + lane / 4 + 8 * half;
    if (own >= rows) continue;
    float* to = c + int64_t(own) * columns + column + lane % 4 * 2;
#pragma unroll
    for (int block = 0; block < SumForm::kColumns / 8; block += kAtOnce) {
      float2 before[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        if (column + (block + i) * 8 < columns) before[i] = *reinterpret_cast<const float2*>(to + (block + i) * 8);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float* s = &sums[4 * (block + i) + 2 * half];
        if (column + (block + i) * 8 < columns)
          *reinterpret_cast<float2*>(to + (block + i) * 8) = make_float2(before[i].x + s[0], before[i].y + s[1]);
      }
    }
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

/// c[E n,k]; boxes of 64 columns by 64 rows, of a[R,n] and of b[R,k].
template <class T>
__global__ void __launch_bounds__(SumForm::kThreads, 2)
    grouped_sum_kernel(float* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                       const int32_t* offsets, int experts, int n, int k) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using F = SumForm;
  extern __shared__ uint4 shared[];
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  StageRing<F::kStages, F::kStage> ring(stages, stages + F::kStages * F::kStage, F::kGroups);
  const TileOrder order{(n + F::kRows - 1) / F::kRows, (k + F::kColumns - 1) / F::kColumns};
  TileWalk walk(offsets, experts, INT_MAX, order.count());

  if (group == F::kGroups) {
    for (int tile = blockIdx.x; walk.find(tile); tile += gridDim.x) {
      const int2 at = place_of(walk.tile, order);
      for (int row = walk.begin; row < walk.end && lane == 0; row += kBoxDepth) {
        ring.open();
#pragma unroll
        for (int box = 0; box < F::kBoxes; ++box) {
          const bool left = box < F::kLeft;
          const int column =
              left ? at.x * F::kRows + box * kBoxDepth : at.y * F::kColumns + (box - F::kLeft) * kBoxDepth;
          copy_box(ring.at() + box * F::kBox, left ? a : b, column, row, ring.filled());
        }
        ring.next();
      }
      __syncwarp();
    }
  } else {
    for (int tile = blockIdx.x; walk.find(tile); tile += gridDim.x) {
      const int2 at = place_of(walk.tile, order);
      const int rows = walk.end - walk.begin, pieces = (rows + kBoxDepth - 1) / kBoxDepth;
      float sums[F::kColumns / 2] = {};
      multiply_pieces(ring, pieces, [&](int piece, uint32_t from) {
        if (piece == pieces - 1 && rows % kBoxDepth != 0) clear_rows(from, rows % kBoxDepth);
        begin_group();
#pragma unroll
        for (int step = 0; step < kBoxDepth / 16; ++step)
          group_mma<T, true, true>(sums, columns_operand(from + group * F::kBox + step * 16 * kBoxRow, F::kBox),
                                   columns_operand(from + F::kLeft * F::kBox + step * 16 * kBoxRow, F::kBox));
      });
      add_sums(c + int64_t(walk.expert) * n * k, sums, at.x * F::kRows + warp * 16, at.y * F::kColumns, n, k);
    }
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: has_box_copies() should have said no
#endif
}

template <class T>
void launch(Exec& exec, const GroupedProduct& p) {
  using F = SumForm;
  const CUtensorMap a = box_map(p.a, p.type, p.rows, p.n, kBoxDepth), b = box_map(p.b, p.type, p.rows, p.k, kBoxDepth);
  auto* kernel = grouped_sum_kernel<T>;
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
  const int64_t tiles = ((p.n + F::kRows - 1) / F::kRows) * ((p.k + F::kColumns - 1) / F::kColumns);
  kernel<<<resident_blocks(exec, std::min<int64_t>(p.rows, p.experts) * tiles, 2), F::kThreads, F::kShared,
           stream(exec)>>>(static_cast<float*>(p.c), a, b, p.offsets, p.experts, int(p.n), int(p.k));
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace

void run_grouped_sums(Exec& exec, const GroupedProduct& p) {
  p.type == Dtype::kF16 ? launch<__half>(exec, p) : launch<__nv_bfloat16>(exec, p);
}

}  // namespace mantissa::cuda_kernels
