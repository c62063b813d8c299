// ModelConfig: everything that tells one decoder from another. Llama, Qwen2, Qwen3 and Qwen3-MoE are the same code
// under different values; loaders (nn/formats/hf.h, nn/formats/gguf.h) fill it from config.json or GGUF metadata.
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

/// The feed-forward parts that are mixtures of experts (Qwen3-MoE).
struct ExpertsConfig {
  int64_t count = 0;                  // num_experts, E; 0: none
  int64_t per_token = 0;              // num_experts_per_tok, K
  int64_t feed_forward = 0;           // moe_intermediate_size, F of one expert
  bool normalise = false;             // norm_topk_prob: the K weights are divided by their sum
  int64_t step = 1;                   // decoder_sparse_step: every how many layers there are experts
  std::vector<int64_t> dense_layers;  // mlp_only_layers: layers that have none all the same

  /// Whether layer `index` has experts.
  bool in_layer(int64_t index) const;
  /// How many of the layers before `index` have experts.
  int64_t before(int64_t index) const;
};

struct ModelConfig {
  std::string architecture = "qwen3";  // "llama", "qwen2", "qwen3", "qwen3_moe": the Hugging Face model_type
  int64_t vocab_size = 0;
  int64_t width = 0;         // hidden_size, C
  int64_t layers = 0;        // num_hidden_layers
  Heads heads;               // num_attention_heads, num_key_value_heads, head_dim
  int64_t feed_forward = 0;  // intermediate_size, F
  ExpertsConfig experts;
  int64_t max_positions = 0;
  double norm_eps = 1e-6;
  bool qkv_bias = false;   // Qwen2
  bool qk_norm = false;    // Qwen3, with and without experts
  bool tied_head = false;  // head weight is the embedding
  RopeConfig rope;
  std::vector<int32_t> eos_ids;  // from config.json and generation_config.json; may be empty
  int32_t bos_id = -1;           // -1: none

  /// Throws Error naming the field (as config.json spells it), the rule and the value. `source` is the file.
  void validate(const std::string& source) const;
};

}  // namespace mantissa
