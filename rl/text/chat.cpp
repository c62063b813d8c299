// Chat templates by name, and recognising a model's own Jinja text. The texts follow the published templates.
#include "rl/text/chat.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "rl/text/unicode.h"

namespace mantissa {

namespace {

using Messages = std::vector<ChatMessage>;

struct ChatMl {
  const char* name;
  const char* default_system;  // said when the conversation opens without a system message
};
constexpr ChatMl kChatMl[] = {
    {"chatml", ""},
    {"chatml_smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {"chatml_qwen2", "You are a helpful assistant."},
    {"chatml_qwen2_5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {"chatml_qwen2_5_math", "Please reason step by step, and put your final answer within \\boxed{}."},
};

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// Python's str.strip().
std::string_view trim(std::string_view text) {
  const auto blank = [](char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); };
  size_t last = 1;
  while (!text.empty() && blank(first_codepoint(text)))
    text.remove_prefix(utf8_length(static_cast<unsigned char>(text[0])));
  while (!text.empty() && blank(last_codepoint(text, last))) text.remove_suffix(last);
  return text;
}

std::string_view strip_newlines(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

std::string_view after_last(std::string_view text, std::string_view mark) {
  const size_t at = text.rfind(mark);
  return at == std::string_view::npos ? text : text.substr(at + mark.size());
}

std::string chatml_turn(std::string_view role, std::string_view content) {
  return str("<|im_start|>", role, '\n', content, "<|im_end|>\n");
}

std::string chatml(const Messages& messages, std::string_view default_system) {
  std::string out;
  if (!default_system.empty() && messages[0].role != "system") out = chatml_turn("system", default_system);
  for (const ChatMessage& m : messages) out += chatml_turn(m.role, m.content);
  return out + "<|im_start|>assistant\n";
}

/// An answer before the last question shows no thinking; one after it shows a think block when it has one or ends the
/// conversation.
std::string qwen3(const Messages& messages) {
  size_t last_question = messages.size() - 1;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string_view content = messages[i].content;
    if (messages[i].role == "user" &&
        !(content.starts_with("<tool_response>") && content.ends_with("</tool_response>")))
      last_question = i;
  }
  std::string out;
  for (size_t i = 0; i < messages.size(); ++i) {
    std::string_view content = messages[i].content, thinking;
    if (messages[i].role == "assistant") {
      if (const size_t end = content.find("</think>"); end != std::string_view::npos) {
        thinking = strip_newlines(content.substr(0, end), false, true);
        thinking = strip_newlines(after_last(thinking, "<think>"), true, true);
        content = strip_newlines(after_last(content, "</think>"), true, false);
      }
      if (i > last_question && (i + 1 == messages.size() || !thinking.empty())) {
        out += chatml_turn("assistant",
                           str("<think>\n", thinking, "\n</think>\n\n", strip_newlines(content, true, false)));
        continue;
      }
    }
    out += chatml_turn(messages[i].role, content);
  }
  return out + "<|im_start|>assistant\n";
}

std::string llama3(const Messages& messages, bool dates) {
  std::string out = "<|begin_of_text|>";
  const auto turn = [&](std::string_view role, std::string_view before, std::string_view content) {
    out += str("<|start_header_id|>", role, "<|end_header_id|>\n\n", before, trim(content), "<|eot_id|>");
  };
  size_t i = 0;
  if (dates) {
    const bool own = messages[0].role == "system";
    turn("system", "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
         own ? messages[0].content : std::string());
    i = own ? 1 : 0;
  }
  for (; i < messages.size(); ++i) turn(messages[i].role, "", messages[i].content);
  return out + "<|start_header_id|>assistant<|end_header_id|>\n\n";
}

std::string deepseek(const Messages& messages, bool think) {
  std::string system, turns;
  bool has_system = false;
  for (const ChatMessage& m : messages) {
    if (m.role == "system") {
      // V3 joins system messages, R1 keeps the last: with one there is no difference.
      check(!think || !has_system, "[chat] template deepseek_r1 takes one system message");
      system += has_system ? "\n\n" + m.content : m.content;
      has_system = true;
    } else if (m.role == "user") {
      turns += "<｜User｜>" + m.content;
    } else {
      turns += str("<｜Assistant｜>", think ? after_last(m.content, "</think>") : m.content, "<｜end▁of▁sentence｜>");
    }
  }
  return "<｜begin▁of▁sentence｜>" + system + turns + "<｜Assistant｜>" + (think ? "<think>\n" : "");
}

std::string known_names() {
  std::string all;
  for (const std::string& name : chat_template_names()) all += (all.empty() ? "" : ", ") + name;
  return all;
}

[[noreturn]] void unknown_template(const TokenizerFiles& files, std::string_view reason) {
  fail(files.where, ": ", reason, ": set data.chat_template to one of ", known_names());
}

/// Escapes of Jinja strings undone, so that a line feed in a template and "\n" in one of its strings look alike.
std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      ++i;
      out += text[i] == 'n' ? '\n' : text[i];
    } else {
      out += text[i];
    }
  }
  return out;
}

