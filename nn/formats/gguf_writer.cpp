#include "nn/formats/gguf_writer.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/gguf_blocks.h"
#include "nn/formats/gguf_names.h"
#include "nn/formats/gguf_tokenizer.h"
#include "nn/formats/gguf_vocabulary.h"
#include "nn/formats/hf.h"
#include "nn/formats/special_tokens.h"
#include "nn/formats/tokenizer_config.h"
#include "nn/rope.h"

namespace mantissa {
namespace {

constexpr size_t kAlignment = 32;
constexpr uint32_t kF32 = 0, kF16 = 1;  // tensor types

struct FileType {
  const char* name;
  uint32_t tensor_type, file_type;  // ggml's type number, general.file_type
};
constexpr FileType kFileTypes[] = {
    {"f32", 0, 0}, {"f16", 1, 1}, {"bf16", 30, 32}, {"q8_0", 8, 7}, {"q4_0", 2, 2},
};

template <class T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}
void append_text(std::string& out, std::string_view text) {
  append(out, uint64_t(text.size()));
  out += text;
}

/// Metadata: keys with their values, as they stand in the file.
class Metadata {
 public:
  void set(const std::string& key, uint32_t value) { append(begin(key, 4), value); }
  void set(const std::string& key, float value) { append(begin(key, 6), value); }
  void set(const std::string& key, bool value) { append(begin(key, 7), uint8_t(value)); }
  void set(const std::string& key, std::string_view value) { append_text(begin(key, kString), value); }
  void set(const std::string& key, const char* value) { set(key, std::string_view(value)); }
  void set(const std::string& key, const std::vector<std::string>& values) {
    begin_array(key, kString, values.size());
    for (const std::string& value : values) append_text(text_, value);
  }
  void set(const std::string& key, const std::vector<int32_t>& values) {
    begin_array(key, 5, values.size());
    for (const int32_t value : values) append(text_, value);
  }
  void set(const std::string& key, const std::vector<float>& values) {
    begin_array(key, 6, values.size());
    for (const float value : values) append(text_, value);
  }

  uint64_t count() const { return count_; }
  const std::string& text() const { return text_; }

