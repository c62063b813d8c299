#include "nn/formats/gguf_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/json.h"

namespace mantissa {
namespace {

using nlohmann::json;

using enum GgufTokenType;

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseek3 =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

}  // namespace

const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers() {
  static const std::vector<GgufPreTokenizer> known = {
      {.name = "gpt-2", .patterns = {kGgufGpt2Pattern}},
      {.name = "smollm", .patterns = {R"(\p{N})", kGgufGpt2Pattern}},
      {.name = "llama-bpe", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
      {.name = "qwen2", .patterns = {kQwen2}, .nfc = true},
      {.name = "deepseek-r1-qwen", .patterns = {kQwen2}},
      {.name = "deepseek-v3", .patterns = {R"(\p{N}{1,3})", "[一-龥぀-ゟ゠-ヿ]+", kDeepseek3}},
  };
  return known;
}

namespace {

constexpr size_t kMaxPiece = 512;  // bytes of a SentencePiece token; bounds the search for its merges

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<int32_t> types;
  std::unordered_map<std::string_view, int32_t> ids;
};

Vocabulary read_vocabulary(const GgufFile& file) {
  Vocabulary v;
  v.tokens = file.texts("tokenizer.ggml.tokens");
  if (file.has("tokenizer.ggml.token_type"))
    v.types = file.integers("tokenizer.ggml.token_type");
  else
    v.types.assign(v.tokens.size(), int32_t(kNormal));
  check(!v.tokens.empty() && v.tokens.size() < size_t(1) << 24, file.where(),
        ": tokenizer.ggml.tokens must hold 1 to 2^24 tokens, got ", v.tokens.size());
  check(v.types.size() == v.tokens.size(), file.where(), ": tokenizer.ggml.token_type must hold ", v.tokens.size(),
        " entries, one per token, got ", v.types.size());
  // Rows the embedding was padded to are no tokens.
  while (!v.types.empty() && v.types.back() == int32_t(kUnused)) v.types.pop_back();
  v.tokens.resize(v.types.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const auto [it, fresh] = v.ids.emplace(v.tokens[i], int32_t(i));
    check(fresh, file.where(), ": tokenizer.ggml.tokens ", it->second, " and ", i, " are the same text");
  }
  return v;
}

/// Merges of a SentencePiece BPE model, which has only scores: every way to cut a token into two tokens, the cuts of
/// higher-scored tokens first (and of one token by the ids of the halves): what transformers' converter does.
json merges_from_scores(const GgufFile& file, const Vocabulary& v) {
  const std::vector<float> scores = file.reals("tokenizer.ggml.scores");
  check(scores.size() >= v.tokens.size(), file.where(), ": tokenizer.ggml.scores must hold ", v.tokens.size(),
        " entries, one per token, got ", scores.size());
  struct Merge {
    float score;
    int32_t left, right;
  };
  std::vector<Merge> merges;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const std::string_view token = v.tokens[id];
    check(token.size() <= kMaxPiece, file.where(), ": token ", id, " has ", token.size(), " bytes; at most ", kMaxPiece,
          " are supported in a SentencePiece vocabulary");
    check(scores[id] == scores[id], file.where(), ": the score of token ", id, " is not a number");
    const size_t first = merges.size();
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = v.ids.find(token.substr(0, cut)), right = v.ids.find(token.substr(cut));
      if (left != v.ids.end() && right != v.ids.end()) merges.push_back({scores[id], left->second, right->second});
    }
    std::sort(merges.begin() + int64_t(first), merges.end(),
              [](const Merge& a, const Merge& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.score > b.score; });
  json out = json::array();
  for (const Merge& m : merges)
    out.push_back({std::string(v.tokens[size_t(m.left)]), std::string(v.tokens[size_t(m.right)])});
  return out;
}

json byte_level() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
}

json bpe_model(const Vocabulary& v, json merges) {
  json ids = json::object();
  for (size_t i = 0; i < v.tokens.size(); ++i) ids[std::string(v.tokens[i])] = i;
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(ids)},
          {"merges", std::move(merges)}};
}

/// Model, normalizer, pre-tokenizer and decoder of a byte-level BPE tokenizer.
void fill_byte_level(json& out, const Vocabulary& v, const GgufFile& file, const GgufPreTokenizer& pre) {
  json merges = json::array();
  for (const std::string_view merge : file.texts("tokenizer.ggml.merges")) merges.push_back(std::string(merge));
  out["model"] = bpe_model(v, std::move(merges));
  out["model"]["ignore_merges"] = pre.ignore_merges;
  if (pre.nfc) out["normalizer"] = {{"type", "NFC"}};
  json steps = json::array();
  for (const std::string& pattern : pre.patterns)
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  steps.push_back(byte_level());
  out["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
  out["decoder"] = byte_level();
}

/// The same for SentencePiece BPE: spaces become U+2581, bytes outside the vocabulary become <0xNN> tokens.
void fill_sentencepiece(json& out, const Vocabulary& v, const GgufFile& file) {
  const bool prefix = file.flag("tokenizer.ggml.add_space_prefix", true);
  out["model"] = bpe_model(v, merges_from_scores(file, v));
  out["model"]["fuse_unk"] = true;
  out["model"]["byte_fallback"] = true;
  const auto unknown = std::find(v.types.begin(), v.types.end(), int32_t(kUnknown));
  if (unknown != v.types.end()) out["model"]["unk_token"] = std::string(v.tokens[size_t(unknown - v.types.begin())]);
  json normalizers = json::array(), decoders = json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}});
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  out["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
  out["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
}

/// Whether a token of this type is recognised in text as it stands.
bool is_special(int32_t type) {
  return type == int32_t(kUnknown) || type == int32_t(kControl) || type == int32_t(kUserDefined);
}

/// The tokens that are.
json added_tokens(const Vocabulary& v) {
  json added = json::array();
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const int32_t type = v.types[i];
    if (!is_special(type)) continue;
    added.push_back({{"id", i},
                     {"content", std::string(v.tokens[i])},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != int32_t(kUserDefined)}});
  }
  return added;
}

