// Gradients of the experts' weights (cuda/matmul/grouped.h): for each expert, sums over its rows. Tiles of 128 x 192,
// each by a warpgroup, two of which take turns: while the sums of one go to memory, the other multiplies. Both operands
// lie with the summed dimension across the boxes. A tile takes as long as its expert has rows, so blocks take tiles one
// by one, in order of their experts' rows: half of the blocks from the most rows on, who keep the tensor cores busy,
// half from the fewest on, who keep memory busy. What a tile sums is added where c lies, once for each element and by
// an instruction that nothing waits for, and the bits do not depend on what runs beside it. (Such an addition takes
// fp32 numbers below 2^-126 for zero.) Where nothing is to be added to, the same numbers are written, and zeros for
// experts without rows.
#include "cuda/matmul/grouped.cuh"
#include "cuda/matmul/tiles.cuh"

namespace mantissa::cuda_kernels {
namespace {

struct SumForm : TurnForm {
  static constexpr int kBox = kBoxDepth * kBoxRow;  // 64 columns by 64 rows
  static constexpr int kLeft = kRows / kBoxDepth, kRight = kColumns / kBoxDepth, kBoxes = kLeft + kRight, kStages = 5;
  static constexpr int kNotes = kTurnNoteBytes<int>;
  static_assert(kStage == kBoxes * kBox && kGroupRows == kBoxDepth);

  static size_t shared(int experts) {  // stages with two barriers each, notes of tiles, the order of experts
    return size_t(kStages) * (kStage + 2 * 8) + kNotes + size_t(experts) * sizeof(int) + kBoxAlignment;
  }
};

/// Tiles taken from the beginning of their order (the lower half) and from its end (the upper).
using Taken = unsigned long long;

#if __CUDA_ARCH_FEAT_SM90_ALL

/// A warpgroup together: rows of the boxes at `from` that belong to the next expert become zeros.
__device__ __forceinline__ void clear_rows(uint32_t from, int first, int group) {
  using F = SumForm;
  const int pieces = (kBoxDepth - first) * (kBoxRow / 16);  // of 16 bytes, of a box
  for (int i = threadIdx.x % kGroupThreads; i < F::kBoxes * pieces; i += kGroupThreads)
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(from + i / pieces * F::kBox + first * kBoxRow +
                                                                  i % pieces * 16),
                 "r"(0)
                 : "memory");
  publish_shared();
  meet_group(group);
}

/// What adding to zero leaves.
__device__ __forceinline__ float added_to_zero(float x) {
  asm("add.ftz.f32 %0, %0, 0f00000000;" : "+f"(x));
  return x;
}

/// c = a warp's sums (+ c when accumulate): 16 rows from `row` on, and 64 behind each, of all columns of the tile.
__device__ __forceinline__ void put_sums(float* c, const SumForm::Sums (&sums)[SumForm::kEach], int row, int column,
                                         int rows, int columns, bool accumulate) {
  using F = SumForm;
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2 * F::kEach; ++half) {
    const int own = row + half / 2 * kGroupRows + lane / 4 + half % 2 * 8;
    float* to = c + int64_t(own) * columns + column + lane % 4 / 2 * 4;
#pragma unroll
    for (int block = 0; block < F::kColumns / 8; block += 2) {  // of two lanes one has four columns of the first of two
      const float* s = &sums[half / 2][0][block * 4 + half % 2 * 2];
      const bool second = lane % 2;
      const float x = __shfl_xor_sync(~0u, second ? s[0] : s[4], 1), y = __shfl_xor_sync(~0u, second ? s[1] : s[5], 1);
      const float4 four = second ? make_float4(x, y, s[4], s[5]) : make_float4(s[0], s[1], x, y);
      const int begin = (block + second) * 8;
      if (own >= rows || column + begin >= columns) continue;
      if (accumulate)
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + begin), "f"(four.x), "f"(four.y),
                     "f"(four.z), "f"(four.w)
                     : "memory");
      else
        *reinterpret_cast<float4*>(to + begin) = {added_to_zero(four.x), added_to_zero(four.y), added_to_zero(four.z),
                                                  added_to_zero(four.w)};
    }
  }
}

/// By all threads of a block: the experts by their rows, the most first, equal ones as they come. Gives how many have
/// any.
__device__ __forceinline__ int order_experts(int* order, const int32_t* offsets, int experts) {
  int present = 0;
  for (int first = 0; first < experts; first += blockDim.x) {
    const int own = first + int(threadIdx.x), rows = own < experts ? offsets[own + 1] - offsets[own] : 0;
    int before = 0;
    for (int other = 0; other < experts && own < experts; ++other) {
      const int others = offsets[other + 1] - offsets[other];
      before += others > rows || (others == rows && other < own);
    }
    if (own < experts) order[before] = own;
    present += __syncthreads_count(rows > 0);
  }
  return present;
}

