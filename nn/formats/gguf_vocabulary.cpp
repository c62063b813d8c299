#include "nn/formats/gguf_vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/error.h"
#include "nn/formats/added_tokens.h"
#include "nn/formats/gguf_tokenizer.h"

namespace mantissa {
namespace {

using nlohmann::json;

/// The stages of a pre-tokenizer or normalizer, "Sequence" flattened.
void flatten(const json& stage, std::vector<json>& out) {
  if (stage.is_null()) return;
  if (stage.at("type") != "Sequence") {
    out.push_back(stage);
    return;
  }
  const char* parts = stage.contains("pretokenizers") ? "pretokenizers" : "normalizers";
  for (const json& part : stage.at(parts)) flatten(part, out);
}

/// The regular expressions that text is cut by, and whether they are all there is to it.
bool split_patterns(const json& pre_tokenizer, std::vector<std::string>& patterns) {
  std::vector<json> stages;
  flatten(pre_tokenizer, stages);
  for (const json& stage : stages) {
    const std::string type = stage.at("type");
    if (type == "Split" && stage.at("pattern").contains("Regex") && stage.value("behavior", "") == "Isolated") {
      patterns.push_back(stage["pattern"]["Regex"]);
    } else if (type == "Digits" && stage.value("individual_digits", false)) {
      patterns.push_back(R"(\p{N})");
    } else if (type == "ByteLevel" && !stage.value("add_prefix_space", true)) {
      if (stage.value("use_regex", true)) patterns.push_back(kGgufGpt2Pattern);
    } else {
      return false;
    }
  }
  return true;
}

/// llama.cpp's name of what cuts a byte-level tokenizer's text.
std::string pre_name(const json& tokenizer) {
  std::vector<std::string> patterns;
  std::vector<json> normalizers;
  if (!split_patterns(tokenizer.at("pre_tokenizer"), patterns)) return "default";
  if (tokenizer.contains("normalizer")) flatten(tokenizer["normalizer"], normalizers);
  const bool nfc = normalizers.size() == 1 && normalizers[0].at("type") == "NFC";
  if (!normalizers.empty() && !nfc) return "default";
  const bool ignore_merges = tokenizer.at("model").value("ignore_merges", false);
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers())
    if (known.patterns == patterns && known.nfc == nfc && known.ignore_merges == ignore_merges) return known.name;
  return "default";
}

/// "a b" of a merge in either spelling of tokenizer.json.
std::pair<std::string, std::string> halves(const json& merge) {
  if (merge.is_array()) return {merge.at(0), merge.at(1)};
  const std::string text = merge;
  const size_t space = text.find(' ');
  return {text.substr(0, space), text.substr(std::min(text.size(), space + 1))};
}

/// Ids that the templates of a post-processor put before and behind the text.
void read_added_around(const json& processor, GgufVocabulary& v) {
  if (processor.is_null()) return;
  if (processor.at("type") == "Sequence")
    for (const json& part : processor.at("processors")) read_added_around(part, v);
  if (processor.at("type") != "TemplateProcessing") return;
  std::vector<int32_t>* side = &v.before;
  for (const json& item : processor.at("single")) {
    if (item.contains("Sequence")) side = &v.after;
    if (!item.contains("SpecialToken")) continue;
    const std::string token = item["SpecialToken"].at("id");
    for (const int32_t id : processor.at("special_tokens").at(token).at("ids")) side->push_back(id);
  }
}

/// Scores that order the merges of a SentencePiece vocabulary as the file does: the earlier, the higher.
std::vector<float> scores_of(const json& merges, const GgufVocabulary& v) {
  std::unordered_map<std::string, float> best;
  float rank = 0;
  for (const json& merge : merges) {
    const auto [left, right] = halves(merge);
    best.emplace(left + right, -rank);
    rank += 1;
  }
  std::vector<float> scores;
  for (const std::string& token : v.tokens) {
    const auto it = best.find(token);
    scores.push_back(it == best.end() ? 0.0f : it->second);
  }
  return scores;
}

bool is_byte(const std::string& token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with(">");
}

/// The added tokens, also those that stand in other files than tokenizer.json alone: the text of `v` has these, too.
std::vector<AddedToken> read_added_tokens(GgufVocabulary& v, json& tokenizer, const TokenizerFiles& files) {
  StringMap<int32_t> vocab;
  for (const auto& [token, id] : tokenizer.at("model").at("vocab").items()) vocab.emplace(token, id.get<int32_t>());
  AddedTokens added(vocab);
  for (const json& token : tokenizer.value("added_tokens", json::array())) {
    const bool special = token.value("special", false);
    added.add({.content = token.at("content"),
               .id = token.at("id"),
               .special = special,
               .normalized = token.value("normalized", !special),
               .single_word = token.value("single_word", false),
               .lstrip = token.value("lstrip", false),
               .rstrip = token.value("rstrip", false)},
              files.where + ": tokenizer.json: added_tokens");
  }
  const std::vector<AddedToken> own = added.list();
  added.add_configured(read_tokenizer_config(files));
  v.tokenizer_json = files.tokenizer_json;
  if (added.list() == own) return own;
  tokenizer["added_tokens"] = json::array();
  for (const AddedToken& token : added.list())
    tokenizer["added_tokens"].push_back({{"id", token.id},
                                         {"content", token.content},
                                         {"single_word", token.single_word},
                                         {"lstrip", token.lstrip},
                                         {"rstrip", token.rstrip},
                                         {"normalized", token.normalized},
                                         {"special", token.special}});
  v.tokenizer_json = tokenizer.dump();
  return added.list();
}

void fill_tokens(GgufVocabulary& v, const json& model, const std::vector<AddedToken>& added, int64_t rows,
                 const std::string& where) {
  v.tokens.resize(size_t(rows));
  v.types.assign(size_t(rows), int32_t(GgufTokenType::kUnused));
  const auto put = [&](const std::string& token, int64_t id, GgufTokenType type) {
    check(id >= 0 && id < rows, where, ": token ", id, " (", token, ") has no row in an embedding of ", rows);
    v.tokens[size_t(id)] = token;
    v.types[size_t(id)] = int32_t(type);
  };
  const bool sentencepiece = v.model == "llama";
  for (const auto& [token, id] : model.at("vocab").items())
    put(token, id, sentencepiece && is_byte(token) ? GgufTokenType::kByte : GgufTokenType::kNormal);
  const json unknown = model.value("unk_token", json());
  for (const AddedToken& token : added)
    put(token.content, token.id,
        sentencepiece && token.content == unknown ? GgufTokenType::kUnknown
        : token.special                           ? GgufTokenType::kControl
                                                  : GgufTokenType::kUserDefined);
  for (size_t i = 0; i < v.tokens.size(); ++i)
    if (v.types[i] == int32_t(GgufTokenType::kUnused)) v.tokens[i] = str("[PAD", i, "]");
}

}  // namespace

