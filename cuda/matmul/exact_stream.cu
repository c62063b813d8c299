// Exact products of few rows (cuda/matmul/exact.h), at the speed of memory. The chain over k cannot be cut, so what is
// kept short is the traffic into a multiprocessor, and what waits is never the chain: a block has kRows rows of a and
// kColumns of b and streams both through a ring in shared memory (cuda/matmul/stream.cuh). One warp fills the ring with
// a's boxes, one with b's; the others multiply. A kernel begins while the one ahead of it still runs, and has its first
// part of b brought near meanwhile. Of a chained product (cuda/matmul/chained.h) whose u is yet to be made, either
// blocks of their own make it, which are through before the others need it, or each block makes what it needs of it
// beside its columns: rows of `down` are kU more columns, and their sums, rounded, the left operand of the second
// product. Where the second-level cache is the limit, blocks of a cluster copy parts of what they share to all of them.
#include "cuda/matmul/segments.cuh"
#include "cuda/matmul/stream.cuh"
#include "cuda/overlap.cuh"

namespace mantissa::cuda_kernels {
namespace {

/// Of the blocks that make u: so few columns that they are early, and so few blocks that all blocks begin at once.
/// Beside clusters they fill some by themselves, and each of them copies alone.
template <class F>
using MakerOf = Form<(F::kRows < kGroupRows ? F::kRows : kGroupRows) / F::kAcross, (F::kColumns <= 72 ? 32 : 96),
                     (F::kRing == kAlone ? 2 : 1), F::kRing>;

#if __CUDA_ARCH_FEAT_SM90_ALL

/// By one thread. Until the kernel ahead has ended it asks for b in the second-level cache alone, where a later write
/// is seen.
template <class F>
__device__ void fill_b(const Ring& ring, const Operands& operands, const Pieces<F>& pieces, const Segment& segment,
                       int first_column) {
  const Share<F::kDown> share = share_of_b<F>();
  for (int k = 0; k < min(pieces.depth[0], F::kStages * kPiece<F>); k += kBoxDepth)
    prefetch_box(operands.b[0], k, first_column + share.number * (F::kColumns / F::kDown));
  const int v_row = segment.v_row + first_column - segment.begin;
  if (segment.u_column >= 0) prefetch_map(operands.b[1]);
  await_previous();
  if (F::kU > 0 && segment.u_column >= 0) {
    expect_bytes(ring.v_full, F::kV);
    copy_box(ring.v, operands.b[1], 0, v_row, ring.v_full);
  }
  const auto at = [&](int i) { return int2{pieces.begin(i), pieces.second(i) ? v_row : first_column}; };
  fill<F, F::kColumns, F::kU>(ring, ring.stages, pieces, operands.b, at, F::kColumns, &operands.down, segment.u_column,
                              share);
}
template <class F>
__device__ void fill_a(const Ring& ring, const Operands& operands, const Pieces<F>& pieces, const Segment& segment,
                       int tile, const MadeU& made) {
  const bool waits = pieces.count > pieces.first && made.blocks > 0;
  const int first_row = tile * F::kRows;
  unsigned* progress = made.progress + tile;
  prefetch_map(operands.a[0]);
  if (pieces.count > pieces.first) prefetch_map(operands.a[1]);
  await_previous();
  const auto at = [&](int i) {
    if (i == pieces.first && waits) await_progress(progress, made.blocks);
    return int2{pieces.begin(i) + (pieces.second(i) ? segment.u_column : 0), first_row};
  };
  fill<F, F::kRows>(ring, ring.stages + F::kFromB, pieces, operands.a, at, F::kRows, nullptr, -1, share_of_a<F>());
  if (waits) end_progress(progress, made.blocks, made.users);
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

/// By a block, number `block` of those that make u for a tile of rows: its part of it, in the ring of MakerOf<F>.
template <class F, class T>
__device__ void make_u(void* shared, const Operands& operands, int rows, int tile, int block, const MadeU& made) {
  using M = MakerOf<F>;
  const Ring ring = begin_ring<M>(shared);
  __syncthreads();
  const int warp = __shfl_sync(~0u, threadIdx.x / kWarp, 0), lane = threadIdx.x % kWarp;
  const int first_row = tile * F::kRows + block % made.down * M::kRows;
  const int first_column = block / made.down * M::kColumns;
  Pieces<M> pieces(operands, false);
  if (first_row >= rows) pieces.count = 0;
  if (warp == F::kMultiply && elected()) {
    prefetch_map(operands.down);
    await_previous();
    const auto at = [&](int i) { return int2{pieces.begin(i), first_column}; };
    fill<M, M::kColumns>(ring, ring.stages, pieces, &operands.down, at, min(M::kColumns, made.columns));
  } else if (warp == F::kMultiply + 1 && elected()) {
    prefetch_map(operands.a_of_u);
    await_previous();
    const auto at = [&](int i) { return int2{pieces.begin(i), first_row}; };
    fill<M, M::kRows>(ring, ring.stages + M::kFromB, pieces, &operands.a_of_u, at);
  } else if (warp < M::kMultiply) {
    typename M::Sums sums = {};
    multiply<M, T>(sums, ring, pieces);
#pragma unroll
    for (int i = 0; i < M::kColumns / 2; i += 2) {
      const int down = warp * 16 + lane / 4 + i % 4 / 2 * 8, row = first_row + down;
      const int column = first_column + i / 4 * 8 + lane % 4 * 2;
      if (down >= M::kRows || row >= rows || column >= made.columns) continue;
      T* to = static_cast<T*>(made.u) + int64_t(row) * made.columns + column;
      *reinterpret_cast<uint32_t*>(to) = pack_two<T>(made.scale * sums[0][i], made.scale * sums[0][i + 1]);
    }
    publish();
    meet_warps<M::kMultiply>();
    await_previous();  // a block without rows has waited for nothing, and the counters are still those of the one ahead
    if (threadIdx.x == 0) count_progress(made.progress + tile);
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

/// Which block of a grid (made.blocks + others, tiles of rows) this is. Those that make u come first, of all tiles:
/// where multiprocessors become free one after the other, they begin before the blocks that wait for them.
struct Place {
  bool makes_u;
  int tile, block;  // block: of those that make u for the tile, or of the others
};
template <class F>
__device__ Place place_in_grid(const MadeU& made) {
  const int x = blockIdx.x, y = blockIdx.y;
  if constexpr (F::kInClusters) {  // their order is that of the grid, and these are the first of it
    const bool makes_u = x < made.blocks;
    return {makes_u, y, makes_u ? x : x - made.blocks};
  }
  const int number = y * gridDim.x + x, makers = made.blocks * gridDim.y, others = gridDim.x - made.blocks;
  if (number < makers) return {true, number / made.blocks, number % made.blocks};
  return {false, (number - makers) / others, (number - makers) % others};
}

/// Grid: Place.
template <class F, class T, class Out>
__global__ void __launch_bounds__(F::kBound)
    stream_kernel(Out* c, const __grid_constant__ Operands operands, const Out* bias, int rows,
                  const __grid_constant__ Segments segments, int64_t c_stride, float scale, MadeU made) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint4 shared[];
  let_next_begin();
  const Place place = place_in_grid<F>(made);
  if constexpr (F::kU == 0)
    if (place.makes_u) return make_u<F, T>(shared, operands, rows, place.tile, place.block, made);
  const int warp = __shfl_sync(~0u, threadIdx.x / kWarp, 0), first_row = place.tile * F::kRows;
  const Segment segment = segments.of(place.block);
  const int first_column = segment.begin + (place.block - segment.first_block) * F::kColumns;
  const bool chained = segment.u_column >= 0;
  const Pieces<F> pieces(operands, chained && F::kU == 0);
  const Ring ring = begin_ring<F>(shared);
  if constexpr (F::kInClusters)
    meet_cluster();
  else
    __syncthreads();

  if (warp >= F::kMultiply) {
    if constexpr (F::kTrades) lower_registers<24>();
    if (warp == F::kMultiply && elected()) fill_b<F>(ring, operands, pieces, segment, first_column);
    if (warp == F::kMultiply + 1 && elected()) fill_a<F>(ring, operands, pieces, segment, place.tile, made);
    return;
  }
  if constexpr (F::kTrades) raise_registers<176>();
  if (bias) await_previous();
  for (int i = threadIdx.x; i < F::kColumns; i += F::kMultiply * kWarp)  // where there is none, what changes no sum
    ring.bias[i] = bias && first_column + i < segment.end ? to_float(bias[first_column + i]) : -0.0f;
  typename F::Sums sums = {};
  multiply<F, T>(sums, ring, pieces);
  if constexpr (F::kU > 0) {
    const auto store_u = [&](int down, int column, uint32_t two) {
      if (first_column != segment.begin || down >= F::kRows || first_row + down >= rows) return;
      T* to = static_cast<T*>(made.u) + int64_t(first_row + down) * made.columns + segment.u_column + column;
      *reinterpret_cast<uint32_t*>(to) = two;
    };
    if (chained) add_by_own_u<F, T>(sums[0], ring, operands.depth[1], made.scale, store_u);
  }
  store_sums<F>(c, sums, ring, scale, first_row, first_column, rows, segment.end, c_stride);
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: has_box_copies() should have said no
#endif
}

template <class F>
void launch(Exec& exec, const ChainedProduct& chained) {
  using M = MakerOf<F>;
  const ExactProduct& p = chained.first;
  constexpr int kRows = F::kRows / F::kAcross, kColumns = F::kColumns / F::kDown;  // that a block copies
  Operands operands{.a = {box_map(p.a, p.type, p.rows, p.depth, kRows)},
                    .b = {box_map(p.b, p.type, p.columns, p.depth, kColumns, Read::kOnce)},
                    .depth = {int(p.depth), int(chained.rank)}};
  if (chained.rank > 0) {
    if (F::kU == 0) operands.a[1] = box_map(chained.u, p.type, p.rows, chained.u_columns(), kRows);
    operands.b[1] = box_map(chained.v, p.type, chained.v_rows(), chained.rank, kColumns);
  }
  const Segments segments = segments_of(p.columns, chained.parts, chained.rank, F::kColumns);
  const int64_t across = blocks(segments.blocks, F::kAcross) * F::kAcross;
  const int64_t tiles = blocks(blocks(p.rows, F::kRows), F::kDown) * F::kDown;
  MadeU made = made_u(chained, segments, chained.down ? progress_counters(exec) : nullptr);
  if (chained.down && F::kU > 0) operands.down = box_map(chained.down, p.type, made.columns, p.depth, F::kU);
  if (chained.down && F::kU == 0) {
    operands.down = box_map(chained.down, p.type, made.columns, p.depth, std::min(M::kColumns, made.columns));
    operands.a_of_u = box_map(p.a, p.type, p.rows, p.depth, M::kRows);
    made.down = F::kRows / M::kRows;
    made.blocks = made.down * int(blocks(made.columns, M::kColumns));
    made.users += int(across) - segments.blocks;  // those beyond the columns, in the last cluster
  }
  visit_product(p, [&]<class T, class Out>() {
    if constexpr (F::kU == 0 || std::is_same_v<T, Out>) {  // stream_serves() asks for it
      constexpr int kShared = F::kU == 0 ? std::max(F::kShared, M::kShared) : F::kShared;
      auto* kernel = stream_kernel<F, T, Out>;
      MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
      launch_early_in_clusters(exec, kernel, dim3(made.blocks + across, tiles), dim3(F::kAcross, F::kDown), F::kThreads,
                               kShared, static_cast<Out*>(p.c), operands, static_cast<const Out*>(p.bias), int(p.rows),
                               segments, p.c_stride, chained.scale, made);
    }
  });
}

using Launch = void (*)(Exec&, const ChainedProduct&);
/// Their numbers lie in checkpoints: new ones go last.
constexpr Launch kForms[] = {launch<Form<16, 16, 4>>,
                             launch<Form<32, 24, 4>>,
                             launch<Form<32, 32, 4>>,
                             launch<Form<64, 16, 4>>,
                             launch<Form<64, 24, 4>>,
                             launch<Form<64, 48, 2>>,
                             launch<Form<64, 64, 2>>,
                             launch<Form<64, 64, 1, kOfThree>>,
                             launch<Form<64, 136, 1>>,
                             launch<Form<64, 72, 2>>,
                             launch<Form<128, 144, 1>>,
                             launch<Form<256, 144, 1>>,
                             launch<Form<64, 64, 2, kAlone, 0, 2, 4>>};
/// The last, in clusters, whose blocks have the same pieces: of products that go on in all columns alike, or in none.
constexpr int kClustered = int(std::size(kForms)) - 1;
/// Those that make their own u: of so many columns, in one box of v, and for so few rows, since all blocks of some rows
/// make the same u.
constexpr int kOwnRank = 32, kOwnRows = 4 * kGroupRows;
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
  if (form == kClustered && !p.parts.empty() && (p.parts.size() > 1 || p.parts[0].size() < p.first.columns))
    return false;
  return form < int(std::size(kForms)) || (p.down && p.rank <= kOwnRank && p.first.rows <= kOwnRows);
}
void run_stream(Exec& exec, const ChainedProduct& p, int form) {
  const int own_u = form - int(std::size(kForms));
  (own_u < 0 ? kForms[form] : kOwnU[own_u])(exec, p);
}

}  // namespace mantissa::cuda_kernels
