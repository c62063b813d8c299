// tokenizer_config.json as the tokenizers of transformers read it, with special_tokens_map.json and added_tokens.json
// of older models: the special tokens by name and the tokens that are added to those of tokenizer.json.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "nn/formats/tokenizer_files.h"

namespace mantissa {

/// A token that is recognised in text as it stands. `normalized`: in the text that the normalizer gives.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false, normalized = false, single_word = false, lstrip = false, rstrip = false;
  bool operator==(const AddedToken&) const = default;
};

struct TokenizerConfig {
  /// bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token, then a model's own names: those that
  /// are given, in this order.
  std::vector<std::pair<std::string, std::string>> named;
  /// Tokens to add, in the order in which transformers adds them; those with an id first (ids ascending), then those
  /// that are named only (id -1). Many are in tokenizer.json already; of two with the same content the flags of the
  /// later one hold.
  std::vector<AddedToken> added;
  /// Of added_tokens.json, before all others. Where tokenizer.json has a token of the same id, that one stands.
  std::vector<AddedToken> old;
  std::string where;  // TokenizerFiles::where, for messages
};

/// Error with the file, key and rule for what is malformed; a file that is missing gives nothing.
TokenizerConfig read_tokenizer_config(const TokenizerFiles& files);

/// Where tokenizer_config.json asks a Llama tokenizer for other blanks before a text than tokenizer.json puts there: a
/// sentence for the user, since tokenizer.json holds here, while transformers 5 goes by the other. Else "".
std::string prefix_space_notice(const TokenizerFiles& files);

}  // namespace mantissa
