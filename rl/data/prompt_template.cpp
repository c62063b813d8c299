#include "rl/data/prompt_template.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/notice.h"
#include "core/text.h"
#include "nn/formats/tokenizer_config.h"

namespace mantissa {
namespace {

constexpr const char* kNames[] = {"none", "chat", "r1", "r1_distill_qwen", "qwen_math"};
constexpr std::string_view kProblem = "{problem}";
constexpr size_t kMostText = size_t(1) << 20;

bool is_named(const std::string& text) {
  return std::ranges::count(kNames, text) > 0;
}

ChatTemplate chat_of(const DataConfig& config, const TokenizerFiles& files) {
  const std::string& kind = config.prompt_template;
  if (kind == "chat" && config.chat_template == "auto")
    return ChatTemplate::of_model(files, config.chat_template_kwargs);
  check(config.chat_template_kwargs.empty(),
        "data.chat_template_kwargs: must be empty but with the model's own form (data.template chat and "
        "data.chat_template auto), got ",
        join(config.chat_template_kwargs));
  if (kind != "chat")
    return ChatTemplate::named(kind == "r1_distill_qwen" ? "deepseek_r1"
                               : kind == "qwen_math"     ? "chatml_qwen2_5_math"
                                                         : "plain");
  return ChatTemplate::named(config.chat_template);
}

/// A template of one's own: the text, or that of a file, without the marks of a Windows editor.
std::string text_of(const std::string& given) {
  if (is_named(given) || given.find(kProblem) != given.npos) return given;
  check(given.find('\n') == given.npos && file_exists(given),
        "data.template: must be none, chat, r1, r1_distill_qwen, "
        "qwen_math, a text with {problem} in it, or a file of one: got \"",
        given, '"');
  std::string text;
  try {
    text = read_file(given, kMostText);
  } catch (const Error& e) {
    fail("data.template: ", e.what());
  }
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf", kWindowsEnd = "\r\n";
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  for (size_t at = 0; (at = text.find(kWindowsEnd, at)) != text.npos;) text.erase(at, 1);
  check(text.find(kProblem) != text.npos, "data.template: ", given, ": must hold {problem}");
  return text;
}

}  // namespace

PromptTemplate::PromptTemplate(const DataConfig& config, const TokenizerFiles& files)
    : kind_(config.prompt_template),
      system_(config.system),
      chat_(chat_of(config, files)),
      text_(text_of(config.prompt_template)) {
  check(config.chat_template == "auto" || kind_ == "chat", "data.chat_template: only template chat has a form, got ",
        config.chat_template, " with data.template ", kind_);
  check(system_.empty() || kind_ == "chat",
        "data.system: only template chat has a place for a system message, got data.template ", kind_);
  const auto with = [&](const std::string& system) { return chat_.apply({{"system", system}, {"user", "?"}}); };
  check(system_.empty() || with(system_) != with(system_ + "."), "data.system: the chat template of ", files.where,
        " leaves system messages out, got \"", system_, '"');
}

std::string PromptTemplate::apply(const std::string& problem) const {
  // The texts of r1 and qwen_math are those of "Understanding R1-Zero-Like Training", which the FP16 paper's
  // code uses.
  if (kind_ == "r1")
    return "A conversation between User and Assistant. The User asks a question, and the Assistant solves "
           "it. The "
           "Assistant first thinks about the reasoning process in the mind and then provides the User with "
           "the answer. "
           "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> "
           "</answer> "
           "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here "
           "</answer>.\nUser: " +
           problem + "\nAssistant: <think>";
  // As DeepSeek recommends for its distilled models, in the punctuation of the FP16 paper's code.
  if (kind_ == "r1_distill_qwen")
    return chat_.apply(
        {{"user", problem + " Please reason step by step, and put your final answer within \\boxed{}.\n"}});
  if (kind_ == "qwen_math") return chat_.apply({{"user", problem}});
  if (kind_ == "chat") return apply({{"user", problem}}, "");
  if (kind_ == "none") return problem;
  std::string out;
  for (size_t at = 0;;) {
    const size_t mark = text_.find(kProblem, at);
    out.append(text_, at, mark - at);
    if (mark == text_.npos) return out;
    out += problem;
    at = mark + kProblem.size();
  }
}

std::string PromptTemplate::apply(const std::vector<ChatMessage>& conversation, const std::string& where) const {
  check(kind_ == "chat", where, ": a problem that is a list of messages needs data.template chat, got ", kind_);
  std::vector<ChatMessage> messages = conversation;
  const bool own = std::ranges::count(conversation, "system", &ChatMessage::role) > 0;
  check(system_.empty() || !own, where, ": the messages have a system message, and data.system is another one");
  if (!system_.empty()) messages.insert(messages.begin(), {"system", system_});
  return chat_.apply(messages);
}

std::string PromptTemplate::behind_answer() const {
  return kind_ == "chat" || kind_ == "r1_distill_qwen" || kind_ == "qwen_math" ? chat_.behind_answer() : "";
}

void note_unknown_markers(const DataConfig& config, const TokenizerFiles& files, const Tokenizer& tokenizer) {
  std::vector<std::string> unknown = PromptTemplate(config, files).markers();
  std::erase_if(unknown, [&](const std::string& marker) { return tokenizer.encode(marker).size() == 1; });
  if (unknown.empty()) return;
  const bool chat = config.prompt_template == "chat";
  notice(str(chat ? "data.chat_template " : "data.template ", chat ? config.chat_template : config.prompt_template,
             " writes ", join(unknown), ", no ", unknown.size() > 1 ? "tokens" : "token", " of ", files.where,
             ": spelled out as text, in a form that the model hardly knows"));
}

int32_t response_end(const DataConfig& config, const TokenizerFiles& files, const Tokenizer& tokenizer,
                     const std::vector<int32_t>& stops) {
  const auto stops_with = [&](int32_t id) { return std::ranges::count(stops, id) > 0; };
  const std::vector<int32_t> behind = tokenizer.encode(PromptTemplate(config, files).behind_answer());
  if (!behind.empty() && stops_with(behind.front())) return behind.front();
  for (const auto& [name, token] : read_tokenizer_config(files).named)
    if (name == "eos_token" && stops_with(tokenizer.id_of(token))) return tokenizer.id_of(token);
  return stops.front();
}

std::vector<std::string> take_out_unread(DataConfig& config, const TokenizerFiles& files) {
  const auto refused = [&](const DataConfig& keys) {
    try {
      PromptTemplate(keys, files);
    } catch (const Error&) {
      return true;
    }
    return false;
  };
  std::vector<std::string> taken;
  DataConfig alone = config;
  alone.system.clear();
  std::erase_if(config.chat_template_kwargs, [&](const std::string& variable) {
    alone.chat_template_kwargs = {variable};
    const bool unread = refused(alone);
    if (unread) taken.push_back("data.chat_template_kwargs: " + variable);
    return unread;
  });
  if (!config.system.empty() && refused(config)) taken.push_back("data.system: " + std::exchange(config.system, ""));
  return taken;
}

}  // namespace mantissa