/// The id under tokenizer.ggml.<which>_token_id; -1 when there is none.
int64_t named_id(const GgufFile& file, const Vocabulary& v, const std::string& which) {
  const std::string key = "tokenizer.ggml." + which + "_token_id";
  if (!file.has(key)) return -1;
  const int64_t id = file.integer(key);
  check(id < int64_t(v.tokens.size()), file.where(), ": metadata \"", key, "\" must be below the ", v.tokens.size(),
        " tokens, got ", id);
  return id;
}

/// The stages of a byte-level tokenizer under the name that the file gives; whether it adds BOS by itself.
bool fill_by_pre_name(json& out, const Vocabulary& v, const GgufFile& file) {
  const std::string_view name = file.text("tokenizer.ggml.pre");
  std::string names;
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers()) {
    if (known.name == name) {
      fill_byte_level(out, v, file, known);
      return known.add_bos;
    }
    names += str(names.empty() ? "" : ", ", known.name);
  }
  fail(file.where(), ": the pre-tokenizer tokenizer.ggml.pre = \"", name, "\" is not known; known are ", names);
}

/// tokenizer_config.json: the class that reads it, and the names of special tokens. A token of ordinary text is none,
/// whatever role the file gives it (as llama.cpp has it): its name would cut it out of every text.
json tokenizer_config(const Vocabulary& v, const GgufFile& file, const std::string& chat_template) {
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const struct {
    const char *gguf, *name;
  } named[] = {{"bos", "bos_token"}, {"eos", "eos_token"}, {"unknown", "unk_token"}, {"padding", "pad_token"}};
  for (const auto& [gguf, name] : named) {
    const int64_t id = named_id(file, v, gguf);
    if (id < 0) continue;
    const int32_t type = v.types[size_t(id)];
    if (!file.has("tokenizer.ggml.token_type") || is_special(type)) {
      config[name] = std::string(v.tokens[size_t(id)]);
      continue;
    }
    check(chat_template.find(name) == std::string::npos, file.where(), ": tokenizer.chat_template reads ", name,
          ", but tokenizer.ggml.", gguf, "_token_id ", id, " is a token of ordinary text (tokenizer.ggml.token_type ",
          type, "); it must be one of type 2, 3 or 4");
  }
  return config;
}

/// tokenizer.json made of the metadata.
json tokenizer_from_metadata(const Vocabulary& v, const GgufFile& file, std::string_view model) {
  json tokenizer = {{"version", "1.0"},         {"truncation", nullptr},
                    {"padding", nullptr},       {"added_tokens", added_tokens(v)},
                    {"normalizer", nullptr},    {"pre_tokenizer", nullptr},
                    {"post_processor", nullptr}};
  bool add_bos = true;
  if (model == "llama")
    fill_sentencepiece(tokenizer, v, file);
  else
    add_bos = fill_by_pre_name(tokenizer, v, file);
  add_bos = file.flag("tokenizer.ggml.add_bos_token", add_bos);
  const bool add_eos = file.flag("tokenizer.ggml.add_eos_token", false);

  json pattern = json::array(), specials = json::object();
  const auto add_special = [&](const char* which) {
    const int64_t id = named_id(file, v, which);
    check(id >= 0, file.where(), ": tokenizer.ggml.add_", which, "_token is set, but tokenizer.ggml.", which,
          "_token_id is missing");
    const std::string token(v.tokens[size_t(id)]);
    pattern.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    specials[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  };
  if (add_bos) add_special("bos");
  pattern.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (add_eos) add_special("eos");
  if (add_bos || add_eos)
    tokenizer["post_processor"] = {
        {"type", "TemplateProcessing"}, {"single", pattern}, {"pair", json::array()}, {"special_tokens", specials}};
  return tokenizer;
}

}  // namespace

TokenizerFiles gguf_tokenizer(const GgufFile& file) {
  TokenizerFiles out;
  out.where = file.where();
  if (!file.has("tokenizer.ggml.model")) return out;
  const std::string_view model = file.text("tokenizer.ggml.model");
  check(model == "gpt2" || model == "llama", file.where(), ": tokenizer.ggml.model must be gpt2 or llama, got \"",
        model, "\"");
  const Vocabulary vocabulary = read_vocabulary(file);
  out.chat_template = file.text("tokenizer.chat_template", "");
  json config = tokenizer_config(vocabulary, file, out.chat_template);
  try {
    out.tokenizer_json = file.has(kGgufHuggingFaceJson) ? std::string(file.text(kGgufHuggingFaceJson))
                                                        : tokenizer_from_metadata(vocabulary, file, model).dump();
    check_json(out.tokenizer_json, file.where() + ": " + kGgufHuggingFaceJson);
    if (!out.chat_template.empty()) config["chat_template"] = out.chat_template;
    out.tokenizer_config_json = config.dump(2);
  } catch (const json::exception& e) {
    fail(file.where(), ": the texts of the tokenizer must be UTF-8: ", e.what());
  }
  return out;
}

}  // namespace mantissa
