// The CPU backend: reference kernels, one file per family, each filling its entries of the table.
#pragma once

#include <memory>

#include "core/kernels.h"

namespace mantissa {

std::unique_ptr<Backend> make_cpu_backend();

namespace cpu_kernels {
void register_elementwise(Kernels& table);
void register_cast(Kernels& table);
void register_matmul(Kernels& table);
void register_norm(Kernels& table);
void register_attention(Kernels& table);
void register_attention_backward(Kernels& table);  // by register_attention
void register_vocab(Kernels& table);
void register_sampling(Kernels& table);
void register_optim(Kernels& table);
}  // namespace cpu_kernels

}  // namespace mantissa
