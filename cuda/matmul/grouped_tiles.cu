// Products of grouped rows (cuda/matmul/grouped.h) of many rows an expert: as cuda/matmul/tiles.cu, but which tiles
// there are is found on the device, and two warpgroups take turns with whole tiles: while one stores, the other
// multiplies. A tile has rows of one expert; what it computes of the rows behind them is not stored.
#include "cuda/matmul/grouped.cuh"
#include "cuda/matmul/tiles.cuh"

namespace mantissa::cuda_kernels {
namespace {

/// Where a tile lies, and the end of its expert's rows; none: there are no more.
struct TilePlace {
  int row, column, end;
};

struct Form : TurnForm {
  static constexpr int kStages = 4, kNotes = kTurnNoteBytes<TilePlace>;
  static constexpr int kShared = kStages * (kStage + 2 * 8) + kNotes + 4 * kGroups * kTileStaging + kBoxAlignment;
  static_assert(kShared <= 227 << 10);
};

/// a: boxes of 64 of k by rows. b: an expert's matrix each, kNT boxes of 64 of k by columns, kNN (kByColumns) of 64
/// columns by 64 of k.
template <class T, bool kByColumns>
__global__ void __launch_bounds__(Form::kThreads, 1)
    grouped_tile_kernel(T* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                        const int32_t* offsets, int experts, int columns, int depth) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using F = Form;
  extern __shared__ uint4 shared[];
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp;
  const uint32_t stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  char* staging = reinterpret_cast<char*>(shared) + (stages - shared_address(shared)) + F::kStages * F::kStage;
  char* barriers = staging + 4 * F::kGroups * kTileStaging;
  TurnNotes<TilePlace> notes(barriers + F::kStages * 2 * 8);
  StageRing<F::kStages, F::kStage> ring(stages, shared_address(barriers), 1);
  const int pieces = (depth + kBoxDepth - 1) / kBoxDepth;

  if (group == F::kGroups) {
    lower_registers<40>();
    if (warp != 4 * F::kGroups) return;
    const int across = (columns + F::kColumns - 1) / F::kColumns;
    TileWalk walk(offsets, experts, F::kRows, across);
    const bool fills = elected();
    for (int tile = blockIdx.x; walk.find(tile); tile += gridDim.x) {
      const int2 at = place_of(walk.tile, {walk.down, across});
      const int row = walk.begin + at.x * F::kRows, column = at.y * F::kColumns;
      if (fills) notes.put({row, column, walk.end});
      for (int piece = 0; piece < pieces && fills; ++piece) {
        const int k = piece * kBoxDepth;
        ring.open();
        copy_box(ring.at(), a, k, row, ring.filled());
        const uint32_t right = ring.at() + F::kRowBytes;
        if constexpr (kByColumns) {
#pragma unroll
          for (int box = 0; box < F::kColumns / kBoxDepth; ++box)
            copy_box(right + box * kBoxDepth * kBoxRow, b, column + box * kBoxDepth, k, walk.expert, ring.filled());
        } else {
          copy_box(right, b, k, column, walk.expert, ring.filled());
        }
        ring.next();
      }
      __syncwarp();
    }
    if (fills) notes.put({0, 0, 0});
    return;
  }
  raise_registers<232>();
  typename F::Sums sums[F::kEach];
  for (;;) {
    const bool own = notes.turn() % F::kGroups == group, first = notes.turn() == 0;
    const TilePlace tile = notes.take(group);
    if (own && !first) await_turn(group);
    if (tile.end == 0) return;
    if (!own) {
      ring.skip(pieces);
      continue;
    }
#pragma unroll
    for (auto& each : sums)
#pragma unroll
      for (float& sum : each[0]) sum = 0.0f;
    multiply_pieces(ring, pieces, [&](int piece, uint32_t from) {
      begin_group();
      multiply_piece<T, kByColumns>(sums, from);
      if (piece + 1 == pieces) give_turn(1 - group);
    });
#pragma unroll
    for (auto& each : sums) settle(each[0]);
#pragma unroll
    for (int each = 0; each < F::kEach; ++each)
      store_tile<F>(c, sums[each], 1.0f, static_cast<const T*>(nullptr), tile.row + each * kGroupRows + warp % 4 * 16,
                    tile.column, tile.end, columns, columns, true, staging + warp * kTileStaging);
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: has_box_copies() should have said no
#endif
}

template <class T, bool kByColumns>
void launch(Exec& exec, const GroupedProduct& p) {
  using F = Form;
  const int64_t columns = p.columns(), depth = kByColumns ? p.n : p.k;
  const CUtensorMap a = box_map(p.a, p.type, p.rows, depth, F::kRows);
  const CUtensorMap b = box_map(p.b, p.type, p.experts, p.n, p.k, kByColumns ? kBoxDepth : F::kColumns);
  auto* kernel = grouped_tile_kernel<T, kByColumns>;
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
  const int64_t most = p.row_blocks(F::kRows) * ((columns + F::kColumns - 1) / F::kColumns);
  kernel<<<resident_blocks(exec, most), F::kThreads, F::kShared, stream(exec)>>>(static_cast<T*>(p.c), a, b, p.offsets,
                                                                                 p.experts, int(columns), int(depth));
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace

void run_grouped_tiles(Exec& exec, const GroupedProduct& p) {
  const auto of = [&]<class T>(T) { p.trans == Trans::kNN ? launch<T, true>(exec, p) : launch<T, false>(exec, p); };
  p.type == Dtype::kF16 ? of(__half()) : of(__nv_bfloat16());
}

}  // namespace mantissa::cuda_kernels