 private:
  static constexpr uint32_t kString = 8, kArray = 9;
  std::string& begin(const std::string& key, uint32_t type) {
    ++count_;
    append_text(text_, key);
    append(text_, type);
    return text_;
  }
  void begin_array(const std::string& key, uint32_t type, size_t size) {
    append(begin(key, kArray), type);
    append(text_, uint64_t(size));
  }
  std::string text_;
  uint64_t count_ = 0;
};

void describe_config(Metadata& out, const ModelConfig& c) {
  const std::string architecture = gguf_architecture(c.architecture), p = architecture + ".";
  out.set("general.architecture", architecture);
  out.set("general.type", "model");
  out.set("general.quantization_version", 2u);
  out.set(p + "vocab_size", uint32_t(c.vocab_size));
  out.set(p + "block_count", uint32_t(c.layers));
  out.set(p + "context_length", uint32_t(c.max_positions));
  out.set(p + "embedding_length", uint32_t(c.width));
  out.set(p + "feed_forward_length", uint32_t(c.feed_forward));
  out.set(p + "attention.head_count", uint32_t(c.heads.query));
  out.set(p + "attention.head_count_kv", uint32_t(c.heads.kv));
  out.set(p + "attention.key_length", uint32_t(c.heads.size));
  out.set(p + "attention.value_length", uint32_t(c.heads.size));
  out.set(p + "attention.layer_norm_rms_epsilon", float(c.norm_eps));
  out.set(p + "rope.dimension_count", uint32_t(c.heads.size));
  out.set(p + "rope.freq_base", float(c.rope.theta));
  if (c.experts.count > 0) {
    out.set(p + "expert_count", uint32_t(c.experts.count));
    out.set(p + "expert_used_count", uint32_t(c.experts.per_token));
    out.set(p + "expert_feed_forward_length", uint32_t(c.experts.feed_forward));
  }
  if (c.rope.kind == RopeConfig::Kind::kLinear) {
    out.set(p + "rope.scaling.type", "linear");
    out.set(p + "rope.scaling.factor", float(c.rope.factor));
  }
}

/// The tokens with a role: those that the tokenizer names, else those that its post-processor adds, else those of
/// config.json. Each is a special token of the vocabulary. `v` without tokens: the model has no tokenizer.
void describe_special_tokens(Metadata& out, const ModelConfig& c, const TokenizerFiles& files, const GgufVocabulary& v,
                             std::vector<std::string>& notes) {
  const std::vector<SpecialToken> named = special_tokens(files);
  const auto named_id = [&](const std::string& role) {
    const auto it = std::find_if(named.begin(), named.end(), [&](const SpecialToken& t) { return t.role == role; });
    return it == named.end() ? -1 : v.id_of(it->content);
  };
  const auto role_id = [&](const char* role, const std::vector<int32_t>& added, int32_t configured) {
    int32_t id = named_id(role);
    if (id >= 0) return id;
    id = added.size() == 1 ? added.front() : configured;
    if (id >= 0 && !v.tokens.empty() && files.chat_template.find(role) != std::string::npos)
      notes.push_back(str("the chat template reads ", role,
                          ", which the tokenizer does not name: from this file it is token ", id));
    return id;
  };
  const int32_t bos = role_id("bos_token", v.before, c.bos_id);
  const int32_t eos = role_id("eos_token", v.after, c.eos_ids.empty() ? -1 : c.eos_ids.front());
  std::vector<int32_t> stops = c.eos_ids;
  if (eos >= 0 && std::erase(stops, eos) == 0)
    notes.push_back(str("token ", eos,
                        ", the tokenizer's eos_token, ends a text from this file: config.json and "
                        "generation_config.json do not name it"));
  if (eos >= 0) stops.insert(stops.begin(), eos);
  const char* const ends[] = {"eos", "eot", "eom"};
  check(stops.size() <= std::size(ends), files.where, ": GGUF has places for ", std::size(ends),
        " end-of-sequence tokens, the model has ", stops.size());
  const auto set = [&](const char* role, int32_t id) {
    if (id >= 0) out.set(str("tokenizer.ggml.", role, "_token_id"), uint32_t(id));
  };
  for (size_t i = 0; i < stops.size(); ++i) set(ends[i], stops[i]);
  set("bos", bos);
  set("unknown", named_id("unk_token"));
  set("padding", named_id("pad_token"));
  if (v.tokens.empty()) return;
  const auto adds = [&](const char* which, const std::vector<int32_t>& added, int32_t id) {
    const bool same = added == std::vector{id};
    out.set(str("tokenizer.ggml.add_", which, "_token"), same);
    if (!same && !added.empty())
      notes.push_back(str("the tokenizer adds tokens to a text that GGUF has no place for (tokenizer.ggml.add_", which,
                          "_token adds ", which, "_token alone): llama.cpp does not add them"));
  };
  adds("bos", v.before, bos);
  adds("eos", v.after, eos);
  const std::set<std::string> placed = {"bos_token", "eos_token", "unk_token", "pad_token"};
  for (const auto& [name, token] : read_tokenizer_config(files).named)
    if (!placed.contains(name) && files.chat_template.find(name) != std::string::npos)
      notes.push_back(str("the chat template reads ", name, " (", token,
                          "), for which GGUF has no place: from this file it is empty"));
}

void describe_tokenizer(Metadata& out, const ModelConfig& c, const TokenizerFiles& files,
                        std::vector<std::string>& notes) {
  if (files.tokenizer_json.empty()) {
    describe_special_tokens(out, c, files, {}, notes);
    notes.push_back(files.where + " has no tokenizer, so the file has none either");
    return;
  }
  const GgufVocabulary v = gguf_vocabulary(files, c.vocab_size);
  describe_special_tokens(out, c, files, v, notes);
  out.set("tokenizer.ggml.model", v.model);
  if (v.model == "gpt2") {
    out.set("tokenizer.ggml.pre", v.pre);
    out.set("tokenizer.ggml.merges", v.merges);
    if (v.pre == "default")
      notes.push_back(
          "llama.cpp has no name for the patterns of this tokenizer (tokenizer.ggml.pre = default): it may cut "
          "some texts into other tokens");
  } else {
    out.set("tokenizer.ggml.scores", v.scores);
    out.set("tokenizer.ggml.add_space_prefix", v.add_space_prefix);
  }
  out.set("tokenizer.ggml.tokens", v.tokens);
  out.set("tokenizer.ggml.token_type", v.types);
  out.set(kGgufHuggingFaceJson, v.tokenizer_json);
  if (!files.chat_template.empty()) out.set("tokenizer.chat_template", files.chat_template);
}

/// What a qwen3moe file cannot say.
void check_mixture(const ModelConfig& c) {
  if (c.experts.count == 0) return;
  check(c.experts.normalise, "GGUF has no place for norm_topk_prob = false of qwen3_moe: llama.cpp always normalises");
  for (int64_t i = 0; i < c.layers; ++i)
    check(c.experts.in_layer(i), "a qwen3moe GGUF file has experts in every layer, the model has none in layer ", i,
          " (decoder_sparse_step, mlp_only_layers)");
}

/// A tensor of the file: where its values come from and how they are stored.
struct Entry {
  std::string name;
  std::vector<Tensor> parts;  // host or device: the tensor, or the matrices of a stack
  uint32_t type;
  int heads;             // see interleaved_heads
  bool stacked = false;  // has the experts' dimension

