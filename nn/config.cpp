#include "nn/config.h"

#include <algorithm>

#include "core/error.h"

namespace mantissa {
namespace {

// Far above any model; they keep products of sizes inside 64 bits and a lying file from asking for the moon.
constexpr int64_t kMaxVocab = int64_t(1) << 24;
constexpr int64_t kMaxWidth = int64_t(1) << 20;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeadSize = 512;
constexpr int64_t kMaxExperts = int64_t(1) << 17;    // of all layers; sizes the list of tensors
constexpr int64_t kMaxPositions = int64_t(1) << 20;  // sizes the rope table

void check_between(const std::string& source, const char* key, int64_t value, int64_t low, int64_t high) {
  check(value >= low && value <= high, source, ": ", key, " must be between ", low, " and ", high, ", got ", value);
}

void check_experts(const std::string& source, const ModelConfig& c) {
  const ExpertsConfig& x = c.experts;
  check_between(source, "num_experts", x.count, 1, kMaxExperts);
  check(x.count * c.layers <= kMaxExperts, source, ": num_experts * num_hidden_layers must be at most ", kMaxExperts,
        ", got ", x.count * c.layers);
  check_between(source, "num_experts_per_tok", x.per_token, 1, x.count);
  check_between(source, "moe_intermediate_size", x.feed_forward, 1, kMaxWidth);
  check(x.count * x.feed_forward <= kMaxVocab, source, ": num_experts * moe_intermediate_size must be at most ",
        kMaxVocab, ", got ", x.count * x.feed_forward);
  check_between(source, "decoder_sparse_step", x.step, 1, kMaxLayers);
}

}  // namespace

bool ExpertsConfig::in_layer(int64_t index) const {
  return count > 0 && (index + 1) % step == 0 &&
         std::find(dense_layers.begin(), dense_layers.end(), index) == dense_layers.end();
}

int64_t ExpertsConfig::before(int64_t index) const {
  int64_t layers = 0;
  for (int64_t i = 0; i < index; ++i) layers += in_layer(i);
  return layers;
}

void ModelConfig::validate(const std::string& source) const {
  const bool moe = architecture == "qwen3_moe";
  check(moe || architecture == "llama" || architecture == "qwen2" || architecture == "qwen3", source, ": model_type \"",
        architecture, "\" is not supported; known are llama, qwen2, qwen3, qwen3_moe");
  check_between(source, "vocab_size", vocab_size, 1, kMaxVocab);
  check_between(source, "hidden_size", width, 1, kMaxWidth);
  check_between(source, "num_hidden_layers", layers, 1, kMaxLayers);
  check_between(source, "intermediate_size", feed_forward, 1, kMaxWidth);
  if (moe) check_experts(source, *this);
  check_between(source, "num_attention_heads", heads.query, 1, kMaxWidth);
  check_between(source, "num_key_value_heads", heads.kv, 1, heads.query);
  check(heads.query % heads.kv == 0, source, ": num_key_value_heads must divide num_attention_heads ", heads.query,
        ", got ", heads.kv);
  check_between(source, "head_dim", heads.size, 8, kMaxHeadSize);
  check(heads.size % 8 == 0, source, ": head_dim must be a multiple of 8, got ", heads.size);
  check(int64_t(heads.query) * heads.size <= kMaxWidth, source, ": num_attention_heads * head_dim must be at most ",
        kMaxWidth, ", got ", int64_t(heads.query) * heads.size);
  check_between(source, "max_position_embeddings", max_positions, 1, kMaxPositions);
  check(norm_eps > 0 && norm_eps < 1, source, ": rms_norm_eps must be between 0 and 1, got ", norm_eps);

  check(rope.theta >= 1 && rope.theta <= 1e12, source, ": rope_theta must be between 1 and 1e12, got ", rope.theta);
  if (rope.kind != RopeConfig::Kind::kDefault)
    check(rope.factor >= 1 && rope.factor <= 1e6, source, ": the rope factor must be between 1 and 1e6, got ",
          rope.factor);
  if (rope.kind == RopeConfig::Kind::kLlama3) {
    check(rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor && rope.high_freq_factor <= 1e6,
          source, ": rope needs 0 < low_freq_factor < high_freq_factor <= 1e6, got ", rope.low_freq_factor, " and ",
          rope.high_freq_factor);
    check_between(source, "original_max_position_embeddings", rope.original_max_positions, 1, kMaxPositions);
  }
  for (const int32_t id : eos_ids) check_between(source, "eos_token_id", id, 0, vocab_size - 1);
  if (bos_id >= 0) check_between(source, "bos_token_id", bos_id, 0, vocab_size - 1);
}

}  // namespace mantissa
