#include "nn/formats/hf.h"

#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/content.h"
#include "core/file.h"
#include "core/json.h"
#include "core/registry.h"
#include "nn/formats/hf_config.h"

namespace mantissa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

std::string file_text(const fs::path& path) {
  if (!file_exists(path)) return {};
  check_content(path, "text");
  return read_file(path);
}

std::string json_text(const fs::path& path) {
  std::string text = file_text(path);
  check_json(text, path.string());
  return text;
}

/// One or more safetensors files seen as one.
class HfWeights : public TensorSource {
 public:
  explicit HfWeights(const fs::path& directory) : where_(directory.string()) {
    if (file_exists(directory / kSingleFile)) {
      add_file(directory / kSingleFile);
      return;
    }
    const fs::path index = directory / kIndexFile;
    check(file_exists(index), where_, ": has neither ", kSingleFile, " nor ", kIndexFile,
          "; weights in other formats (.bin, .pth) have to be converted to safetensors first");
    check_content(index, "JSON");
    const std::map<std::string, std::string> weight_map = parse_weight_map(read_file(index), index.string());
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : weight_map) {
      check(fs::path(shard).filename() == shard && shard != "." && shard != "..", index.string(), ": \"", tensor,
            "\" must name a file of the same directory, got \"", shard, "\"");
      if (shards.insert(shard).second) add_file(directory / shard);
    }
    for (const auto& [tensor, shard] : weight_map) {
      const auto it = file_of_.find(tensor);
      check(it != file_of_.end() && files_[it->second].where() == (directory / shard).string(), index.string(), ": \"",
            tensor, "\" is not in ", shard);
    }
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, file] : file_of_) names.push_back(name);
    return names;
  }
  bool contains(const std::string& name) const override { return file_of_.contains(name); }
  Shape shape(const std::string& name) const override { return file(name).shape(name); }
  void read(const std::string& name, Tensor& out) const override { file(name).read(name, out); }
  std::string where() const override { return where_; }

 private:
  void add_file(const fs::path& path) {
    check_content(path, "a safetensors file");
    files_.emplace_back(path);
    for (const auto& [name, entry] : files_.back().entries())
      check(file_of_.emplace(name, files_.size() - 1).second, path.string(), ": \"", name, "\" is in two files");
  }
  const Safetensors& file(const std::string& name) const {
    const auto it = file_of_.find(name);
    check(it != file_of_.end(), where_, ": there is no tensor \"", name, "\"");
    return files_[it->second];
  }

  std::string where_;
  std::vector<Safetensors> files_;
  std::map<std::string, size_t> file_of_;
};

/// Values of a tensor as fp32.
std::vector<float> values_of(const TensorSource& source, const std::string& name) {
  Tensor values(cpu(), source.shape(name), Dtype::kF32);
  source.read(name, values);
  return {values.data<float>(), values.data<float>() + values.numel()};
}

/// Tensors that checkpoints carry although they change nothing: frequencies that the configuration gives, the copy of a
/// tied head, and an output projection's bias (attention_bias of Llama and Qwen3 has one) when it is zero.
bool is_ballast(const TensorSource& source, const std::string& name, const ModelConfig& config) {
  if (name.ends_with("rotary_emb.inv_freq") || (config.tied_head && name == "lm_head.weight")) return true;
  if (!config.qkv_bias || !name.ends_with("self_attn.o_proj.bias")) return false;
  const std::vector<float> bias = values_of(source, name);
  check(std::all_of(bias.begin(), bias.end(), [](float x) { return x == 0; }), source.where(), ": tensor \"", name,
        "\" must be zero: a bias of the output projection is not supported");
  return true;
}

}  // namespace

Shape rows_shape(const ParamInfo& info, const HfTensor& tensor) {
  Shape shape{tensor.end - tensor.begin};
  for (int i = 1; i < info.shape.rank(); ++i) shape.push_back(info.shape[i]);
  return shape;
}