  const Shape& part() const { return parts.front().shape(); }
  int64_t part_bytes() const {
    const BlockFormat& format = *block_format(type);
    return part().rows() * (part()[-1] / format.elements * format.bytes);
  }
  int64_t bytes() const { return int64_t(parts.size()) * part_bytes(); }
};

std::vector<Entry> entries_of(const Model& model, const FileType& type) {
  const ParamBuffer& weights = model.params.master.defined() ? model.params.master : model.params.compute;
  std::vector<Entry> entries;
  for (NamedTensor& t : hf_views(model.config, model.decoder->params(), weights)) {
    const std::string name = gguf_name_of(t.name);
    const bool stacked = t.name.find(".experts.") != std::string::npos;
    if (stacked) {
      const auto stack = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.name == name; });
      if (stack != entries.end()) {
        stack->parts.push_back(std::move(t.tensor));
        continue;
      }
    }
    Entry entry{name, {std::move(t.tensor)}, type.tensor_type, 0, stacked};
    entry.heads = interleaved_heads(model.config, name);
    if (entry.part().rank() == 1)
      entry.type = kF32;
    else if (entry.part()[1] % block_format(entry.type)->elements != 0)
      entry.type = kF16;
    if (name.ends_with("ffn_gate_inp.weight")) entry.type = kF32;  // a router is small, and rounding it moves rows
    entries.push_back(std::move(entry));
  }
  if (model.config.rope.kind == RopeConfig::Kind::kLlama3) {
    RopeConfig plain = model.config.rope;
    plain.kind = RopeConfig::Kind::kDefault;
    const std::vector<double> before = rope_frequencies(plain, model.config.heads.size);
    const std::vector<double> after = rope_frequencies(model.config.rope, model.config.heads.size);
    std::vector<float> factors;
    for (size_t i = 0; i < before.size(); ++i) factors.push_back(float(before[i] / after[i]));
    entries.push_back({"rope_freqs.weight", {tensor_from<float>(cpu(), factors, {int64_t(factors.size())})}, kF32, 0});
  }
  return entries;
}

/// The values of a part in the order and type of the file.
std::vector<std::byte> packed(const Entry& entry, const Tensor& t) {
  std::vector<std::byte> host(t.bytes());
  t.backend().copy_to_host(host.data(), t.raw(), t.bytes());
  const int64_t width = entry.heads > 0 && t.shape().rank() == 1 ? 1 : t.shape()[-1], rows = t.numel() / width;
  const int64_t row_bytes = entry.part_bytes() / rows;
  const BlockFormat& format = *block_format(entry.type);
  std::vector<std::byte> out(size_t(entry.part_bytes()));
  std::vector<float> row(static_cast<size_t>(width));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t from = entry.heads > 0 ? halved_row(r, rows / entry.heads) : r;
    convert_floats(host.data() + from * width * int64_t(size_of(t.dtype())), t.dtype(), row.data(), Dtype::kF32, width);
    format.pack(row.data(), width / format.elements, out.data() + r * row_bytes);
  }
  return out;
}

std::string tensor_table(const std::vector<Entry>& entries) {
  std::string table;
  uint64_t offset = 0;
  for (const Entry& e : entries) {
    append_text(table, e.name);
    append(table, uint32_t(e.part().rank() + e.stacked));
    for (int i = e.part().rank(); i-- > 0;) append(table, uint64_t(e.part()[i]));
    if (e.stacked) append(table, uint64_t(e.parts.size()));
    append(table, e.type);
    append(table, offset);
    offset += (uint64_t(e.bytes()) + kAlignment - 1) / kAlignment * kAlignment;
  }
  return table;
}

}  // namespace

std::vector<std::string> save_gguf(const Model& model, const std::filesystem::path& path, const std::string& type) {
  const auto* known =
      std::find_if(std::begin(kFileTypes), std::end(kFileTypes), [&](const FileType& t) { return t.name == type; });
  check(known != std::end(kFileTypes), "a GGUF file has type f32, f16, bf16, q8_0 or q4_0, got \"", type, "\"");
  const RopeConfig& rope = model.config.rope;
  check(rope.kind != RopeConfig::Kind::kLlama3 ||
            (rope.low_freq_factor == 1 && rope.high_freq_factor == 4 && rope.original_max_positions == 8192),
        "GGUF has no place for llama3 rope with other factors than 1, 4 and 8192 positions, got ", rope.low_freq_factor,
        ", ", rope.high_freq_factor, " and ", rope.original_max_positions);
  check_mixture(model.config);
  std::vector<std::string> notes;
  Metadata metadata;
  describe_config(metadata, model.config);
  metadata.set("general.file_type", known->file_type);
  describe_tokenizer(metadata, model.config, model.tokenizer, notes);
  const std::vector<Entry> entries = entries_of(model, *known);

  AtomicFile file(path);
  std::string head = "GGUF";
  append(head, uint32_t(3));
  append(head, uint64_t(entries.size()));
  append(head, metadata.count());
  head += metadata.text() + tensor_table(entries);
  const auto pad = [&](size_t bytes) { return std::string((kAlignment - bytes % kAlignment) % kAlignment, '\0'); };
  file.write(head + pad(head.size()));
  for (const Entry& entry : entries) {
    for (const Tensor& part : entry.parts) {
      const std::vector<std::byte> bytes = packed(entry, part);
      file.write(bytes.data(), bytes.size());
    }
    file.write(pad(size_t(entry.bytes())));
  }
  file.commit();
  return notes;
}

}  // namespace mantissa
