#include "nn/formats/gguf_names.h"

#include <algorithm>

namespace mantissa {
namespace {

struct Pair {
  std::string_view gguf, hf;
};
constexpr Pair kWhole[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};
constexpr Pair kInLayer[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
    {"ffn_up_exps", "mlp.experts.*.up_proj"},
    {"ffn_down_exps", "mlp.experts.*.down_proj"},
};
constexpr Pair kArchitectures[] = {
    {"llama", "llama"}, {"qwen2", "qwen2"}, {"qwen3", "qwen3"}, {"qwen3moe", "qwen3_moe"}};
constexpr std::string_view kExperts = ".experts.";
constexpr std::string_view kGgufLayer = "blk.", kHfLayer = "model.layers.";

/// `name` = <from_layer>N.<part>.<weight or bias>, with layer prefix and part exchanged for the other side's.
std::string translate(const std::string& name, std::string_view Pair::*from, std::string_view Pair::*to,
                      std::string_view from_layer, std::string_view to_layer) {
  for (const Pair& pair : kWhole)
    if (pair.*from == name) return std::string(pair.*to);
  const size_t part = name.find('.', from_layer.size()), last = name.rfind('.');
  if (!name.starts_with(from_layer) || part == std::string::npos || last <= part) return name;
  const std::string_view stem = std::string_view(name).substr(part + 1, last - part - 1);
  for (const Pair& pair : kInLayer)
    if (pair.*from == stem)
      return std::string(to_layer) + name.substr(from_layer.size(), part - from_layer.size()) + "." +
             std::string(pair.*to) + name.substr(last);
  return name;
}

}  // namespace

std::string hf_name_of(const std::string& gguf_name) {
  return translate(gguf_name, &Pair::gguf, &Pair::hf, kGgufLayer, kHfLayer);
}
std::string gguf_name_of(const std::string& hf_name) {
  std::string name = hf_name;
  if (const size_t at = name.find(kExperts); at != std::string::npos) {
    const size_t number = at + kExperts.size();
    name.replace(number, name.find('.', number) - number, "*");
  }
  return translate(name, &Pair::hf, &Pair::gguf, kHfLayer, kGgufLayer);
}
std::string expert_name(const std::string& hf_name, int64_t expert) {
  std::string name = hf_name;
  return name.replace(name.find('*'), 1, std::to_string(expert));
}

std::string gguf_architecture(const std::string& model_type) {
  for (const Pair& pair : kArchitectures)
    if (pair.hf == model_type) return std::string(pair.gguf);
  return {};
}
std::string model_type_of(std::string_view gguf_architecture) {
  for (const Pair& pair : kArchitectures)
    if (pair.gguf == gguf_architecture) return std::string(pair.hf);
  return {};
}

int interleaved_heads(const ModelConfig& config, std::string_view gguf_name) {
  if (config.architecture != "llama") return 0;
  const std::string_view part = gguf_name.substr(std::min(gguf_name.size(), gguf_name.find('.', kGgufLayer.size())));
  if (part == ".attn_q.weight" || part == ".attn_q.bias") return config.heads.query;
  if (part == ".attn_k.weight" || part == ".attn_k.bias") return config.heads.kv;
  return 0;
}

int64_t interleaved_row(int64_t row, int64_t head_size) {
  const int64_t head = row / head_size, p = row % head_size / (head_size / 2), j = row % (head_size / 2);
  return head * head_size + 2 * j + p;
}

int64_t halved_row(int64_t row, int64_t head_size) {
  const int64_t head = row / head_size, j = row % head_size / 2, p = row % 2;
  return head * head_size + p * (head_size / 2) + j;
}

}  // namespace mantissa
