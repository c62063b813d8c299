// The added tokens of a tokenizer, those of tokenizer.json and those that its other files add, with their ids: what
// tokenizers here and exported files both have.
#pragma once

#include <string>
#include <vector>

#include "core/string_map.h"
#include "nn/formats/tokenizer_config.h"

namespace mantissa {

class AddedTokens {
 public:
  /// `vocab`: ids of model.vocab; it must outlive this.
  explicit AddedTokens(const StringMap<int32_t>& vocab) : vocab_(vocab) {}

  /// As the `tokenizers` library adds a token: an empty one is left out, a text that is known keeps its id and takes
  /// the new flags, and another gets the next id behind the size of the vocabulary, whatever id it says (-1: none).
  /// Error, with `where`, where that would give two tokens one id, or the id it says is another's: no reading is right.
  void add(AddedToken token, const std::string& where);
  /// After the tokens of tokenizer.json, those of the other files: with an id they replace the flags of one that is
  /// there, without one they are added where tokenizer.json has none.
  void add_configured(const TokenizerConfig& config);
  /// In the order in which they were added.
  const std::vector<AddedToken>& list() const { return list_; }

 private:
  const StringMap<int32_t>& vocab_;
  std::vector<AddedToken> list_;
  size_t beyond_ = 0;  // of them those that the vocabulary does not hold
};

}  // namespace mantissa
