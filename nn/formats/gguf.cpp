#include "nn/formats/gguf.h"

#include <algorithm>
#include <cmath>

#include "core/file.h"
#include "core/parallel.h"
#include "core/safetensors.h"
#include "nn/formats/gguf_file.h"
#include "nn/formats/gguf_names.h"
#include "nn/formats/gguf_tokenizer.h"
#include "nn/rope.h"

namespace mantissa {
namespace {

class GgufSource : public TensorSource {
 public:
  GgufSource(std::unique_ptr<MappedFile> map, GgufFile file, const ModelConfig& config)
      : map_(std::move(map)), file_(std::move(file)) {
    for (const auto& [name, tensor] : file_.tensors()) {
      if (name == "rope_freqs.weight") continue;  // read into the config
      const std::string hf = hf_name_of(name);
      if (hf.find('*') != std::string::npos) {
        add_experts(hf, tensor, config.experts.count);
        continue;
      }
      Entry entry{&tensor, 0};
      entry.heads = interleaved_heads(config, name);
      check(entry.heads == 0 || tensor.shape[0] == int64_t(entry.heads) * config.heads.size, file_.where(), ": ", hf,
            " must have ", entry.heads, " heads of ", config.heads.size, " rows, got shape ", tensor.shape);
      check(entries_.emplace(hf, entry).second, file_.where(), ": two tensors stand for ", hf);
    }
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, entry] : entries_) out.push_back(name);
    return out;
  }
  bool contains(const std::string& name) const override { return entries_.count(name) > 0; }
  Shape shape(const std::string& name) const override {
    const Shape& shape = at(name).tensor->shape;
    return at(name).expert < 0 ? shape : Shape{shape[1], shape[2]};
  }
  std::string where() const override { return file_.where(); }

  void read(const std::string& name, Tensor& out) const override {
    const Entry& entry = at(name);
    const GgufFile::Tensor& tensor = *entry.tensor;
    const Shape shape = this->shape(name);
    check(out.numel() == shape.numel(), where(), ": ", name, " has shape ", shape, ", asked for ", out.shape());
    // Rows of a vector are its elements where they are permuted, else it is one row.
    const bool vector = shape.rank() == 1;
    const int64_t rows = vector ? (entry.heads > 0 ? out.numel() : 1) : shape.rows();
    const int64_t width = out.numel() / rows;
    check(width % tensor.format->elements == 0, where(), ": ", name, " cannot be of type ", tensor.format->name);
    const int64_t blocks = width / tensor.format->elements;
    const int64_t out_row = width * int64_t(size_of(out.dtype()));
    auto* to = static_cast<std::byte*>(out.raw());
    const size_t bytes = size_t(rows * blocks * tensor.format->bytes);
    const auto data = entry.expert < 0 ? tensor.data : tensor.data.subspan(size_t(entry.expert) * bytes, bytes);
    parallel_for(rows, std::max<int64_t>(1, 16384 / width), [&](int64_t begin, int64_t end) {
      std::vector<float> values(static_cast<size_t>(width));
      for (int64_t row = begin; row < end; ++row) {
        const int64_t from = entry.heads > 0 ? interleaved_row(row, rows / entry.heads) : row;
        tensor.format->unpack(data.data() + from * blocks * tensor.format->bytes, blocks, values.data());
        if (tensor.format->quantised)
          for (float& x : values) x = to_float(half_from_float(x));
        convert_floats(values.data(), Dtype::kF32, to + row * out_row, out.dtype(), width);
      }
    });
    if (map_ != nullptr) map_->release(data);
  }

 private:
  struct Entry {
    const GgufFile::Tensor* tensor;
    int heads;            // rows are interleaved within so many heads; 0: rows are in place
    int64_t expert = -1;  // which matrix of a stack; -1: all of the tensor
  };

  /// An entry for each matrix of a stack.
  void add_experts(const std::string& hf, const GgufFile::Tensor& tensor, int64_t experts) {
    check(tensor.shape.rank() == 3 && tensor.shape[0] == experts, file_.where(), ": ", hf, " must be a stack of ",
          experts, " matrices, got shape ", tensor.shape);
    for (int64_t e = 0; e < tensor.shape[0]; ++e)
      check(entries_.emplace(expert_name(hf, e), Entry{&tensor, 0, e}).second, file_.where(),
            ": two tensors stand for ", expert_name(hf, e));
  }

  const Entry& at(const std::string& name) const {
    const auto it = entries_.find(name);
    check(it != entries_.end(), where(), ": there is no tensor ", name);
    return it->second;
  }