int32_t GgufVocabulary::id_of(std::string_view token) const {
  const auto it = std::find(tokens.begin(), tokens.end(), token);
  if (it == tokens.end() || types[size_t(it - tokens.begin())] == int32_t(GgufTokenType::kUnused)) return -1;
  return int32_t(it - tokens.begin());
}

GgufVocabulary gguf_vocabulary(const TokenizerFiles& files, int64_t rows) {
  GgufVocabulary v;
  try {
    json tokenizer = json::parse(files.tokenizer_json);
    const json& model = tokenizer.at("model");
    check(model.at("type") == "BPE", files.where, ": only BPE tokenizers have a form in GGUF, got ",
          model.at("type").dump());
    v.model = model.value("byte_fallback", false) ? "llama" : "gpt2";
    fill_tokens(v, model, read_added_tokens(v, tokenizer, files), rows, files.where);
    if (v.model == "llama") {
      v.scores = scores_of(model.at("merges"), v);
      std::vector<json> normalizers;
      flatten(tokenizer.value("normalizer", json()), normalizers);
      v.add_space_prefix =
          std::any_of(normalizers.begin(), normalizers.end(), [](const json& n) { return n.at("type") == "Prepend"; });
    } else {
      v.pre = pre_name(tokenizer);
      for (const json& merge : model.at("merges")) {
        const auto [left, right] = halves(merge);
        v.merges.push_back(left + " " + right);
      }
    }
    read_added_around(tokenizer.value("post_processor", json()), v);
  } catch (const json::exception& e) {
    fail(files.where, ": tokenizer.json: ", e.what());
  }
  return v;
}

}  // namespace mantissa
