// Rotary embedding inside kernels: the rotation itself, and decode's new tokens, which the kernel that attends to them
// rotates on the way.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/mma.cuh"
#include "cuda/overlap.cuh"

namespace mantissa::cuda_kernels {

/// Turns (a, b) by an angle of cosine c and sine s; both are rounded to T.
template <class T>
__device__ __forceinline__ void rotate(float& a, float& b, float c, float s) {
  const float x = a, y = b;
  a = rounded<T>(fmaf(x, c, -(y * s)));
  b = rounded<T>(fmaf(y, c, x * s));
}

/// A load that stays where it is written: what a block waits for first is under way together.
__device__ __forceinline__ int32_t load_now(const int32_t* p) {
  int32_t x;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
}

/// What a block takes of a new token's row: query heads, and the key and value of their group where `with_key`.
template <class T>
struct NewRow {
  const T* qkv;
  const float* angles;  // [D/2, 2], of its position
  int first_head, heads, key_head, value_head;
  bool with_key;
};

/// The heads, rotated, as rows of `queries` in shared memory, which lie kStride elements apart; put(of the value?,
/// piece, elements) gets the rotated key and the value in pieces of 8. By the whole block, which needs a barrier behind
/// it. Waits for the kernel ahead, which made the row.
template <class T, int kSize, int kThreads, int kStride, class F>
__device__ __forceinline__ void take_new_row(T* queries, const NewRow<T>& row, F put) {
  constexpr int kPieces = kSize / 8, kPairs = kPieces / 2;  // a thread turns a piece and that half a head further
  const int turns = (row.heads + (row.with_key ? 1 : 0)) * kPairs, items = turns + (row.with_key ? kPieces : 0);
  float angle[16];
  load_floats(angle, row.angles + 16 * (threadIdx.x % kPairs));
  await_previous();
  for (int item = threadIdx.x; item < items; item += kThreads) {
    if (item >= turns) {
      put(true, item - turns, load_pack(row.qkv + row.value_head * kSize + 8 * (item - turns)));
      continue;
    }
    const int head = item / kPairs, piece = item % kPairs;
    if (item >= kThreads) load_floats(angle, row.angles + 16 * piece);
    const T* from = row.qkv + (head < row.heads ? row.first_head + head : row.key_head) * kSize + 8 * piece;
    float a[8], b[8];
    load_floats(a, from);
    load_floats(b, from + kSize / 2);
    Pack<T> first, second;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      rotate<T>(a[j], b[j], angle[2 * j], angle[2 * j + 1]);
      first.v[j] = from_float<T>(a[j]);
      second.v[j] = from_float<T>(b[j]);
    }
    if (head < row.heads) {
      store_shared(queries + head * kStride + 8 * piece, first);
      store_shared(queries + head * kStride + 8 * piece + kSize / 2, second);
    } else {
      put(false, piece, first);
      put(false, piece + kPairs, second);
    }
  }
}

}  // namespace mantissa::cuda_kernels
