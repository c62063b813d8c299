// tokenizer.json as the tokenizer.ggml.* metadata of a GGUF file: the way back of gguf_tokenizer.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nn/formats/tokenizer_files.h"

namespace mantissa {

struct GgufVocabulary {
  std::string model;  // "gpt2": byte-level BPE; "llama": SentencePiece BPE
  std::string pre;    // of gpt2; "default" where llama.cpp has no name for these patterns
  std::vector<std::string> tokens;
  std::vector<int32_t> types;          // GgufTokenType
  std::vector<std::string> merges;     // of gpt2
  std::vector<float> scores;           // of llama
  std::vector<int32_t> before, after;  // what the post-processor puts around a text
  bool add_space_prefix = false;       // of llama
  std::string tokenizer_json;          // with the added tokens of the other files

  /// Id of a token, -1 where there is none.
  int32_t id_of(std::string_view token) const;
};

/// The vocabulary of a tokenizer.json with the tokens that the other files add (added_tokens.h), and unused tokens up
/// to `rows` rows of the embedding. Throws Error where it is no BPE, or holds ids beyond `rows`.
GgufVocabulary gguf_vocabulary(const TokenizerFiles& files, int64_t rows);

}  // namespace mantissa
