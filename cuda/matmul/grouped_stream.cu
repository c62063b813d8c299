// Products of grouped rows (cuda/matmul/grouped.h) of few rows an expert, at the speed of memory. The roles are
// exchanged: 128 rows of an expert's weight are what two warpgroups multiply, 64 each, and the grouped rows are their
// few columns; the bits are the same. One thread streams pieces of 64 of k through a ring, across tiles too.
#include "cuda/matmul/grouped.cuh"
#include "cuda/matmul/tiles.cuh"

namespace mantissa::cuda_kernels {
namespace {

/// kRows grouped rows of a tile.
template <int kRowsOf>
struct StreamForm {
  static constexpr int kRows = kRowsOf, kGroups = 2, kColumns = kGroups * kGroupRows;
  static constexpr int kThreads = kGroups * kGroupThreads + kWarp;
  static constexpr int kWeightBytes = kColumns * kBoxRow, kStage = kWeightBytes + kRows * kBoxRow;
  static constexpr int kStages = (200 << 10) / kStage;
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kBoxAlignment;
};

template <class F, class T>
__global__ void __launch_bounds__(F::kThreads, 1)
    grouped_stream_kernel(T* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                          const int32_t* offsets, int experts, int columns, int depth) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint4 shared[];
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const uint32_t stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  StageRing<F::kStages, F::kStage> ring(stages, stages + F::kStages * F::kStage, F::kGroups);
  const int across = (columns + F::kColumns - 1) / F::kColumns, pieces = (depth + kBoxDepth - 1) / kBoxDepth;
  TileWalk walk(offsets, experts, F::kRows, across);

  if (group == F::kGroups) {
    for (int tile = blockIdx.x; walk.find(tile); tile += gridDim.x) {
      const int row = walk.begin + walk.tile % walk.down * F::kRows, column = walk.tile / walk.down * F::kColumns;
      const bool fills = elected();
      for (int piece = 0; piece < pieces && fills; ++piece) {
        ring.open();
        copy_box(ring.at(), b, piece * kBoxDepth, column, walk.expert, ring.filled());
        copy_box(ring.at() + F::kWeightBytes, a, piece * kBoxDepth, row, ring.filled());
        ring.next();
      }
      __syncwarp();
    }
  } else {
    for (int tile = blockIdx.x; walk.find(tile); tile += gridDim.x) {
      const int row = walk.begin + walk.tile % walk.down * F::kRows, column = walk.tile / walk.down * F::kColumns;
      float sums[F::kRows / 2] = {};
      multiply_pieces(ring, pieces, [&](int, uint32_t from) {
        begin_group();
#pragma unroll
        for (int step = 0; step < kBoxDepth / 16; ++step)
          group_mma<T, false>(sums, rows_operand(from + group * kGroupRows * kBoxRow + step * 32),
                              rows_operand(from + F::kWeightBytes + step * 32));
      });
#pragma unroll
      for (int i = 0; i < F::kRows / 2; ++i) {
        const int at = row + i / 4 * 8 + lane % 4 * 2 + i % 2, to = column + warp * 16 + lane / 4 + i % 4 / 2 * 8;
        if (at < walk.end && to < columns) c[int64_t(at) * columns + to] = from_float<T>(sums[i]);
      }
    }
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: has_box_copies() should have said no
#endif
}

template <class F, class T>
void launch(Exec& exec, const GroupedProduct& p) {
  const CUtensorMap a = box_map(p.a, p.type, p.rows, p.k, F::kRows);
  const CUtensorMap b = box_map(p.b, p.type, p.experts, p.n, p.k, F::kColumns, Read::kOnce);
  auto* kernel = grouped_stream_kernel<F, T>;
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
  const int64_t most = p.row_blocks(F::kRows) * ((p.n + F::kColumns - 1) / F::kColumns);
  kernel<<<resident_blocks(exec, most), F::kThreads, F::kShared, stream(exec)>>>(static_cast<T*>(p.c), a, b, p.offsets,
                                                                                 p.experts, int(p.n), int(p.k));
  MANTISSA_LAUNCH_CHECK();
}

template <int kRows>
void launch_form(Exec& exec, const GroupedProduct& p) {
  if (p.type == Dtype::kF16)
    launch<StreamForm<kRows>, __half>(exec, p);
  else
    launch<StreamForm<kRows>, __nv_bfloat16>(exec, p);
}

}  // namespace

void run_grouped_stream(Exec& exec, const GroupedProduct& p) {
  p.rows < 8 * p.experts ? launch_form<32>(exec, p) : launch_form<64>(exec, p);
}

}  // namespace mantissa::cuda_kernels
