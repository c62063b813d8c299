// The tokenizer of a GGUF file as tokenizer.json text, so that there is one tokenizer format behind the loaders.
#pragma once

#include "nn/formats/gguf_file.h"
#include "nn/formats/tokenizer_files.h"

namespace mantissa {

/// tokenizer.ggml.token_type
enum class GgufTokenType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

/// What tokenizer.ggml.pre stands for: text is cut by each pattern in turn.
struct GgufPreTokenizer {
  const char* name;
  std::vector<std::string> patterns;
  bool nfc = false;
  bool ignore_merges = false;  // a piece that is a token needs no merges
  bool add_bos = false;        // unless tokenizer.ggml.add_bos_token says otherwise
};
const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers();
/// The pattern of GPT-2, which the ByteLevel stage of a tokenizer.json stands for.
inline constexpr const char* kGgufGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
/// The key under which a file may hold a whole tokenizer.json, which then stands.
inline constexpr const char* kGgufHuggingFaceJson = "tokenizer.huggingface.json";

/// tokenizer.json, tokenizer_config.json and chat template equivalent to the tokenizer.ggml.* metadata: byte-level BPE
/// (model "gpt2", pattern by tokenizer.ggml.pre) and SentencePiece BPE (model "llama", merges rebuilt from the scores).
/// A token of ordinary text (tokenizer.ggml.token_type) is no special token, whatever role the file gives it.
/// Throws on a model or pre-tokenizer it does not know. A file without tokenizer gives empty texts. A tokenizer.json in
/// the file itself (kGgufHuggingFaceJson) is taken as it is.
TokenizerFiles gguf_tokenizer(const GgufFile& file);

}  // namespace mantissa
