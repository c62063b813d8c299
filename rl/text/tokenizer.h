// Tokenizers read from tokenizer.json (Hugging Face; GGUF metadata arrives rewritten as such): byte-level BPE
// (GPT-2, Llama-3, Qwen2/3, DeepSeek, SmolLM) and SentencePiece-style BPE with byte fallback (Llama-2).
// Patterns run on PCRE2, NFC on utf8proc. Ids and text equal those of the `tokenizers` library. Chat
// templates by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nn/model.h"

namespace mantissa {

/// Immutable once made; every function may be called from several threads.
class Tokenizer {
 public:
  /// From a model's files. Errors name the file (`where`), the JSON path, the rule and the value.
  static std::unique_ptr<Tokenizer> from_json(const std::string& tokenizer_json, const std::string& where);
  virtual ~Tokenizer() = default;

  /// Ids of text; added tokens in it are recognised. `special`: with what the post-processor adds (BOS...).
  /// Ill-formed UTF-8 counts as U+FFFD. Time is O(n log n) in the length of a word, linear in the number of
  /// words.
  virtual std::vector<int32_t> encode(std::string_view text, bool special = false) const = 0;
  /// Text of ids; special tokens are kept unless `skip_special`. Invalid UTF-8 becomes U+FFFD. Ids that name
  /// no token (models pad their vocabulary, and sampling may draw such an id) give no text; a negative id
  /// throws.
  virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special = false) const = 0;
  virtual int64_t vocab_size() const = 0;  // ids are below it
  /// Id of a token by its exact content, -1 when there is none.
  virtual int32_t id_of(std::string_view token) const = 0;
};

struct ChatMessage {
  std::string role, content;  // role: system, user, assistant
};

/// Chat templates known by name; each writes what the models' own Jinja template writes without tools:
///   chatml               Yi, Hermes, Qwen bases: <|im_start|>role ... <|im_end|>
///   chatml_smollm2       + SmolLM2's default system message when the conversation has none
///   chatml_qwen2         + Qwen2's, chatml_qwen2_5 + Qwen2.5's, chatml_qwen2_5_math + Qwen2.5-Math's
///   qwen3                ChatML; thinking is cut from past answers
///   llama3               <|begin_of_text|>, headers, trimmed contents, <|eot_id|>
///   llama3_1             + the system turn with its dates (always "26 Jul 2024", so that runs do not depend
///   on the day) deepseek_v3          <｜User｜> ... <｜Assistant｜> deepseek_r1          + an open <think>;
///   thinking is cut from past answers plain                every content and a line feed
const std::vector<std::string>& chat_template_names();
/// The name for a model's own template: files.chat_template, else the one in tokenizer_config.json. Throws on
/// none and on one it does not know, naming data.chat_template as the option to set.
std::string detect_chat_template(const TokenizerFiles& files);
/// Text of a conversation, ending with the opening of the assistant's turn. It holds its own BOS where the
/// template has one: encode it with special = false.
std::string apply_chat_template(const std::string& name, const std::vector<ChatMessage>& messages);

}  // namespace mantissa
