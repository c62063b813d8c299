// Tensors of a GGUF file and of a Hugging Face directory: the name of one in the other, and the order of its rows.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nn/config.h"

namespace mantissa {

/// "blk.0.attn_q.weight" -> "model.layers.0.self_attn.q_proj.weight"; a name without counterpart stays as it is. A GGUF
/// file holds the experts of a layer in one tensor, [experts, rows, columns], a Hugging Face file each in its own: a
/// "*" stands for the expert's number, which expert_name puts in.
std::string hf_name_of(const std::string& gguf_name);
std::string expert_name(const std::string& hf_name, int64_t expert);
/// The way back, from any expert's name.
std::string gguf_name_of(const std::string& hf_name);

/// general.architecture of a GGUF file for a Hugging Face model_type, and back; empty for one that is not supported.
std::string gguf_architecture(const std::string& model_type);
std::string model_type_of(std::string_view gguf_architecture);

/// llama.cpp's Llama rotates neighbours where Hugging Face rotates halves, so its converter interleaves the rows of
/// each query and key head. This gives the number of heads in whose rows a tensor is interleaved so; 0: its rows are
/// where Hugging Face has them.
int interleaved_heads(const ModelConfig& config, std::string_view gguf_name);
/// Where row `row` = (head, half p, index j) of the Hugging Face tensor stands in the file: (head, j, p).
int64_t interleaved_row(int64_t row, int64_t head_size);
/// The way back: the Hugging Face row that stands at `row` of the file.
int64_t halved_row(int64_t row, int64_t head_size);

}  // namespace mantissa