/// The system message that a ChatML template says by itself, or nothing.
std::string default_system_of(std::string_view text) {
  constexpr std::string_view kOpening = "<|im_start|>system\n";
  for (size_t at = text.find(kOpening); at != std::string_view::npos; at = text.find(kOpening, at + 1)) {
    const std::string_view rest = text.substr(at + kOpening.size());
    if (!rest.empty() && rest[0] != '\'' && rest[0] != '"' && rest[0] != '{')
      return std::string(rest.substr(0, rest.find("<|im_end|>")));
  }
  return {};
}

std::string recognise(const TokenizerFiles& files, const std::string& jinja) {
  const std::string text = unescape(jinja);
  if (contains(text, "<|im_start|>")) {
    if (contains(text, "last_query_index") && contains(text, "</think>") &&
        !contains(text, "<|im_start|>assistant\n<think>"))
      return "qwen3";
    if (contains(text, "think>")) unknown_template(files, "its ChatML template handles thinking in an unknown way");
    const std::string system = default_system_of(text);
    for (const ChatMl& form : kChatMl)
      if (system == form.default_system) return form.name;
    unknown_template(files,
                     str("its ChatML template has an unknown default system message \"", system.substr(0, 80), '"'));
  }
  if (contains(text, "<|start_header_id|>") && contains(text, "<|eot_id|>"))
    return contains(text, "Cutting Knowledge Date") ? "llama3_1" : "llama3";
  if (contains(text, "<｜User｜>") && contains(text, "<｜Assistant｜>")) {
    if (contains(text, "<｜Assistant｜><think>\n")) return "deepseek_r1";
    if (!contains(text, "think>")) return "deepseek_v3";
  }
  unknown_template(files, "its chat template is none of those known");
}

/// "chat_template" of tokenizer_config.json: a text, or a list of named ones of which "default" counts.
std::string template_of_config(const TokenizerFiles& files) {
  if (files.tokenizer_config_json.empty()) return {};
  const auto config = nlohmann::json::parse(files.tokenizer_config_json, nullptr, false);
  check(config.is_object(), files.where, ": tokenizer_config.json: must be a JSON object");
  const auto entry = config.find("chat_template");
  if (entry == config.end()) return {};
  if (entry->is_string()) return entry->get<std::string>();
  if (entry->is_array())
    for (const auto& named : *entry)
      if (named.is_object() && named.contains("name") && named["name"] == "default" && named.contains("template") &&
          named["template"].is_string())
        return named["template"].get<std::string>();
  return {};
}

}  // namespace

const std::vector<std::string>& chat_template_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const ChatMl& form : kChatMl) all.push_back(form.name);
    for (const char* name : {"qwen3", "llama3", "llama3_1", "deepseek_v3", "deepseek_r1", "plain"}) all.push_back(name);
    return all;
  }();
  return names;
}

std::string detect_chat_template(const TokenizerFiles& files) {
  const std::string jinja = files.chat_template.empty() ? template_of_config(files) : files.chat_template;
  if (jinja.empty()) unknown_template(files, "the model has no chat template");
  return recognise(files, jinja);
}

std::string apply_chat_template(const std::string& name, const std::vector<ChatMessage>& messages) {
  check(!messages.empty(), "[chat] a conversation has at least one message");
  for (const ChatMessage& m : messages)
    check(m.role == "system" || m.role == "user" || m.role == "assistant",
          "[chat] a role is system, user or assistant: got \"", m.role, '"');
  for (const ChatMl& form : kChatMl)
    if (name == form.name) return chatml(messages, form.default_system);
  if (name == "qwen3") return qwen3(messages);
  if (name == "llama3" || name == "llama3_1") return llama3(messages, name == "llama3_1");
  if (name == "deepseek_v3" || name == "deepseek_r1") return deepseek(messages, name == "deepseek_r1");
  check(name == "plain", "[chat] data.chat_template must be one of ", known_names(), ": got \"", name, '"');
  std::string out;
  for (const ChatMessage& m : messages) out += m.content + "\n";
  return out;
}

}  // namespace mantissa
