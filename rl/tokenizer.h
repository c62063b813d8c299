// Tokenizers read from tokenizer.json (Hugging Face) or GGUF metadata: byte-level BPE (GPT-2, Llama-3, Qwen2/3, DeepSeek,
// SmolLM) and SentencePiece-style BPE with byte fallback (Llama-2). Patterns run on PCRE2, NFC on utf8proc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nn/model.h"

namespace mantissa {

class Tokenizer {
 public:
  /// From a model's files. Errors name the file, the JSON path, the rule and the value.
  static std::unique_ptr<Tokenizer> from_json(const std::string& tokenizer_json, const std::string& where);
  virtual ~Tokenizer() = default;

  /// Ids of text; added tokens in it are recognised. `special`: with what the post-processor adds (BOS...).
  virtual std::vector<int32_t> encode(std::string_view text, bool special = false) const = 0;
  /// Text of ids; special tokens are kept unless `skip_special`. Invalid UTF-8 becomes U+FFFD. Throws on an id out of range.
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special = false) const = 0;
  virtual int64_t vocab_size() const = 0;  // ids are below it
  /// Id of a token by its exact content, -1 when there is none.
  virtual int32_t id_of(std::string_view token) const = 0;
};

/// Chat templates known by name: "chatml", "llama3", "deepseek_r1", "plain". `detect` recognises the model's own Jinja text and
/// throws on one it does not know, naming data.chat_template as the option to set.
struct ChatMessage {
  std::string role, content;
};
std::string detect_chat_template(const TokenizerFiles& files);
/// Text of a conversation, ending with the opening of the assistant's turn.
std::string apply_chat_template(const std::string& name, const std::vector<ChatMessage>& messages);

}  // namespace mantissa
