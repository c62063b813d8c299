// Tokenizers read from tokenizer.json (Hugging Face; GGUF metadata arrives rewritten as such): byte-level BPE (GPT-2,
// Llama-3, Qwen2/3, DeepSeek, SmolLM) and SentencePiece-style BPE with byte fallback (Llama-2). Patterns run on
// Oniguruma, NFC on utf8proc. Ids and text equal those of the `tokenizers` library.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nn/formats/tokenizer_files.h"

namespace mantissa {

/// Immutable once made; every function may be called from several threads.
class Tokenizer {
 public:
  /// From a model's files: tokenizer.json and what tokenizer_config.json adds. Errors name the file, the JSON path, the
  /// rule and the value.
  static std::unique_ptr<Tokenizer> from_files(const TokenizerFiles& files);
  /// From tokenizer.json alone; `where` names it in messages.
  static std::unique_ptr<Tokenizer> from_json(const std::string& tokenizer_json, const std::string& where);
  virtual ~Tokenizer() = default;

  /// Ids of text; added tokens in it are recognised. `special`: with what the post-processor adds (BOS...). Ill-formed
  /// UTF-8 counts as U+FFFD. Time is O(n log n) in the length of a word, linear in the number of words.
  virtual std::vector<int32_t> encode(std::string_view text, bool special = false) const = 0;
  /// Text of ids; special tokens are kept unless `skip_special`. Invalid UTF-8 becomes U+FFFD. Ids that name no token
  /// (models pad their vocabulary, and sampling may draw such an id) give no text; a negative id throws.
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special = false) const = 0;
  virtual int64_t vocab_size() const = 0;  // ids are below it
  /// Id of a token by its exact content, -1 when there is none.
  virtual int32_t id_of(std::string_view token) const = 0;
};

}  // namespace mantissa
