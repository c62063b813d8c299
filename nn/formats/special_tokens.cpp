#include "nn/formats/special_tokens.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace mantissa {
namespace {

using nlohmann::json;

json object_of(const std::string& text, const std::string& where) {
  if (text.empty()) return json::object();
  json document = json::parse(text, nullptr, false);
  check(document.is_object(), where, ": must be a JSON object");
  return document;
}

/// What transformers' class of a tokenizer has where the files name nothing.
constexpr struct {
  const char *tokenizer_class, *role, *content;
} kDefaults[] = {
    {"LlamaTokenizer", "bos_token", "<s>"},           {"LlamaTokenizer", "eos_token", "</s>"},
    {"LlamaTokenizer", "unk_token", "<unk>"},         {"CodeLlamaTokenizer", "bos_token", "<s>"},
    {"CodeLlamaTokenizer", "eos_token", "</s>"},      {"CodeLlamaTokenizer", "unk_token", "<unk>"},
    {"Qwen2Tokenizer", "eos_token", "<|endoftext|>"}, {"Qwen2Tokenizer", "unk_token", "<|endoftext|>"},
    {"Qwen2Tokenizer", "pad_token", "<|endoftext|>"}, {"GPT2Tokenizer", "bos_token", "<|endoftext|>"},
    {"GPT2Tokenizer", "eos_token", "<|endoftext|>"},  {"GPT2Tokenizer", "unk_token", "<|endoftext|>"},
};

/// Whether a tokenizer.json has a token, in its vocabulary or among those added.
bool has_token(const json& tokenizer, const char* content) {
  if (!tokenizer.is_object()) return false;
  const auto model = tokenizer.find("model"), added = tokenizer.find("added_tokens");
  if (model != tokenizer.end() && model->is_object() && model->contains("vocab") && (*model)["vocab"].contains(content))
    return true;
  return added != tokenizer.end() && std::any_of(added->begin(), added->end(), [&](const json& token) {
           return token.is_object() && token.contains("content") && token["content"] == content;
         });
}

/// Adds to `config` the defaults of its class for the roles that it is silent about, of tokens that are there.
void add_class_defaults(json& config, const std::string& tokenizer_json) {
  const json& name = config["tokenizer_class"];
  std::string tokenizer_class = name.is_string() ? name.get<std::string>() : "";
  if (tokenizer_class.ends_with("Fast")) tokenizer_class.resize(tokenizer_class.size() - 4);
  json tokenizer;  // read where a default needs it
  for (const auto& row : kDefaults) {
    if (row.tokenizer_class != tokenizer_class || config.contains(row.role)) continue;
    if (tokenizer.is_null()) tokenizer = json::parse(tokenizer_json, nullptr, false);
    if (has_token(tokenizer, row.content)) config[row.role] = row.content;
  }
}

}  // namespace

std::vector<SpecialToken> special_tokens(const TokenizerFiles& files) {
  const std::string where = files.where + ": tokenizer_config.json";
  json config = object_of(files.tokenizer_config_json, where);
  if (config["added_tokens_decoder"].is_null())
    config.update(object_of(files.special_tokens_map_json, files.where + ": special_tokens_map.json"));
  add_class_defaults(config, files.tokenizer_json);
  std::vector<SpecialToken> tokens;
  for (const char* role : kSpecialTokenRoles) {
    const json& value = config[role];
    if (value.is_null()) continue;
    const json content = value.is_object() ? value.value("content", json()) : value;
    check(content.is_string(), where, ": ", role, ": must be a text or an object with \"content\"");
    tokens.push_back({role, content, value.dump()});
  }
  return tokens;
}

}  // namespace mantissa
