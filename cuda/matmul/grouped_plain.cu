// Products of grouped rows (cuda/matmul/grouped.h) of any type and shape: 64 x 64 a block, operands through shared
// memory element by element. 16-bit types are multiplied by mma.sync m16n8k16, k ascending 16 a step: the bits of exact
// products; fp32 by one chain of fused multiply-adds over ascending k.
#include "cuda/matmul/grouped.cuh"
#include "cuda/mma.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kTile = 64, kDepth = 32;
constexpr int kStride = kDepth + 8;  // elements of a row of shared memory: rows lie in different banks

/// One operand of an expert: element (i, k) lies at data[i * row_stride + k * k_stride]; i < rows.
template <class T>
struct Side {
  const T* data;
  int64_t row_stride, k_stride;
  int rows;
};

/// 64 rows from `first` on by kDepth of k from `k` on; beyond the operand and from `depth` on there are zeros.
template <class T>
__device__ void fill_tile(T (&tile)[kTile][kStride], const Side<T>& side, int first, int k, int depth) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kThreads) {
    const bool along_k = side.k_stride == 1;  // neighbours read neighbours
    const int r = along_k ? i / kDepth : i % kTile, d = along_k ? i % kDepth : i / kTile;
    const bool there = first + r < side.rows && k + d < depth;
    tile[r][d] = there ? side.data[(first + r) * side.row_stride + (k + d) * side.k_stride] : from_float<T>(0.0f);
  }
}

template <class T>
struct PlainTile {
  T a[kTile][kStride], b[kTile][kStride];
};

/// sums += of a tile's kDepth of k. A thread's sums of 16 bits: those of mma, 16 rows a warp, columns in eights; of
/// fp32: sums[j][i] is row 16 (thread / 32) + lane / 8 * 4 + i, column lane % 8 + 8 j.
template <class T>
__device__ void multiply_tile(float (&sums)[kTile / 8][4], const PlainTile<T>& tile) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  if constexpr (sizeof(T) == 2) {
    const auto two = [](const T* p) { return *reinterpret_cast<const uint32_t*>(p); };
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      const T *upper = &tile.a[16 * warp + g][k + 2 * t], *lower = &tile.a[16 * warp + g + 8][k + 2 * t];
      const uint32_t x[4] = {two(upper), two(lower), two(upper + 8), two(lower + 8)};
#pragma unroll
      for (int j = 0; j < kTile / 8; ++j) {
        const T* y = &tile.b[8 * j + g][k + 2 * t];
        mma<T>(sums[j], x, two(y), two(y + 8));
      }
    }
  } else {
    for (int k = 0; k < kDepth; ++k)
#pragma unroll
      for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          sums[j][i] = fmaf(tile.a[16 * warp + lane / 8 * 4 + i][k], tile.b[lane % 8 + 8 * j][k], sums[j][i]);
  }
}

/// Row and column of a thread's sums[j][i] in the tile.
template <class T>
__device__ int2 place_in_tile(int j, int i) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if constexpr (sizeof(T) == 2) return {16 * warp + lane / 4 + i / 2 * 8, 8 * j + lane % 4 * 2 + i % 2};
  return {16 * warp + lane / 8 * 4 + i, lane % 8 + 8 * j};
}

/// Grid (blocks of columns, blocks of rows; kTN: of n, experts). `parts` of k are summed one after the other.
template <class T, class Out>
__global__ void __launch_bounds__(kThreads) grouped_plain_kernel(GroupedProduct p, int parts) {
  __shared__ __align__(16) PlainTile<T> tile;
  const T *a = static_cast<const T*>(p.a), *b = static_cast<const T*>(p.b);
  Side<T> left, right;
  Out* c;
  int first_row, depth;
  if (p.trans == Trans::kTN) {
    const int expert = blockIdx.z, begin = p.offsets[expert];
    depth = p.offsets[expert + 1] - begin;
    if (depth == 0 && p.accumulate) return;
    left = {a + begin * p.n, 1, p.n, int(p.n)};
    right = {b + begin * p.k, 1, p.k, int(p.k)};
    c = static_cast<Out*>(p.c) + expert * p.n * p.k;
    first_row = blockIdx.y * kTile;
  } else {
    TileWalk walk(p.offsets, p.experts, kTile, 1);
    if (!walk.find(blockIdx.y)) return;
    const bool by_rows = p.trans == Trans::kNT;
    const T* weight = b + walk.expert * p.n * p.k;
    depth = int(by_rows ? p.k : p.n);
    left = {a + int64_t(walk.begin) * depth, depth, 1, walk.end - walk.begin};
    right = {weight, by_rows ? p.k : 1, by_rows ? 1 : p.k, int(p.columns())};
    c = static_cast<Out*>(p.c) + walk.begin * p.columns();
    first_row = walk.tile * kTile;
  }
  const int first_column = blockIdx.x * kTile, part = (depth + parts - 1) / parts;
  float total[kTile / 8][4] = {};
  for (int from = 0; from < depth; from += part) {
    const int upto = min(depth, from + part);
    float sums[kTile / 8][4] = {};
    for (int k = from; k < upto; k += kDepth) {
      __syncthreads();  // the piece before has been read
      fill_tile(tile.a, left, first_row, k, upto);
      fill_tile(tile.b, right, first_column, k, upto);
      __syncthreads();
      multiply_tile<T>(sums, tile);
    }
#pragma unroll
    for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) total[j][i] = from == 0 ? sums[j][i] : total[j][i] + sums[j][i];
  }
#pragma unroll
  for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int2 at = place_in_tile<T>(j, i);
      const int row = first_row + at.x, column = first_column + at.y;
      if (row >= left.rows || column >= right.rows) continue;
      Out* to = c + int64_t(row) * right.rows + column;
      *to = from_float<Out>(p.accumulate ? to_float(*to) + total[j][i] : total[j][i]);
    }
}

}  // namespace

void run_grouped_plain(Exec& exec, const GroupedProduct& p, int parts) {
  const bool sums = p.trans == Trans::kTN;
  const dim3 grid(blocks(p.columns(), kTile), sums ? blocks(p.n, kTile) : unsigned(p.row_blocks(kTile)),
                  sums ? unsigned(p.experts) : 1);
  visit_float(
      p.type,
      [&]<class T>(std::type_identity<T>) {
        auto* kernel = sums ? grouped_plain_kernel<T, float> : grouped_plain_kernel<T, T>;
        kernel<<<grid, kThreads, 0, stream(exec)>>>(p, parts);
        MANTISSA_LAUNCH_CHECK();
      },
      "grouped_matmul");
}

}  // namespace mantissa::cuda_kernels
