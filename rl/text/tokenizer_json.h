// tokenizer.json (format of the `tokenizers` library, version "1.0") as plain data.
#pragma once

#include <string>
#include <vector>

#include "rl/text/bpe.h"
#include "rl/text/stages.h"

namespace mantissa {

/// Everything tokenizer.json says.
struct TokenizerSpec {
  std::vector<AddedToken> added;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::vector<int32_t> before, after;  // what the post-processor puts around the text
  std::vector<DecodeStep> decoders;
  bool has_decoder = false;  // without one, tokens are joined with spaces
  Bpe bpe;
};

/// Fills `spec` from the text of tokenizer.json. Errors: "where: JSON path: rule: value".
void parse_tokenizer_json(const std::string& json, const std::string& where, TokenizerSpec& spec);

}  // namespace mantissa
