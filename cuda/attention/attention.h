// Inside the attention family: who implements what. rope_kv.cu has what happens around attention and registers the
// family; the packed forward and backward exist twice, as own kernels (packed.cu for every shape and type, tensor.cu
// where tensor cores serve) and through cuDNN (cudnn.cpp: 16-bit types). Under Match::kExact forward and decode have
// one definition instead (exact.cuh; exact_packed.cu, exact_groups.cu, exact_decode.cu); the backward stays the same.
#pragma once

#include "core/kernels.h"

namespace mantissa::cuda_kernels {

void own_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, int64_t longest,
                       Heads heads);
void own_attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse, const Tensor& offsets, int64_t longest, Heads heads);

/// The same on tensor cores; false, and nothing launched, for types and head sizes that have no such kernel. delta[T,H]
/// holds, for each row and head, the sum of dout * out over D.
bool tensor_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, Heads heads);
bool tensor_attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const float* delta,
                          const Tensor& lse, const Tensor& offsets, Heads heads);

/// False when cuDNN does not serve this call (absent, refused version, type or shape it has no plan for): nothing was
/// launched, the own kernels have to. Each reason is logged once.
bool cudnn_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets,
                         int64_t longest, Heads heads);
bool cudnn_attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                         const Tensor& lse, const Tensor& offsets, int64_t longest, Heads heads);

/// Decode's new tokens, one a row, whose keys and values are not in the cache yet (Kernels::rope_attention_decode).
/// angles null: qkv comes rotated, and the cache is complete.
struct NewTokens {
  const float* angles = nullptr;  // [positions, D/2, 2]
  const int32_t *positions = nullptr, *slots = nullptr;
};

/// The bits of Match::kExact (exact.cuh), forward and decode alike; false, and nothing launched, where the definition
/// has no kernel: other types than fp16 and bf16, other head sizes than has_exact_attention's, a cache of another type;
/// and where new tokens are faster served by rope_kv and attention_decode, one after the other.
bool exact_attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets,
                         int64_t longest, Heads heads);
bool exact_attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                            const Tensor& lengths, const Tensor& ahead, Heads heads, const NewTokens& fresh = {});
bool has_exact_attention(int head_size);

void attention_decode(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                      const Tensor& lengths, const Tensor& ahead, Heads heads);

}  // namespace mantissa::cuda_kernels
