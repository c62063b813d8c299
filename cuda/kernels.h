// The kernel families of the CUDA backend: each fills its entries of the table (core/kernels.h is the contract). fp64
// runs on the CPU only. A kernel that has run once with its shapes allocates nothing but scratch, does not wait for the
// device, and does what a graph can record; at the first call matmul and attention choose among library plans, which
// may measure. The build has --fmad=false: where a multiply and an add are to fuse, the source says fmaf.
#pragma once

#include "core/kernels.h"

namespace mantissa::cuda_kernels {

void register_elementwise(Kernels& table);
void register_matmul(Kernels& table);
/// The measured plans of matrix products, a line each after one with the library's version; and back.
std::string measured_products();
void restore_measured_products(const std::string& text);
void register_norm(Kernels& table);
void register_attention(Kernels& table);
void register_experts(Kernels& table);
void register_vocab(Kernels& table);
void register_sampling(Kernels& table);
void register_optim(Kernels& table);

}  // namespace mantissa::cuda_kernels
