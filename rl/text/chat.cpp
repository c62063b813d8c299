// Chat templates by name, whose texts follow the published templates, and the model's own.
#include "rl/text/chat.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "nn/formats/tokenizer_config.h"
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

/// A name and a value of jinja from "name=value"; the value is JSON, or a text where it is none.
std::pair<std::string, jinja::Value> option_of(const std::string& option) {
  const size_t sign = option.find('=');
  check(sign != std::string::npos && sign > 0, "data.chat_template_kwargs: an entry is NAME=VALUE: got \"", option,
        '"');
  const std::string text = option.substr(sign + 1);
  const auto json = nlohmann::json::parse(text, nullptr, false);
  jinja::Value value = text;
  if (json.is_null()) value = jinja::None();
  if (json.is_boolean()) value = json.get<bool>();
  if (json.is_number_integer()) value = json.get<int64_t>();
  if (json.is_number_float()) value = json.get<double>();
  if (json.is_string()) value = json.get<std::string>();
  return {option.substr(0, sign), value};
}

/// Whether `name` stands in the template as a word of its own, be it a variable or not: what does not is never read.
bool names_variable(std::string_view text, std::string_view name) {
  const auto of_word = [&](size_t at) {
    return at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '_');
  };
  for (size_t at = text.find(name); at != text.npos; at = text.find(name, at + 1))
    if ((at == 0 || !of_word(at - 1)) && !of_word(at + name.size())) return true;
  return false;
}

/// What strftime_now tells: SOURCE_DATE_EPOCH, as for reproducible builds, or the time of the first question.
std::time_t now() {
  static const std::time_t start = [] {
    const char* pinned = std::getenv("SOURCE_DATE_EPOCH");
    return pinned != nullptr ? std::time_t(std::strtoll(pinned, nullptr, 10)) : std::time(nullptr);
  }();
  return start;
}

std::string hint() {
  return " (data.chat_template can name another form: " + known_names() + ")";
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

ChatTemplate ChatTemplate::named(const std::string& name) {
  const std::vector<std::string>& names = chat_template_names();
  check(std::find(names.begin(), names.end(), name) != names.end(), "[chat] data.chat_template must be one of ",
        known_names(), ": got \"", name, '"');
  ChatTemplate chat;
  chat.name_ = name;
  return chat;
}

ChatTemplate ChatTemplate::of_model(const TokenizerFiles& files, const std::vector<std::string>& options) {
  const jinja::Work limit;
  check(!files.chat_template.empty(), files.where,
        ": the model has no chat template, an empty one, or several without a default one", hint());
  ChatTemplate chat;
  try {
    chat.jinja_ = std::make_shared<jinja::Template>(files.chat_template, files.where + ": chat template");
  } catch (const Error& e) {
    fail(e.what(), hint());
  }
  for (const auto& [name, token] : read_tokenizer_config(files).named) chat.variables_.set(name, token);
  for (const char* absent : {"tools", "documents"}) chat.variables_.set(absent, jinja::None());
  chat.variables_.set("add_generation_prompt", true);
  std::set<std::string> given;
  for (const std::string& option : options) {
    const auto& [name, value] = option_of(option);
    check(name != "messages" && names_variable(files.chat_template, name), "data.chat_template_kwargs: ", files.where,
          ": the chat template reads no variable \"", name, "\" of yours, got \"", option, '"');
    check(given.insert(name).second, "data.chat_template_kwargs: \"", name, "\" is given twice");
    chat.variables_.set(name, value);
  }
  return chat;
}

std::string ChatTemplate::apply(const std::vector<ChatMessage>& messages) const {
  if (!jinja_) return apply_chat_template(name_, messages);
  const jinja::Work limit;
  check(!messages.empty(), "[chat] a conversation has at least one message");
  jinja::List list;
  for (const ChatMessage& m : messages) {
    jinja::Dict message;
    message.set("role", m.role);
    message.set("content", to_valid_utf8(m.content));
    list.emplace_back(std::move(message));
  }
  jinja::Dict variables = variables_;
  variables.set("messages", jinja::Value::list(std::move(list)));
  try {
    return jinja_->render(variables, now());
  } catch (const Error& e) {
    fail(e.what(), hint());
  }
}

std::string ChatTemplate::behind_answer() const {
  const std::string answer = "forty-two";
  try {
    const std::string text = apply({{"user", "?"}, {"assistant", answer}});
    const size_t at = text.rfind(answer);
    return at == text.npos ? "" : text.substr(at + answer.size());
  } catch (const Error&) {
    return "";
  }
}

std::vector<std::string> ChatTemplate::markers() const {
  std::vector<std::string> found;
  if (jinja_) return found;
  const std::string text = apply({{"system", "!"}, {"user", "?"}, {"assistant", "!"}, {"user", "?"}});
  for (size_t at = text.find('<'); at != text.npos; at = text.find('<', at + 1)) {
    const std::string marker = text.substr(at, text.find('>', at) + 1 - at);
    if ((marker.starts_with("<|") || marker.starts_with("<｜")) && std::ranges::count(found, marker) == 0)
      found.push_back(marker);
  }
  return found;
}

}  // namespace mantissa
