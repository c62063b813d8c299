#include "nn/formats/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "nn/formats/special_tokens.h"

namespace mantissa {

namespace {

using json = nlohmann::ordered_json;  // tokens are added in the order of the file

json parse(const std::string& text, const std::string& where) {
  if (text.empty()) return json::object();
  const json document = json::parse(text, nullptr, false);
  check(document.is_object(), where, ": must be a JSON object");
  const std::string twice = repeated_key(text);
  check(twice.empty(), where, ": key \"", twice, "\" appears twice");
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

bool given(const json& config, const char* key) {
  return config.contains(key) && !config[key].is_null();
}

/// The two keys for tokens without a role: a filled extra_special_tokens that is a list is all, beside one that names
/// its tokens additional_special_tokens counts too, and where it is empty or absent they are all. What old models say
/// in a file of their own comes later and does not replace a list that is there.
struct Unnamed {
  json named = json::object(), list = json::array();
  std::string list_key = "extra_special_tokens";

  Unnamed(const json& config, const json& old_map, const std::string& where) {
    const char *kExtra = "extra_special_tokens", *kAdditional = "additional_special_tokens";
    bool closed = config.contains(kExtra);
    const json extra = given(config, kExtra) ? config[kExtra] : json();
    if (extra.is_object()) named = extra;
    if (extra.is_object()) closed = false;
    if (extra.is_array()) list = extra;
    if (config.contains(kAdditional) && (extra.empty() || !closed)) {
      closed = extra.empty();
      take(config, kAdditional);
    }
    if (given(old_map, kExtra) && old_map[kExtra].is_array()) {
      for (const json& token : old_map[kExtra]) list.push_back(token);
    } else if (!closed && old_map.contains(kAdditional)) {
      take(old_map, kAdditional);
    }
    check(list.is_array() && (extra.is_null() || extra.is_array() || extra.is_object()), where, ": ", list_key,
          " must be a list or an object");
  }
  void take(const json& from, const char* key) {
    list = from[key].is_null() ? json::array() : from[key];
    list_key = key;
  }
};

struct Special {
  std::string name;  // empty: of a list
  AddedToken token;
  bool object = false;  // written with its flags, not as a text
};

/// Special tokens, in the order in which they were named first; a name that comes again gets the later token.
class Specials {
 public:
  void set(const std::string& name, const json& value, const std::string& where) {
    Special special{name, token_of(value, true, where + ": " + name), value.is_object()};
    const auto found = std::find_if(list.begin(), list.end(), [&](const Special& s) { return s.name == name; });
    if (found == list.end())
      list.push_back(std::move(special));
    else
      *found = std::move(special);
  }
  std::vector<Special> list;
};

bool is_named(const TokenizerConfig& config, const std::string& content) {
  return std::any_of(config.named.begin(), config.named.end(),
                     [&](const auto& named) { return named.second == content; });
}

/// added_tokens.json of old models: {"<x>": id}.
std::vector<AddedToken> old_added_tokens(const TokenizerFiles& files, const std::vector<Special>& specials) {
  const std::string where = files.where + ": added_tokens.json";
  std::map<int64_t, AddedToken> tokens;
  const json document = parse(files.added_tokens_json, where);
  for (const auto& [content, id] : document.items()) {
    check(id.is_number_unsigned() && id <= INT32_MAX, where, ": \"", content, "\" must have an id from 0 to 2^31 - 1");
    AddedToken token;
    token.content = content;
    token.special = std::any_of(specials.begin(), specials.end(),
                                [&](const Special& special) { return special.token.content == token.content; });
    token.normalized = !token.special;
    token.id = id.get<int32_t>();
    tokens.emplace(id.get<int64_t>(), std::move(token));
  }
  std::vector<AddedToken> list;
  for (auto& [id, token] : tokens) list.push_back(std::move(token));
  return list;
}

enum class Prefix { kNone, kText, kEverySection };  // where a blank goes

/// What a normalizer and a pre-tokenizer put before a text, or before each section of it between special tokens.
Prefix prefix_of(const json& stage) {
  if (!stage.is_object()) return Prefix::kNone;
  const std::string type = stage.value("type", "");
  Prefix prefix = type == "Prepend" ? Prefix::kEverySection : Prefix::kNone;
  if (type == "Metaspace") {
    const std::string scheme =
        stage.value("prepend_scheme", stage.value("add_prefix_space", true) ? "always" : "never");
    prefix = scheme == "always" ? Prefix::kEverySection : scheme == "first" ? Prefix::kText : Prefix::kNone;
  }
  for (const char* parts : {"normalizers", "pretokenizers"})
    if (stage.contains(parts))
      for (const json& part : stage[parts]) prefix = std::max(prefix, prefix_of(part));
  return prefix;
}

}  // namespace

std::string prefix_space_notice(const TokenizerFiles& files) {
  const json config = json::parse(files.tokenizer_config_json, nullptr, false);
  if (!config.is_object()) return "";
  const auto is = [&](const char* key, const json& value) { return config.contains(key) && config[key] == value; };
  const bool llama = is("tokenizer_class", "LlamaTokenizer") || is("tokenizer_class", "LlamaTokenizerFast");
  const bool none = is("add_prefix_space", false), once = is("legacy", false);
  if (!llama || (!none && !once)) return "";
  const json tokenizer = json::parse(files.tokenizer_json, nullptr, false);
  if (!tokenizer.is_object()) return "";
  const Prefix prefix =
      std::max(prefix_of(tokenizer.value("normalizer", json())), prefix_of(tokenizer.value("pre_tokenizer", json())));
  if (prefix == Prefix::kNone || (!none && prefix == Prefix::kText)) return "";
  return str(files.where, ": tokenizer_config.json: ", none ? "add_prefix_space" : "legacy",
             ": false has no effect: tokenizer.json puts a blank before ",
             prefix == Prefix::kText ? "a text" : "each section of a text",
             ", and that holds here (transformers 5 goes by tokenizer_config.json)");
}

TokenizerConfig read_tokenizer_config(const TokenizerFiles& files) {
  const std::string where = files.where + ": tokenizer_config.json";
  const json config = parse(files.tokenizer_config_json, where);
  const bool old = !given(config, "added_tokens_decoder");
  const json old_map =
      old ? parse(files.special_tokens_map_json, files.where + ": special_tokens_map.json") : json::object();
  check(!given(config, "split_special_tokens") || config["split_special_tokens"] == false, where,
        ": split_special_tokens other than false is not supported");

  const Unnamed unnamed(config, old_map, where);
  const auto is_standard = [](const std::string& key) {
    return std::find(std::begin(kSpecialTokenRoles), std::end(kSpecialTokenRoles), key) != std::end(kSpecialTokenRoles);
  };
  Specials specials;
  for (const SpecialToken& token : special_tokens(files)) specials.set(token.role, json::parse(token.json), where);
  for (const json* source : {&config, &old_map})  // those written as objects come before those written as texts
    for (const auto& [key, value] : source->items())
      if (key.ends_with("_token") && !is_standard(key) && value.is_object() && is_token(value))
        specials.set(key, value, where);
  for (const json* source : {&config, &old_map})
    for (const auto& [key, value] : source->items())
      if (key.ends_with("_token") && !is_standard(key) && value.is_string()) specials.set(key, value, where);
  for (const auto& [key, value] : unnamed.named.items()) specials.set(key, value, where + ": extra_special_tokens");

  TokenizerConfig out;
  out.where = files.where;
  for (const Special& special : specials.list) out.named.emplace_back(special.name, special.token.content);
  for (size_t i = 0; i < unnamed.list.size(); ++i) {
    const json& value = unnamed.list[i];
    AddedToken token = token_of(value, value.is_string(), str(where, ": ", unnamed.list_key, '[', i, ']'));
    token.special = token.special || is_named(out, token.content);
    specials.list.push_back({"", std::move(token), value.is_object()});
  }
  if (old) {
    out.old = old_added_tokens(files, specials.list);
  } else {
    for (auto& [id, token] : tokens_with_ids(config["added_tokens_decoder"], where + ": added_tokens_decoder"))
      out.added.push_back(std::move(token));
  }
  std::vector<AddedToken>& listed = old ? out.old : out.added;
  const auto count = int64_t(listed.size());
  for (size_t i = 0; i < specials.list.size(); ++i) {
    const Special& special = specials.list[i];
    const auto same = [&](const AddedToken& other) { return other.content == special.token.content; };
    const auto found = std::find_if(listed.begin(), listed.begin() + count, same);
    if (found != listed.begin() + count) {
      found->special = found->special || !special.name.empty();
      continue;
    }
    // A text and an object count as two tokens, and so do objects of other flags: the later one's hold.
    const bool again = std::any_of(
        specials.list.begin(), specials.list.begin() + int64_t(i),
        [&](const Special& before) { return before.object == special.object && before.token == special.token; });
    if (!again) out.added.push_back(special.token);
  }
  return out;
}

}  // namespace mantissa
