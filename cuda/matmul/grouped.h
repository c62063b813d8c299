// Products of grouped rows with the weights of their experts (Kernels::grouped_matmul). Where the rows of an expert
// begin is known to the device alone: nothing waits for it, and a graph may hold these products.
//
// Forward (kNT) products of 16-bit types have the bits of exact products (cuda/matmul/exact.h), by every kernel and
// under every match but kPeer.
#pragma once

#include <algorithm>

#include "core/kernels.h"

namespace mantissa::cuda_kernels {

/// R grouped rows; an expert's weight is [n, k].
///   kNT  c[R,n] = a[R,k] . b[E n,k]^T
///   kNN  c[R,k] = a[R,n] . b[E n,k]
///   kTN  c[E n,k] = a[R,n]^T . b[R,k] (+ c when accumulate), c fp32
struct GroupedProduct {
  int64_t rows, n, k;
  int experts;
  Trans trans;
  bool accumulate;
  Dtype type;
  const int32_t* offsets;  // [E+1], on the device
  const void *a, *b;
  void* c;

  constexpr int64_t columns() const { return trans == Trans::kNT ? n : k; }  // of c
  /// At most so many blocks of `height` rows, none of which has rows of two experts.
  int64_t row_blocks(int64_t height) const { return rows / height + std::min<int64_t>(rows, experts); }
};

/// Any type and shape, slowly; `parts` as in Match::kPeer (4), or 1.
void run_grouped_plain(Exec& exec, const GroupedProduct& p, int parts);

/// The others are Hopper's, of 16-bit types, n and k multiples of 8, all operands on 16 bytes.
/// kNT of few rows an expert.
void run_grouped_stream(Exec& exec, const GroupedProduct& p);
/// kNT and kNN.
void run_grouped_tiles(Exec& exec, const GroupedProduct& p);
/// kTN.
void run_grouped_sums(Exec& exec, const GroupedProduct& p);

void register_grouped_matmul(Kernels& table);

}  // namespace mantissa::cuda_kernels