std::vector<HfTensor> hf_tensors(const ModelConfig& c, const DecoderParams& params) {
  const int64_t q = int64_t(c.heads.query) * c.heads.size, kv = int64_t(c.heads.kv) * c.heads.size;
  std::vector<HfTensor> list;
  list.push_back({"model.embed_tokens.weight", params.embedding, 0, c.vocab_size});
  for (size_t i = 0; i < params.layers.size(); ++i) {
    const DecoderParams::Layer& layer = params.layers[i];
    const std::string prefix = str("model.layers.", i, ".");
    const auto add = [&](const std::string& name, ParamId id, int64_t begin, int64_t end) {
      if (id.valid()) list.push_back({prefix + name, id, begin, end});
    };
    add("input_layernorm.weight", layer.input_norm, 0, c.width);
    add("self_attn.q_proj.weight", layer.qkv, 0, q);
    add("self_attn.k_proj.weight", layer.qkv, q, q + kv);
    add("self_attn.v_proj.weight", layer.qkv, q + kv, q + 2 * kv);
    add("self_attn.q_proj.bias", layer.qkv_bias, 0, q);
    add("self_attn.k_proj.bias", layer.qkv_bias, q, q + kv);
    add("self_attn.v_proj.bias", layer.qkv_bias, q + kv, q + 2 * kv);
    add("self_attn.q_norm.weight", layer.q_norm, 0, c.heads.size);
    add("self_attn.k_norm.weight", layer.k_norm, 0, c.heads.size);
    add("self_attn.o_proj.weight", layer.o, 0, c.width);
    add("post_attention_layernorm.weight", layer.post_norm, 0, c.width);
    const bool mixed = layer.router.valid();
    const int64_t inner = mixed ? c.experts.feed_forward : c.feed_forward;
    add("mlp.gate.weight", layer.router, 0, c.experts.count);
    for (int64_t e = 0; e < (mixed ? c.experts.count : 1); ++e) {
      const std::string mlp = mixed ? str("mlp.experts.", e, ".") : "mlp.";
      const int64_t gate = 2 * e * inner, up = gate + inner;
      add(mlp + "gate_proj.weight", layer.gate_up, gate, up);
      add(mlp + "up_proj.weight", layer.gate_up, up, up + inner);
      add(mlp + "down_proj.weight", layer.down, e * c.width, (e + 1) * c.width);
    }
  }
  list.push_back({"model.norm.weight", params.final_norm, 0, c.width});
  if (!c.tied_head) list.push_back({"lm_head.weight", params.head, 0, c.vocab_size});
  return list;
}

std::vector<std::string> absent_biases(const ModelConfig& c) {
  std::vector<std::string> names;
  const bool no_inputs = c.architecture == "qwen2" && !c.qkv_bias, no_output = c.architecture != "qwen2" && c.qkv_bias;
  for (int64_t i = 0; i < c.layers; ++i)
    for (const char* part : {"q_proj", "k_proj", "v_proj", "o_proj"})
      if (part[0] == 'o' ? no_output : no_inputs)
        names.push_back(str("model.layers.", i, ".self_attn.", part, ".bias"));
  return names;
}

bool untie_other_head(const TensorSource& source, ModelConfig& config) {
  constexpr const char *kHead = "lm_head.weight", *kEmbedding = "model.embed_tokens.weight";
  if (!config.tied_head || !source.contains(kHead) || !source.contains(kEmbedding)) return false;
  config.tied_head =
      source.shape(kHead) == source.shape(kEmbedding) && values_of(source, kHead) == values_of(source, kEmbedding);
  return !config.tied_head;
}

std::vector<NamedTensor> hf_views(const ModelConfig& config, const DecoderParams& params, const ParamBuffer& buffer) {
  std::vector<NamedTensor> views;
  for (const HfTensor& t : hf_tensors(config, params)) views.push_back({t.name, buffer[t.param].slice(t.begin, t.end)});
  return views;
}