  std::unique_ptr<MappedFile> map_;  // null: borrowed memory
  GgufFile file_;
  std::map<std::string, Entry> entries_;
};

// ---- config -----------------------------------------------------------------------------------------------

int small_integer(const GgufFile& file, const std::string& key, std::optional<int64_t> otherwise = {}) {
  const int64_t value = file.integer(key, otherwise);
  check(value <= 1 << 24, file.where(), ": metadata \"", key, "\" must be at most 2^24, got ", value);
  return int(value);
}

/// rope_freqs.weight [D/2] divides the frequencies. Only Llama-3's rule makes such a tensor for these architectures,
/// and its constants but the factor are the same in every release; a tensor that they do not explain is refused.
void read_rope_factors(const GgufFile& file, ModelConfig& config) {
  const auto it = file.tensors().find("rope_freqs.weight");
  if (it == file.tensors().end()) return;
  const GgufFile::Tensor& tensor = it->second;
  const int half = config.heads.size / 2;
  check(config.heads.size > 0 && tensor.shape == Shape{half} && !tensor.format->quantised, file.where(),
        ": rope_freqs.weight must hold ", half, " plain values, got shape ", tensor.shape, " of ", tensor.format->name);
  std::vector<float> factors(static_cast<size_t>(half));
  tensor.format->unpack(tensor.data.data(), half, factors.data());
  const float largest = *std::max_element(factors.begin(), factors.end());
  if (largest == 1.0f && *std::min_element(factors.begin(), factors.end()) == 1.0f) return;
  check(config.rope.kind == RopeConfig::Kind::kDefault, file.where(),
        ": rope_freqs.weight and rope.scaling cannot both scale the frequencies");
  RopeConfig plain = config.rope;
  config.rope.kind = RopeConfig::Kind::kLlama3;
  config.rope.factor = largest;
  config.rope.low_freq_factor = 1.0;
  config.rope.high_freq_factor = 4.0;
  config.rope.original_max_positions = 8192;
  const std::vector<double> before = rope_frequencies(plain, config.heads.size);
  const std::vector<double> after = rope_frequencies(config.rope, config.heads.size);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double expected = before[i] / after[i];
    check(std::abs(factors[i] - expected) <= 1e-4 * expected, file.where(), ": rope_freqs.weight[", i,
          "] must follow the llama3 rule (factor ", largest, ", low 1, high 4, original 8192), which gives ", expected,
          ", got ", factors[i]);
  }
}

void read_rope(const GgufFile& file, const std::string& prefix, ModelConfig& config) {
  config.rope.theta = file.real(prefix + "rope.freq_base", 10000.0);
  const int rotated = small_integer(file, prefix + "rope.dimension_count", config.heads.size);
  check(rotated == config.heads.size, file.where(), ": ", prefix,
        "rope.dimension_count must be the head size (partial rotation is not supported): ", config.heads.size, ", got ",
        rotated);
  // As llama.cpp: the type is linear where it is not given, and rope.scale_linear is the factor's older key.
  const std::string_view scaling = file.text(prefix + "rope.scaling.type", "linear");
  check(scaling == "none" || scaling == "linear", file.where(), ": ", prefix,
        "rope.scaling.type must be none or linear, got \"", scaling, "\"");
  const double factor = file.real(prefix + "rope.scaling.factor", file.real(prefix + "rope.scale_linear", 0.0));
  const double attention = file.real(prefix + "rope.scaling.attn_factor", 1.0);  // multiplies queries and keys
  check(attention == 1, file.where(), ": ", prefix, "rope.scaling.attn_factor must be 1, got ", attention);
  if (scaling == "linear" && factor != 0 && factor != 1) {
    config.rope.kind = RopeConfig::Kind::kLinear;
    config.rope.factor = factor;
  }
  read_rope_factors(file, config);
}

/// Every layer of a qwen3moe file has experts, and llama.cpp normalises their weights whatever the file says.
void read_experts(const GgufFile& file, const std::string& prefix, ExpertsConfig& experts) {
  experts.count = small_integer(file, prefix + "expert_count");
  experts.per_token = small_integer(file, prefix + "expert_used_count");
  experts.feed_forward = small_integer(file, prefix + "expert_feed_forward_length");
  experts.normalise = true;
  const int shared = small_integer(file, prefix + "expert_shared_count", 0);
  check(shared == 0, file.where(), ": ", prefix, "expert_shared_count: shared experts are not supported, got ", shared);
  const double scale = file.real(prefix + "expert_weights_scale", 1.0);
  check(scale == 0 || scale == 1, file.where(), ": ", prefix, "expert_weights_scale must be 1, got ", scale);
  const int gating = small_integer(file, prefix + "expert_gating_func", 1);
  check(gating == 0 || gating == 1, file.where(), ": ", prefix, "expert_gating_func must be 1 (softmax), got ", gating);
}

