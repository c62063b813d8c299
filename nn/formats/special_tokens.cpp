#include "nn/formats/special_tokens.h"

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

}  // namespace

std::vector<SpecialToken> special_tokens(const TokenizerFiles& files) {
  const std::string where = files.where + ": tokenizer_config.json";
  json config = object_of(files.tokenizer_config_json, where);
  if (config["added_tokens_decoder"].is_null())
    config.update(object_of(files.special_tokens_map_json, files.where + ": special_tokens_map.json"));
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
