// The special tokens with a role (bos_token ...) as a model's tokenizer files name them: what tokenizers here and the
// ids of an exported file both come from.
#pragma once

#include <string>
#include <vector>

#include "nn/formats/tokenizer_files.h"

namespace mantissa {

inline constexpr const char* kSpecialTokenRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                     "pad_token", "cls_token", "mask_token"};
struct SpecialToken {
  std::string role, content;
  std::string json;  // the file's value: content as a text, or an object with "content" and flags
};
/// The tokens that are named for those roles, in their order. Names come from tokenizer_config.json; where that has no
/// added_tokens_decoder, special_tokens_map.json stands above it. Null names none; a role that neither mentions has the
/// token that transformers' class of this tokenizer (tokenizer_class) has by default, where tokenizer.json has that
/// token. Error for what is malformed.
std::vector<SpecialToken> special_tokens(const TokenizerFiles& files);

}  // namespace mantissa
