// What is put around a problem: data.template, with data.system and the chat template.
//
//   none              nothing
//   chat              a chat template: data.chat_template by name, or the model's own, with data.system
//   r1, qwen_math     the prompts of the papers; r1_distill_qwen: what DeepSeek recommends for its distilled models
//   TEXT              a text of your own, with {problem} in it
//   FILE              one in a file
//
// A problem may also be a conversation, [{"role": "user", "content": "..."}, ...], which template chat alone takes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/formats/tokenizer_files.h"
#include "rl/data/data_config.h"
#include "rl/text/chat.h"
#include "rl/text/tokenizer.h"

namespace mantissa {

class PromptTemplate {
 public:
  /// `files`: the model's, read for template chat with chat_template auto. Throws Error where keys do not go together,
  /// where the text holds no {problem}, or where the chat template leaves data.system out.
  PromptTemplate(const DataConfig& config, const TokenizerFiles& files);

  std::string apply(const std::string& problem) const;
  /// Throws Error, beginning with `where`, under another template than chat, and where the conversation has a system
  /// message and data.system is set as well.
  std::string apply(const std::vector<ChatMessage>& conversation, const std::string& where) const;
  /// Whether the tokenizer adds its special tokens: the texts of chat and r1_distill_qwen hold their own.
  bool adds_special() const { return kind_ != "chat" && kind_ != "r1_distill_qwen"; }
  /// ChatTemplate::behind_answer of the template's chat form; empty where it has none.
  std::string behind_answer() const;
  /// ChatTemplate::markers of the same.
  std::vector<std::string> markers() const { return chat_.markers(); }

 private:
  const std::string kind_, system_;
  ChatTemplate chat_;
  std::string text_;  // of your own
};

/// Gives notice of a chat form by name, be it that of data.template, whose markers are no tokens of this tokenizer:
/// they are spelled out as text. Whoever renders prompts calls it once.
void note_unknown_markers(const DataConfig& config, const TokenizerFiles& files, const Tokenizer& tokenizer);

/// The token that ends a response to imitate (sft), one of `stops`: what the chat template writes behind an answer;
/// else the eos_token of tokenizer_config.json; else the first. A config.json may name several, in another order.
int32_t response_end(const DataConfig& config, const TokenizerFiles& files, const Tokenizer& tokenizer,
                     const std::vector<int32_t>& stops);

/// Takes the variables and the system message out of `config` that PromptTemplate refuses since nothing reads them, as
/// earlier versions did not, and returns each as "key: value".
std::vector<std::string> take_out_unread(DataConfig& config, const TokenizerFiles& files);

}  // namespace mantissa
