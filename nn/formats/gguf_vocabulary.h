// tokenizer.json as the tokenizer.ggml.* metadata of a GGUF file: the way back of gguf_tokenizer.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/formats/tokenizer_files.h"

namespace mantissa {

struct GgufVocabulary {
  std::string model;  // "gpt2": byte-level BPE; "llama": SentencePiece BPE
  std::string pre;    // of gpt2; "default" where llama.cpp has no name for these patterns
  std::vector<std::string> tokens;
  std::vector<int32_t> types;       // GgufTokenType
  std::vector<std::string> merges;  // of gpt2
  std::vector<float> scores;        // of llama
  bool add_bos = false, add_eos = false;
  bool add_space_prefix = false;  // of llama
};

/// The vocabulary of a tokenizer.json, with unused tokens up to `rows` rows of the embedding. Throws Error where it is
/// no BPE, or holds ids beyond `rows`.
GgufVocabulary gguf_vocabulary(const TokenizerFiles& files, int64_t rows);

}  // namespace mantissa
