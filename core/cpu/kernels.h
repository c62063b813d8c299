// The kernel families of the CPU backend: each fills its entries of the table (core/kernels.h is the contract).
#pragma once

#include "core/kernels.h"

namespace mantissa::cpu_kernels {

void register_elementwise(Kernels& table);
void register_cast(Kernels& table);
void register_matmul(Kernels& table);
void register_norm(Kernels& table);
void register_attention(Kernels& table);
void register_attention_backward(Kernels& table);  // by register_attention
void register_moe(Kernels& table);
void register_vocab(Kernels& table);
void register_sampling(Kernels& table);
void register_optim(Kernels& table);

}  // namespace mantissa::cpu_kernels