ModelConfig read_config(const GgufFile& file) {
  ModelConfig config;
  const std::string_view architecture = file.text("general.architecture");
  config.architecture = model_type_of(architecture);
  check(!config.architecture.empty(), file.where(),
        ": general.architecture must be llama, qwen2, qwen3 or qwen3moe, got \"", architecture, "\"");
  const std::string prefix = str(architecture, ".");
  const bool moe = config.architecture == "qwen3_moe";
  check(moe || file.integer(prefix + "expert_count", 0) == 0, file.where(), ": mixtures of experts of this kind (",
        prefix, "expert_count) are not supported");
  config.width = small_integer(file, prefix + "embedding_length");
  config.layers = small_integer(file, prefix + "block_count");
  if (moe) read_experts(file, prefix, config.experts);
  config.feed_forward = small_integer(file, prefix + "feed_forward_length",
                                      moe ? std::optional(config.experts.feed_forward) : std::nullopt);
  config.max_positions = small_integer(file, prefix + "context_length");
  config.norm_eps = file.real(prefix + "attention.layer_norm_rms_epsilon");
  config.heads.query = small_integer(file, prefix + "attention.head_count");
  config.heads.kv = small_integer(file, prefix + "attention.head_count_kv", config.heads.query);
  check(config.heads.query > 0, file.where(), ": ", prefix, "attention.head_count must be positive");
  config.heads.size = small_integer(file, prefix + "attention.key_length", config.width / config.heads.query);
  const int value_size = small_integer(file, prefix + "attention.value_length", config.heads.size);
  check(value_size == config.heads.size, file.where(), ": ", prefix, "attention.value_length must equal key_length ",
        config.heads.size, ", got ", value_size);
  check(file.flag(prefix + "attention.causal", true), file.where(), ": ", prefix,
        "attention.causal = false is not supported");

  const auto& tensors = file.tensors();
  const auto embedding = tensors.find("token_embd.weight");
  check(embedding != tensors.end(), file.where(), ": tensor token_embd.weight is missing");
  check(embedding->second.shape.rank() == 2, file.where(), ": token_embd.weight must be a matrix, got shape ",
        embedding->second.shape);
  config.vocab_size = embedding->second.shape[0];
  if (file.has("tokenizer.ggml.tokens")) {
    const size_t tokens = file.texts("tokenizer.ggml.tokens").size();
    check(int64_t(tokens) <= config.vocab_size, file.where(), ": tokenizer.ggml.tokens must not exceed the ",
          config.vocab_size, " rows of token_embd.weight, got ", tokens);
  }
  config.tied_head = tensors.count("output.weight") == 0;
  config.qkv_bias = tensors.count("blk.0.attn_q.bias") > 0;
  config.qk_norm = moe || config.architecture == "qwen3";

  for (const char* which : {"eos", "eot", "eom"}) {
    const std::string key = str("tokenizer.ggml.", which, "_token_id");
    if (!file.has(key)) continue;
    const int32_t id = small_integer(file, key);
    if (std::find(config.eos_ids.begin(), config.eos_ids.end(), id) == config.eos_ids.end())
      config.eos_ids.push_back(id);
  }
  if (file.has("tokenizer.ggml.bos_token_id")) config.bos_id = small_integer(file, "tokenizer.ggml.bos_token_id");
  read_rope(file, prefix, config);
  config.validate(file.where());
  return config;
}

GgufModel build(std::unique_ptr<MappedFile> map, std::span<const std::byte> image, const std::string& where) {
  GgufFile file(image, where);
  const int64_t parts = file.integer("split.count", 1);
  check(parts <= 1, where, ": is part ", file.integer("split.no", 0) + 1, " of ", parts,
        " of a split GGUF; split files are not supported: join them with llama-gguf-split --merge");
  GgufModel model;
  model.config = read_config(file);
  model.tokenizer = gguf_tokenizer(file);
  model.tensors = std::make_unique<GgufSource>(std::move(map), std::move(file), model.config);
  return model;
}

}  // namespace

GgufModel open_gguf(const std::string& path) {
  auto map = std::make_unique<MappedFile>(path);
  const auto image = map->bytes();
  return build(std::move(map), image, path);
}

GgufModel parse_gguf(std::span<const std::byte> image, const std::string& where) {
  return build(nullptr, image, where);
}

}  // namespace mantissa
