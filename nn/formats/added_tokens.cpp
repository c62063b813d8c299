#include "nn/formats/added_tokens.h"

#include <algorithm>

#include "core/error.h"

namespace mantissa {

void AddedTokens::add(AddedToken token, const std::string& where) {
  if (token.content.empty()) return;
  const auto known =
      std::find_if(list_.begin(), list_.end(), [&](const AddedToken& other) { return other.content == token.content; });
  if (known != list_.end()) {
    token.id = known->id;
    *known = std::move(token);
    return;
  }
  const int32_t given = token.id;
  if (const auto own = vocab_.find(token.content); own != vocab_.end()) {
    token.id = own->second;
  } else {
    token.id = int32_t(vocab_.size() + beyond_++);
    for (const auto& [entry, id] : vocab_)
      check(id != token.id && id != given, where, ": the added token \"", token.content, "\" with id ",
            id == given ? given : token.id, " conflicts with \"", entry, "\" of model.vocab, which has this id");
  }
  list_.push_back(std::move(token));
}

void AddedTokens::add_configured(const TokenizerConfig& config) {
  const std::vector<AddedToken> own = list_;
  const auto has = [&](const auto& same) { return std::any_of(own.begin(), own.end(), same); };
  for (const AddedToken& token : config.old)
    if (!has([&](const AddedToken& other) { return other.id == token.id; }))
      add(token, config.where + ": added_tokens.json");
  for (const AddedToken& token : config.added)
    if (token.id >= 0 || !has([&](const AddedToken& other) { return other.content == token.content; }))
      add(token, config.where + ": tokenizer_config.json");
}

}  // namespace mantissa