/// The next tile of 0 to tiles - 1, from the end or from the beginning; kNoMore once all are taken.
constexpr int kNoMore = -1;
__device__ __forceinline__ int take_tile(Taken* taken, bool from_end, unsigned tiles) {
  const Taken before = atomicAdd(taken, from_end ? Taken(1) << 32 : Taken(1));
  const unsigned of_first = unsigned(before), of_last = unsigned(before >> 32);
  if (of_first + of_last >= tiles) return kNoMore;
  return int(from_end ? tiles - 1 - of_last : of_first);
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

/// c[E n,k]; boxes of 64 columns by 64 rows, of a[R,n] and of b[R,k]. *taken is zero before.
template <class T>
__global__ void __launch_bounds__(SumForm::kThreads, 1)
    grouped_sum_kernel(float* c, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                       const int32_t* offsets, int experts, int n, int k, bool accumulate, Taken* taken) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using F = SumForm;
  extern __shared__ uint4 shared[];
  const int group = threadIdx.x / kGroupThreads, warp = threadIdx.x / kWarp;
  const uint32_t stages = (shared_address(shared) + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
  char* barriers = reinterpret_cast<char*>(shared) + (stages - shared_address(shared)) + F::kStages * F::kStage;
  TurnNotes<int> notes(barriers + F::kStages * 2 * 8);  // tiles, then kNoMore
  int* by_rows = reinterpret_cast<int*>(barriers + F::kStages * 2 * 8 + F::kNotes);
  StageRing<F::kStages, F::kStage> ring(stages, shared_address(barriers), 1);
  const TileOrder order{(n + F::kRows - 1) / F::kRows, (k + F::kColumns - 1) / F::kColumns};
  const unsigned tiles = unsigned(order_experts(by_rows, offsets, experts)) * order.count();

  if (group == F::kGroups) {
    lower_registers<40>();
    if (warp != 4 * F::kGroups || !elected()) return;
    for (int tile; notes.put(tile = take_tile(taken, blockIdx.x % 2 == 1, tiles)), tile != kNoMore;) {
      const int expert = by_rows[tile / order.count()], end = offsets[expert + 1];
      const int2 at = place_of(tile % order.count(), order);
      for (int row = offsets[expert]; row < end; row += kBoxDepth) {
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
    }
    return;
  }
  raise_registers<232>();
  typename F::Sums sums[F::kEach];
  for (;;) {
    const bool own = notes.turn() % F::kGroups == group, first = notes.turn() == 0;
    const int tile = notes.take(group);
    if (own && !first) await_turn(group);
    if (tile == kNoMore) return;
    const int expert = by_rows[tile / order.count()], rows = offsets[expert + 1] - offsets[expert];
    const int pieces = (rows + kBoxDepth - 1) / kBoxDepth;
    if (!own) {
      ring.skip(pieces);
      continue;
    }
#pragma unroll
    for (auto& each : sums)
#pragma unroll
      for (float& sum : each[0]) sum = 0.0f;
    multiply_pieces(ring, pieces, [&](int piece, uint32_t from) {
      if (piece == rows / kBoxDepth) clear_rows(from, rows % kBoxDepth, group);
      begin_group();
#pragma unroll
      for (int step = 0; step < kBoxDepth / 16; ++step)
#pragma unroll
        for (int each = 0; each < F::kEach; ++each)
          group_mma<T, true, true>(sums[each][0], columns_operand(from + each * F::kBox + step * 16 * kBoxRow, F::kBox),
                                   columns_operand(from + F::kLeft * F::kBox + step * 16 * kBoxRow, F::kBox));
      if (piece + 1 == pieces) give_turn(1 - group);
    });
#pragma unroll
    for (auto& each : sums) settle(each[0]);
    const int2 at = place_of(tile % order.count(), order);
    put_sums(c + int64_t(expert) * n * k, sums, at.x * F::kRows + warp % 4 * 16, at.y * F::kColumns, n, k, accumulate);
  }
#elif defined(__CUDA_ARCH__)
  __trap();  // not built for sm_90a: has_box_copies() should have said no
#endif
}

constexpr int kClearThreads = 256, kClearBlocks = 64;

/// Grid (kClearBlocks, experts): zeros for those without rows, `size` groups of four numbers each.
__global__ void __launch_bounds__(kClearThreads) clear_absent_kernel(float4* c, const int32_t* offsets, int64_t size) {
  const int expert = blockIdx.y;
  if (offsets[expert] < offsets[expert + 1]) return;
  for (int64_t i = blockIdx.x * kClearThreads + threadIdx.x; i < size; i += kClearBlocks * kClearThreads)
    c[expert * size + i] = {0.0f, 0.0f, 0.0f, 0.0f};
}

void clear_absent(Exec& exec, const GroupedProduct& p) {
  clear_absent_kernel<<<dim3(kClearBlocks, unsigned(p.experts)), kClearThreads, 0, stream(exec)>>>(
      static_cast<float4*>(p.c), p.offsets, p.n * p.k / 4);
  MANTISSA_LAUNCH_CHECK();
}

template <class T>
void launch(Exec& exec, const GroupedProduct& p) {
  using F = SumForm;
  const CUtensorMap a = box_map(p.a, p.type, p.rows, p.n, kBoxDepth), b = box_map(p.b, p.type, p.rows, p.k, kBoxDepth);
  auto* kernel = grouped_sum_kernel<T>;
  const size_t shared = F::shared(p.experts);
  MANTISSA_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
  const int64_t tiles = ((p.n + F::kRows - 1) / F::kRows) * ((p.k + F::kColumns - 1) / F::kColumns);
  Scratch scratch(exec);
  Taken* taken = scratch.take<Taken>(1);
  MANTISSA_CUDA(cudaMemsetAsync(taken, 0, sizeof *taken, stream(exec)));
  kernel<<<resident_blocks(exec, std::min<int64_t>(p.rows, p.experts) * tiles), F::kThreads, shared, stream(exec)>>>(
      static_cast<float*>(p.c), a, b, p.offsets, p.experts, int(p.n), int(p.k), p.accumulate, taken);
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace

void run_grouped_sums(Exec& exec, const GroupedProduct& p) {
  if (!p.accumulate) clear_absent(exec, p);
  p.type == Dtype::kF16 ? launch<__half>(exec, p) : launch<__nv_bfloat16>(exec, p);
}

}  // namespace mantissa::cuda_kernels
