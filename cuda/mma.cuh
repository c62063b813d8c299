// The tensor core instructions that sm_80 and later share, on 16-bit operands with fp32 accumulation, and the copies
// that feed them. Layouts of m16n8k16 (lane = 4 g + t): A holds rows g and g + 8, columns 2t, 2t + 1 and those + 8; B
// holds column g, rows 2t, 2t + 1 and those + 8; C holds rows g and g + 8, columns 2t, 2t + 1.
#pragma once

#include "cuda/common.cuh"

namespace mantissa::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

/// c += a . b
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// Transposes an 8x8 matrix of 16-bit elements held by a warp.
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t r) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(r));
  return out;
}

/// Two floats rounded to T in one register, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack_two(float low, float high) {
  struct alignas(4) Two {
    T v[2];
  };
  return __builtin_bit_cast(uint32_t, Two{{from_float<T>(low), from_float<T>(high)}});
}

/// Byte of 16-byte piece c of row r in a tile of rows of kSize 16-bit elements (at least 64): pieces are exchanged
/// within the row, so that those of eight neighbouring rows lie in different banks.
template <int kSize>
__device__ __forceinline__ uint32_t tile_byte(int r, int c) {
  return r * (2 * kSize) + ((c ^ (r & 7)) << 4);
}

/// Starts a copy of 16 bytes to shared memory; zeros instead when !valid (nothing is read then).
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// A block starts copying rows of kSize elements into a tile of kRows; zeros from row `valid` on.
template <int kThreads, int kRows, int kSize, class T>
__device__ __forceinline__ void copy_tile_async(uint32_t to, const T* from, int64_t stride, int valid) {
  constexpr int kPieces = kSize / 8;
  static_assert(kRows * kPieces % kThreads == 0);
#pragma unroll
  for (int i = 0; i < kRows * kPieces / kThreads; ++i) {
    const int piece = i * kThreads + threadIdx.x, r = piece / kPieces, c = piece % kPieces;
    copy_async(to + tile_byte<kSize>(r, c), from + r * stride + c * 8, r < valid);
  }
}

// Operands of m16n8k16 from such tiles; `row` is a multiple of 8, k and n count 16 columns. The lane's part of an
// address is the same for all of them, so that only an exclusive or is left for each.

template <int kSize>
__device__ __forceinline__ uint32_t lane_address(uint32_t tile, int row, int lane_row, int lane_piece, int k) {
  return tile + (row + lane_row) * (2 * kSize) + (((lane_piece ^ (lane_row & 7)) << 4) ^ (k << 5));
}
/// A: 16 rows from `row` on.
template <int kSize>
__device__ __forceinline__ void load_a(uint32_t (&r)[4], uint32_t tile, int row, int k) {
  const int lane = threadIdx.x % kWarp;
  load_matrices(r, lane_address<kSize>(tile, row, lane % 16, lane / 16, k));
}
/// B transposed: the tile's rows are B's columns. Two blocks of 8 columns from `row` on: (r[0], r[1]) and (r[2], r[3]).
template <int kSize>
__device__ __forceinline__ void load_b_of_columns(uint32_t (&r)[4], uint32_t tile, int row, int k) {
  const int lane = threadIdx.x % kWarp;
  load_matrices(r, lane_address<kSize>(tile, row, lane % 8 + lane / 16 * 8, lane / 8 % 2, k));
}
/// B as it lies: 16 rows from `row` on, two blocks of 8 columns.
template <int kSize>
__device__ __forceinline__ void load_b_of_rows(uint32_t (&r)[4], uint32_t tile, int row, int n) {
  const int lane = threadIdx.x % kWarp;
  load_matrices_transposed(r, lane_address<kSize>(tile, row, lane % 16, lane / 16, n));
}
/// A transposed: the tile's rows are A's columns, 16 from `row` on.
template <int kSize>
__device__ __forceinline__ void load_a_of_columns(uint32_t (&r)[4], uint32_t tile, int row, int m) {
  const int lane = threadIdx.x % kWarp;
  load_matrices_transposed(r, lane_address<kSize>(tile, row, lane % 8 + lane / 16 * 8, lane / 8 % 2, m));
}

}  // namespace mantissa::cuda
