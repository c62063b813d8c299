// Chained products (cuda/matmul/chained.h) of many rows, by warpgroups.
//
// A block takes tiles in turn. One thread streams pieces of 64 of k through a ring in shared memory; one or two
// warpgroups multiply, 64 rows each.
#include "cuda/matmul/segments.cuh"
#include "cuda/matmul/tiles.cuh"

namespace mantissa::cuda_kernels {
namespace {

/// Both products' operands, as boxes of 64 of k by rows; b of kNN: boxes of 64 columns by 64 of k.
struct TileOperands {
  CUtensorMap a[2], b[2];
  int depth[2];
};

/// A grid of at most order.count() blocks. kByColumns: kNN. `whole`: rows of c lie on 16 bytes.
template <class F, class T, class Out, bool kByColumns>
__global__ void __launch_bounds__(F::kThreads, 1)
    tile_kernel(Out* c, const __grid_constant__ TileOperands operands, const Out* bias, int rows,
                const __grid_constant__ Segments segments, int64_t c_stride, float scale, TileOrder order, bool whole) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint4 shared[];
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp;
  const uint32_t ring = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  char* staging = reinterpret_cast<char*>(shared) + (ring - shared_address(shared)) + F::kStages * F::kStage;
  const uint32_t full = shared_address(staging + 4 * F::kGroups * kTileStaging), empty = full + 8 * F::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < F::kStages; ++i) {
      init_barrier(full + i * 8, 1);
      init_barrier(empty + i * 8, F::kGroups);
    }
    fence_barriers();
  }
  __syncthreads();
  const int first = (operands.depth[0] + kBoxDepth - 1) / kBoxDepth;
  const int both = first + (operands.depth[1] + kBoxDepth - 1) / kBoxDepth;
  int stage = 0, parity = 0;
  const auto next = [&] {
    if (++stage == F::kStages) stage = 0, parity ^= 1;
  };

  if (group == F::kGroups) {
    if constexpr (F::kGroups == 2) lower_registers<40>();
    if (warp != 4 * F::kGroups || !elected()) return;
    for (int tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
      const int2 at = place_of(tile, order);
      const Segment& segment = segments.of(at.y);
      const int column = (at.y - segment.first_block) * F::kColumns, pieces = segment.u_column >= 0 ? both : first;
      for (int piece = 0; piece < pieces; ++piece) {
        const int second = piece >= first, k = (piece - (second ? first : 0)) * kBoxDepth;
        const uint32_t to = ring + stage * F::kStage, came = full + stage * 8;
        wait_barrier(empty + stage * 8, parity ^ 1);
        expect_bytes(came, F::kStage);
        copy_box(to, operands.a[second], second ? segment.u_column + k : k, at.x * F::kRows, came);
        if constexpr (kByColumns) {
#pragma unroll
          for (int box = 0; box < F::kColumns / kBoxDepth; ++box)
            copy_box(to + F::kRowBytes + box * kBoxDepth * kBoxRow, operands.b[second], column + box * kBoxDepth, k,
                     came);
        } else {
          copy_box(to + F::kRowBytes, operands.b[second], k, (second ? segment.v_row : segment.begin) + column, came);
        }
        next();
      }
    }
  } else {
    if constexpr (F::kGroups == 2) raise_registers<232>();
    typename F::Sums sums;
    for (int tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
      const int2 at = place_of(tile, order);
      const Segment& segment = segments.of(at.y);
      const int column = segment.begin + (at.y - segment.first_block) * F::kColumns;
      const int pieces = segment.u_column >= 0 ? both : first;
#pragma unroll
      for (int unit = 0; unit < F::kUnits; ++unit)
#pragma unroll
        for (float& sum : sums[unit]) sum = 0.0f;
      int last = -1;
      for (int piece = 0; piece < pieces; ++piece) {
        wait_barrier(full + stage * 8, parity);
        const uint32_t from = ring + stage * F::kStage;
        begin_group();
        multiply_piece<F, T, kByColumns>(sums, from, group);
        commit_group();
        wait_groups<1>();  // the piece before has been read
        if (last >= 0 && threadIdx.x % kGroupThreads == 0) arrive(empty + last * 8);
        last = stage;
        next();
      }
      wait_groups<0>();
      if (last >= 0 && threadIdx.x % kGroupThreads == 0) arrive(empty + last * 8);
      store_tile<F>(c, sums, scale, bias, at.x * F::kRows + warp * 16, column, rows, segment.end, c_stride,
                    whole && segment.begin % 8 == 0, staging + warp * kTileStaging);
    }
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
    auto* kernel = tile_kernel<F, T, Out, kByColumns>;
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
                             launch_form<TileForm<128, 256>>};

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
