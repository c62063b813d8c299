#include "rl/text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace mantissa {

namespace {

using nlohmann::json;

constexpr const char* kStandard[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                     "pad_token", "cls_token", "mask_token"};

json parse(const std::string& text, const std::string& where) {
  if (text.empty()) return json::object();
  const json document = json::parse(text, nullptr, false);
  check(document.is_object(), where, ": must be a JSON object");
  return document;
}

/// "<s>" or {"content": "<s>", "lstrip": false, ...}.
AddedToken token_of(const json& value, bool special, const std::string& where) {
  AddedToken token;
  token.special = special;
  if (value.is_string()) {
    token.content = value.get<std::string>();
    return token;
  }
  const bool named = value.is_object() && value.contains("content") && value["content"].is_string();
  check(named, where, ": must be a text or an object with \"content\"");
  token.content = value["content"].get<std::string>();
  const auto flag = [&](const char* key, bool otherwise) {
    const auto it = value.find(key);
    if (it == value.end() || it->is_null()) return otherwise;
    check(it->is_boolean(), where, ".", key, ": must be true or false");
    return it->get<bool>();
  };
  token.special = flag("special", false) || special;
  token.normalized = flag("normalized", !token.special);
  token.single_word = flag("single_word", false);
  token.lstrip = flag("lstrip", false);
  token.rstrip = flag("rstrip", false);
  return token;
}

std::map<int64_t, AddedToken> tokens_with_ids(const json& decoder, const std::string& where) {
  check(decoder.is_object(), where, ": must be an object");
  std::map<int64_t, AddedToken> tokens;
  for (const auto& [key, value] : decoder.items()) {
    int64_t id = -1;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    check(read.ec == std::errc() && read.ptr == key.data() + key.size() && id >= 0 && id <= INT32_MAX, where,
          ": a key must be an id from 0 to 2^31 - 1: got \"", key, '"');
    AddedToken token = token_of(value, false, str(where, '.', key));
    token.id = int32_t(id);
    tokens.emplace(id, std::move(token));
  }
  return tokens;
}

bool is_token(const json& value) {
  return value.is_string() || (value.is_object() && value.contains("content"));
}

}  // namespace

TokenizerConfig read_tokenizer_config(const TokenizerFiles& files) {
  const std::string where = files.where + ": tokenizer_config.json";
  json config = parse(files.tokenizer_config_json, where);
  const auto present = [&](const char* key) { return config.contains(key) && !config[key].is_null(); };
  TokenizerConfig out;
  if (present("added_tokens_decoder")) {
    for (auto& [id, token] : tokens_with_ids(config["added_tokens_decoder"], where + ": added_tokens_decoder"))
      out.added.push_back(std::move(token));
  } else {  // what older models say in a file of its own comes first
    config.update(parse(files.special_tokens_map_json, files.where + ": special_tokens_map.json"));
  }

  std::vector<AddedToken> specials;
  const auto name = [&](const std::string& key, const json& value) {
    specials.push_back(token_of(value, true, where + ": " + key));
    out.named.emplace_back(key, specials.back().content);
  };
  for (const char* key : kStandard)
    if (present(key)) name(key, config[key]);
  for (const auto& [key, value] : config.items())
    if (key.ends_with("_token") && is_token(value) &&
        std::find(std::begin(kStandard), std::end(kStandard), key) == std::end(kStandard))
      name(key, value);
  const char* extra = present("extra_special_tokens") && !config["extra_special_tokens"].empty()
                          ? "extra_special_tokens"
                          : "additional_special_tokens";
  if (present(extra)) {
    const json& list = config[extra];
    check(list.is_array() || list.is_object(), where, ": ", extra, " must be a list or an object");
    for (const auto& [key, value] : list.items()) {
      if (list.is_object())
        name(key, value);
      else
        specials.push_back(token_of(value, true, str(where, ": ", extra, '[', key, ']')));
    }
  }
  for (AddedToken& token : specials) {
    const auto same = [&](const AddedToken& other) { return other.content == token.content; };
    const auto found = std::find_if(out.added.begin(), out.added.end(), same);
    if (found == out.added.end())
      out.added.push_back(std::move(token));
    else
      found->special = true;
  }
  return out;
}

}  // namespace mantissa
