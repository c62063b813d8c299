// ModelConfig: everything that tells one decoder from another. Llama, Qwen2 and Qwen3 are the same code under different
// values; loaders (nn/formats/hf.h, nn/formats/gguf.h) fill it from config.json or GGUF metadata.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/kernels.h"

namespace mantissa {

struct RopeConfig {
  enum class Kind : uint8_t { kDefault, kLlama3, kLinear };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  // kLlama3 (and `factor` for kLinear), as in config.json
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 8192;
};

struct ModelConfig {
  std::string architecture = "qwen3";  // "llama", "qwen2", "qwen3": the Hugging Face model_type
  int64_t vocab_size = 0;
  int64_t width = 0;         // hidden_size, C
  int64_t layers = 0;        // num_hidden_layers
  Heads heads;               // num_attention_heads, num_key_value_heads, head_dim
  int64_t feed_forward = 0;  // intermediate_size, F
  int64_t max_positions = 0;
  double norm_eps = 1e-6;
  bool qkv_bias = false;   // Qwen2
  bool qk_norm = false;    // Qwen3
  bool tied_head = false;  // head weight is the embedding
  RopeConfig rope;
  std::vector<int32_t> eos_ids;  // from config.json and generation_config.json; may be empty
  int32_t bos_id = -1;           // -1: none

  /// Throws Error naming the field (as config.json spells it), the rule and the value. `source` is the file.
  void validate(const std::string& source) const;
};

}  // namespace mantissa
