// tokenizer.json (format of the `tokenizers` library, version "1.0") as plain data.
#pragma once

#include <string>
#include <vector>

#include "nn/formats/tokenizer_config.h"
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

/// Fills `spec` from the text of tokenizer.json, and adds the tokens that tokenizer_config.json adds. Ids of added
/// tokens are those that the library gives them: the vocabulary's, else the next one counted from the vocabulary's
/// size, in the order of the file. Errors: "where: JSON path: rule: value".
void parse_tokenizer_json(const std::string& json, const std::string& where, const TokenizerConfig& config,
                          TokenizerSpec& spec);

}  // namespace mantissa
