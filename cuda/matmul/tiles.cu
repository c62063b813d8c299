// Chained products (cuda/matmul/chained.h) of many rows, by warpgroups.
//
// A block takes tiles one after the other. One thread streams pieces of 64 of k through a ring in shared memory; one or
// two warpgroups multiply, 64 rows each, or take turns with whole tiles.
#include "cuda/matmul/segments.cuh"
#include "cuda/matmul/tiles.cuh"

namespace mantissa::cuda_kernels {
namespace {

/// Both products' operands, as boxes of 64 of k by rows; b of kNN: boxes of 64 columns by 64 of k.
struct TileOperands {
  CUtensorMap a[2], b[2];
  int depth[2];
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/// The pieces of k of a tile: those of the first product, then those of the second where its columns have one.
struct PiecesOfTiles {
  int first, both;

  __device__ explicit PiecesOfTiles(const TileOperands& operands)
      : first((operands.depth[0] + kBoxDepth - 1) / kBoxDepth),
        both(first + (operands.depth[1] + kBoxDepth - 1) / kBoxDepth) {}
  __device__ __forceinline__ int of(const Segment& segment) const { return segment.u_column >= 0 ? both : first; }
};

/// By one thread: the boxes of a piece of the tile at `at`, to a stage whose bytes `barrier` expects.
template <class F, bool kByColumns>
__device__ __forceinline__ void copy_piece(uint32_t to, const TileOperands& operands, const PiecesOfTiles& pieces,
                                           int piece, int2 at, const Segment& segment, uint32_t barrier) {
  const bool second = piece >= pieces.first;
  const int k = (piece - (second ? pieces.first : 0)) * kBoxDepth;
  const int column = (at.y - segment.first_block) * F::kColumns;
  copy_box(to, operands.a[second], second ? segment.u_column + k : k, at.x * F::kRows, barrier);
  if constexpr (kByColumns) {
#pragma unroll
    for (int box = 0; box < F::kColumns / kBoxDepth; ++box)
      copy_box(to + F::kRowBytes + box * kBoxDepth * kBoxRow, operands.b[second], column + box * kBoxDepth, k, barrier);
  } else {
    copy_box(to + F::kRowBytes, operands.b[second], k, (second ? segment.v_row : segment.begin) + column, barrier);
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

/// A grid of at most order.count() blocks. kByColumns: kNN. `whole`: rows of c lie on 16 bytes.
template <class F, class T, class Out, bool kByColumns>
__global__ void __launch_bounds__(F::kThreads, 1)
    tile_kernel(Out* c, const __grid_constant__ TileOperands operands, const Out* bias, int rows,
                const __grid_constant__ Segments segments, int64_t c_stride, float scale, TileOrder order, bool whole) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint4 shared[];
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp;
  const uint32_t stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  char* staging = reinterpret_cast<char*>(shared) + (stages - shared_address(shared)) + F::kStages * F::kStage;
  StageRing<F::kStages, F::kStage> ring(stages, shared_address(staging + 4 * F::kGroups * kTileStaging), F::kGroups);
  const PiecesOfTiles pieces(operands);

  if (group == F::kGroups) {
    if constexpr (F::kGroups == 2) lower_registers<40>();
    if (warp != 4 * F::kGroups || !elected()) return;
    for (int tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
      const int2 at = place_of(tile, order);
      const Segment& segment = segments.of(at.y);
      for (int piece = 0; piece < pieces.of(segment); ++piece) {
        ring.open();
        copy_piece<F, kByColumns>(ring.at(), operands, pieces, piece, at, segment, ring.filled());
        ring.next();
      }
    }
    return;
  }
  if constexpr (F::kGroups == 2) raise_registers<232>();
  typename F::Sums sums;
  for (int tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
    const int2 at = place_of(tile, order);
    const Segment& segment = segments.of(at.y);
    const int column = segment.begin + (at.y - segment.first_block) * F::kColumns;
#pragma unroll
    for (int unit = 0; unit < F::kUnits; ++unit)
#pragma unroll
      for (float& sum : sums[unit]) sum = 0.0f;
    multiply_pieces(ring, pieces.of(segment), [&](int, uint32_t from) {
      begin_group();
      multiply_piece<F, T, kByColumns>(sums, from, group);
    });
#pragma unroll
    for (auto& unit : sums) settle(unit);
    store_tile<F>(c, sums, scale, bias, at.x * F::kRows + warp * 16, column, rows, segment.end, c_stride,
                  whole && segment.begin % 8 == 0, staging + warp * kTileStaging);
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: chained_product_serves() should have said no
#endif
}

/// The same by two warpgroups that take turns with whole tiles: while one stores, the other multiplies.
struct InTurns : TurnForm {
  static constexpr int kStages = 4;
  static constexpr int kShared = kStages * (kStage + 2 * 8) + 4 * kGroups * kTileStaging + kBoxAlignment;
  static_assert(kShared <= 227 << 10);
};
template <class T, class Out, bool kByColumns>
__global__ void __launch_bounds__(InTurns::kThreads, 1)
    turn_kernel(Out* c, const __grid_constant__ TileOperands operands, const Out* bias, int rows,
                const __grid_constant__ Segments segments, int64_t c_stride, float scale, TileOrder order, bool whole) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using F = InTurns;
  extern __shared__ uint4 shared[];
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp;
  const uint32_t stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  char* staging = reinterpret_cast<char*>(shared) + (stages - shared_address(shared)) + F::kStages * F::kStage;
  StageRing<F::kStages, F::kStage> ring(stages, shared_address(staging + 4 * F::kGroups * kTileStaging), 1);
  const PiecesOfTiles pieces(operands);

  if (group == F::kGroups) {
    lower_registers<24>();
    if (warp != 4 * F::kGroups || !elected()) return;
    for (int tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
      const int2 at = place_of(tile, order);
      const Segment& segment = segments.of(at.y);
      for (int piece = 0; piece < pieces.of(segment); ++piece) {
        ring.open();
        copy_piece<F, kByColumns>(ring.at(), operands, pieces, piece, at, segment, ring.filled());
        ring.next();
      }
    }
    return;
  }
  raise_registers<240>();
  typename F::Sums sums[F::kEach];
  int turn = 0;
  for (int tile = blockIdx.x; tile < order.count(); tile += gridDim.x, ++turn) {
    const int2 at = place_of(tile, order);
    const Segment& segment = segments.of(at.y);
    const int count = pieces.of(segment);
    if (turn % F::kGroups != group) {
      ring.skip(count);
      continue;
    }
    if (turn > 0) await_turn(group);
#pragma unroll
    for (auto& each : sums)
#pragma unroll
      for (float& sum : each[0]) sum = 0.0f;
    multiply_pieces(ring, count, [&](int piece, uint32_t from) {
      begin_group();
      multiply_piece<T, kByColumns>(sums, from);
      if (piece + 1 == count && tile + int(gridDim.x) < order.count()) give_turn(1 - group);
    });
#pragma unroll
    for (auto& each : sums) settle(each[0]);
    const int column = segment.begin + (at.y - segment.first_block) * F::kColumns;
#pragma unroll
    for (int each = 0; each < F::kEach; ++each)
      store_tile<F>(c, sums[each], scale, bias, at.x * F::kRows + each * kGroupRows + warp % 4 * 16, column, rows,
                    segment.end, c_stride, whole && segment.begin % 8 == 0, staging + warp * kTileStaging);
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: chained_product_serves() should have said no
#endif
}

template <class F, bool kByColumns>
void launch(Exec& exec, const ChainedProduct& chained) {
  const ExactProduct& p = chained.first;
  const auto right = [&](const void* data, int64_t depth, int64_t rows) {
    return kByColumns ? box_map(data, p.type, depth, p.columns, kBoxDepth)
                      : box_map(data, p.type, rows, depth, F::kColumns);
  };
  TileOperands operands{{box_map(p.a, p.type, p.rows, p.depth, F::kRows)},
                        {right(p.b, p.depth, p.columns)},
                        {int(p.depth), int(chained.rank)}};
  if (chained.rank > 0) {
    operands.a[1] = box_map(chained.u, p.type, p.rows, chained.u_columns(), F::kRows);
    operands.b[1] = right(chained.v, chained.rank, chained.v_rows());
  }
  const Segments segments = segments_of(p.columns, chained.parts, chained.rank, F::kColumns);
  const TileOrder order{int(blocks(p.rows, F::kRows)), segments.blocks};
  visit_product(p, [&]<class T, class Out>() {
    constexpr auto* kernel = [] {
      if constexpr (std::is_same_v<F, InTurns>)
        return turn_kernel<T, Out, kByColumns>;
      else
        return tile_kernel<F, T, Out, kByColumns>;
    }();
    MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::kShared));
    kernel<<<std::min(order.count(), device_facts(exec).sms), F::kThreads, F::kShared, stream(exec)>>>(
        static_cast<Out*>(p.c), operands, static_cast<const Out*>(p.bias), int(p.rows), segments, p.c_stride,
        chained.scale, order, p.c_stride * int64_t(sizeof(Out)) % 16 == 0 && aligned({p.c}));
    MANTISSA_LAUNCH_CHECK();
  });
}

template <class F>
void launch_form(Exec& exec, const ChainedProduct& p) {
  p.trans == Trans::kNN ? launch<F, true>(exec, p) : launch<F, false>(exec, p);
}

using Launch = void (*)(Exec&, const ChainedProduct&);
constexpr Launch kForms[] = {launch_form<TileForm<64, 64>>, launch_form<TileForm<128, 128>>,
                             launch_form<TileForm<128, 256>>, launch_form<InTurns>};

}  // namespace

int tile_forms() {
  return int(std::size(kForms));
}
void run_tiles(Exec& exec, const ChainedProduct& p, int form) {
  kForms[form](exec, p);
}

bool has_chained_products(const DeviceFacts& device) {
  return has_box_copies(device);
}

}  // namespace mantissa::cuda_kernels