void check_hf_source(const TensorSource& source, const ModelConfig& config, const ParamLayout& layout,
                     const DecoderParams& params) {
  std::set<std::string> known;
  for (const HfTensor& t : hf_tensors(config, params)) {
    known.insert(t.name);
    check(source.contains(t.name), source.where(), ": tensor \"", t.name, "\" is missing");
    const Shape expected = rows_shape(layout[t.param], t), found = source.shape(t.name);
    check(found == expected, source.where(), ": tensor \"", t.name, "\" must have shape ", expected,
          " by the model's configuration, got ", found);
  }
  for (const std::string& name : source.names())
    check(known.contains(name) || is_ballast(source, name, config), source.where(), ": tensor \"", name,
          "\" is not used by a ", config.architecture, " model of ", config.layers,
          " layers; its values would be ignored");
}

void fill_from_source(const TensorSource& source, const ModelConfig& config, const DecoderParams& params,
                      const ParamLayout& layout, const ParamBuffer& buffer) {
  for (const HfTensor& t : hf_tensors(config, params)) {
    if (!buffer.holds(layout, t.param, t.begin, t.end)) continue;
    Tensor values(cpu(), rows_shape(layout[t.param], t), buffer.dtype());
    source.read(t.name, values);
    buffer.store(layout, t.param, t.begin, values);
  }
}

std::unique_ptr<TensorSource> open_hf_weights(const fs::path& directory) {
  return std::make_unique<HfWeights>(directory);
}

HfWeightsWriter::HfWeightsWriter(fs::path directory, std::vector<TensorSpec> specs, int64_t file_bytes)
    : directory_(std::move(directory)) {
  int64_t filled = 0;
  for (TensorSpec& spec : specs) {
    const int64_t bytes = spec.shape.numel() * int64_t(size_of(spec.dtype));
    if (files_.empty() || (filled > 0 && filled + bytes > file_bytes)) {
      files_.emplace_back();
      filled = 0;
    }
    filled += bytes;
    files_.back().push_back(std::move(spec));
  }
}

std::string HfWeightsWriter::name(size_t file) const {
  if (files_.size() == 1) return kSingleFile;
  std::ostringstream out;
  out << "model-" << std::setfill('0') << std::setw(5) << file + 1 << "-of-" << std::setw(5) << files_.size()
      << ".safetensors";
  return out.str();
}

void HfWeightsWriter::write(const Tensor& tensor) {
  check(at_ < files_.size(), directory_.string(), ": all tensors are written already");
  if (!open_) open_.emplace(directory_ / name(at_), files_[at_], std::map<std::string, std::string>{{"format", "pt"}});
  open_->write(tensor);
  if (!open_->complete()) return;
  open_->commit();
  open_.reset();
  ++at_;
}

void HfWeightsWriter::commit() {
  check(at_ == files_.size(), directory_.string(), ": ", files_.size() - at_, " files of weights are not whole");
  if (files_.size() == 1) return;
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  int64_t bytes = 0;
  for (size_t i = 0; i < files_.size(); ++i)
    for (const TensorSpec& spec : files_[i]) {
      files[spec.name] = name(i);
      bytes += spec.shape.numel() * int64_t(size_of(spec.dtype));
    }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", std::move(files)}};
  write_file(directory_ / kIndexFile, index.dump(2) + "\n");
}

ModelConfig read_hf_config(const fs::path& directory) {
  const fs::path path = directory / "config.json", generation = directory / "generation_config.json";
  check_content(path, "JSON");
  ModelConfig config = parse_hf_config(read_file(path), path.string());
  check_content(generation, "JSON");
  if (file_exists(generation)) add_generation_config(config, read_file(generation), generation.string());
  return config;
}

TokenizerFiles read_hf_tokenizer(const fs::path& directory) {
  const fs::path config = directory / "tokenizer_config.json";
  TokenizerFiles files;
  files.where = directory.string();
  files.tokenizer_json = json_text(directory / "tokenizer.json");
  files.tokenizer_config_json = json_text(config);
  files.added_tokens_json = json_text(directory / "added_tokens.json");
  files.special_tokens_map_json = json_text(directory / "special_tokens_map.json");
  const fs::path own = directory / "chat_template.jinja";  // stands also where it is empty
  files.chat_template = file_text(own);
  if (!file_exists(own) && !files.tokenizer_config_json.empty())
    files.chat_template = parse_chat_template(files.tokenizer_config_json, config.string());
  return files;
}

}  // namespace mantissa
