// Chat templates: a conversation as the text that a model was trained to continue.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/formats/tokenizer_files.h"
#include "rl/text/jinja/template.h"

namespace mantissa {

struct ChatMessage {
  std::string role, content;  // role: system, user, assistant
};

/// Chat templates known by name; each writes what the models' own template writes without tools:
///
///   chatml               Yi, Hermes, Qwen bases: <|im_start|>role ... <|im_end|>
///   chatml_smollm2       + SmolLM2's default system message when the conversation has none
///   chatml_qwen2         + Qwen2's
///   chatml_qwen2_5       + Qwen2.5's
///   chatml_qwen2_5_math  + Qwen2.5-Math's
///   qwen3                ChatML; thinking is cut from past answers
///   llama3               <|begin_of_text|>, headers, trimmed contents, <|eot_id|>
///   llama3_1             + the system turn with its dates (always "26 Jul 2024": runs do not depend on the day)
///   deepseek_v3          <｜User｜> ... <｜Assistant｜>
///   deepseek_r1          + an open <think>; thinking is cut from past answers
///   plain                every content and a line feed
const std::vector<std::string>& chat_template_names();
/// Text of a conversation under one of these names, ending with the opening of the assistant's turn. It holds its own
/// BOS where the template has one: encode it with special = false.
std::string apply_chat_template(const std::string& name, const std::vector<ChatMessage>& messages);

/// A chat template ready to use: one of the names, or the model's own, rendered as transformers' apply_chat_template
/// does with add_generation_prompt, without tools and documents. Its variables are the messages, the special tokens
/// that tokenizer_config.json names (bos_token ...) and options. The date that strftime_now tells is that of the
/// program's start, or SOURCE_DATE_EPOCH (seconds) from the environment, so that a run can be repeated on another day.
class ChatTemplate {
 public:
  static ChatTemplate named(const std::string& name);
  /// Compiles files.chat_template. `options` are further variables, "enable_thinking=false": the value is JSON, or a
  /// text where it is none. Error with the file, the line and what is wrong or not supported, and where the template
  /// names no such variable.
  static ChatTemplate of_model(const TokenizerFiles& files, const std::vector<std::string>& options = {});
  /// As apply_chat_template. Error where the template cannot be rendered or refuses the conversation (raise_exception).
  std::string apply(const std::vector<ChatMessage>& messages) const;
  /// What the template writes behind the last answer of a conversation: the end of its turn, and the opening of the
  /// next. Empty where it takes no conversation that ends with an answer, or changes what was answered.
  std::string behind_answer() const;
  /// Of a template by name, what it writes around messages that should be single tokens: <|...|>, each once. None of
  /// the model's own template, which its makers chose.
  std::vector<std::string> markers() const;

 private:
  std::string name_;
  std::shared_ptr<const jinja::Template> jinja_;  // null: by name
  jinja::Dict variables_;
};

}  // namespace mantissa
