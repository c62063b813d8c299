// Chat templates: a conversation as the text that a model was trained to continue.
#pragma once

#include <string>
#include <vector>

#include "nn/formats/tokenizer_files.h"

namespace mantissa {

struct ChatMessage {
  std::string role, content;  // role: system, user, assistant
};

/// Chat templates known by name; each writes what the models' own Jinja template writes without tools:
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
/// The name for a model's own template: files.chat_template, else the one in tokenizer_config.json. Throws on none and
/// on one it does not know, naming data.chat_template as the option to set.
std::string detect_chat_template(const TokenizerFiles& files);
/// Text of a conversation, ending with the opening of the assistant's turn. It holds its own BOS where the template has
/// one: encode it with special = false.
std::string apply_chat_template(const std::string& name, const std::vector<ChatMessage>& messages);

}  // namespace mantissa
