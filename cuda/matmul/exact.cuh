// What the kernels of exact products share.
#pragma once

#include "cuda/matmul/exact.h"
#include "cuda/mma.cuh"

namespace mantissa::cuda_kernels {

/// Sum and bias meet in fp32, and are rounded once.
template <class Out>
__device__ __forceinline__ void store_sum(Out* to, float sum, const Out* bias) {
  *to = from_float<Out>(bias ? sum + to_float(*bias) : sum);
}

/// Calls f<T, Out>() with the types of a product.
template <class F>
void visit_product(const ExactProduct& p, F&& f) {
  const bool wide = p.out_type == Dtype::kF32;
  check(is_16bit(p.type) && (wide || p.out_type == p.type), "[matmul] exact products are of 16-bit types: got ",
        name_of(p.type), " -> ", name_of(p.out_type));
  if (p.type == Dtype::kF16)
    wide ? f.template operator()<__half, float>() : f.template operator()<__half, __half>();
  else
    wide ? f.template operator()<__nv_bfloat16, float>() : f.template operator()<__nv_bfloat16, __nv_bfloat16>();
}

void run_plain_product(Exec& exec, const ExactProduct& p);

}  // namespace mantissa::cuda_kernels
