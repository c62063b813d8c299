// Which kernel computes a product under Match::kExact (cuda/matmul/exact.h defines the bits): the fastest of the
// library's algorithms that were seen to give the definition's bits, and of the kernels written here, which give them
// by the order of their sums.
#pragma once

#include "cuda/matmul/library.h"

namespace mantissa::cuda_kernels {

/// Whether a product is one whose bits are defined: forward (a . b^T, nothing added to) and of a 16-bit type.
inline bool is_exact(const Exec& exec, const Product& p) {
  return exec.match == Match::kExact && p.trans == Trans::kNT && !p.accumulate && is_16bit(p.type) &&
         (p.out_type == p.type || p.out_type == Dtype::kF32);
}

void run_exact_product(Exec& exec, const Product& p);

/// What was chosen, a line a class of shapes, and back. An algorithm of the library is checked again before it serves.
std::string measured_exact_products();
void restore_exact_products(const std::string& lines);

}  // namespace mantissa::cuda_kernels
