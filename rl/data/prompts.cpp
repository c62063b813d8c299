// JSONL reading, prompt templates, the cursor.
#include "rl/data/prompts.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/content.h"
#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "core/text.h"

namespace mantissa {

namespace {

using nlohmann::json;

constexpr size_t kMaxLine = size_t(16) << 20;
constexpr uint64_t kShufflePurpose = 0x64617461;  // "data"

std::string text_of(const json& line, const std::string& key, bool integers, const std::string& where) {
  const auto it = line.find(key);
  if (it == line.end()) {
    std::vector<std::string> keys;
    for (const auto& [name, value] : line.items()) keys.push_back(name);
    fail(where, ": key \"", key, "\" is missing; the record has ", keys.empty() ? "none" : join(keys),
         " (data.prompt_key, data.answer_key and data.solution_key say which to read)");
  }
  if (it->is_string()) return it->get<std::string>();
  check(integers && it->is_number_integer(), where, ": \"", key, "\" must be a string",
        integers ? " or an integer" : "", ": got a ", it->type_name());
  return it->dump();
}

/// Finds a number of the outermost object as it is written: what the parser makes a double of may be an integer of more
/// than 64 bits.
class RawNumber final : public nlohmann::json_sax<json> {
 public:
  explicit RawNumber(const std::string& key) : key_(key) {}
  std::string text;
  bool key(std::string& name) override { return current_ = depth_ == 1 && name == key_, true; }
  bool number_float(double, const std::string& raw) override {
    if (current_) text = raw;
    return true;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t) override { return true; }
  bool number_unsigned(uint64_t) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(json::binary_t&) override { return true; }
  bool start_object(size_t) override { return ++depth_, current_ = false, true; }
  bool end_object() override { return --depth_, true; }
  bool start_array(size_t) override { return ++depth_, current_ = false, true; }
  bool end_array() override { return --depth_, true; }
  bool parse_error(size_t, const std::string&, const json::exception&) override { return false; }

 private:
  const std::string& key_;
  int depth_ = 0;
  bool current_ = false;
};

/// The answer of a record: a string, or an integer of any length.
std::string answer_of(const std::string& text, const json& line, const std::string& key, const std::string& where) {
  const auto it = line.find(key);
  if (it != line.end() && it->is_number_float()) {
    RawNumber raw(key);
    json::sax_parse(text, &raw);
    if (!raw.text.empty() && raw.text.find_first_of(".eE") == std::string::npos) return raw.text;
  }
  return text_of(line, key, true, where);
}

/// GSM8K's <<48/2=24>>.
std::string without_calculator_marks(const std::string& text) {
  std::string out;
  size_t at = 0;
  for (size_t open = text.find("<<"); open != std::string::npos; open = text.find("<<", at)) {
    const size_t close = text.find(">>", open);
    if (close == std::string::npos) break;
    out.append(text, at, open - at);
    at = close + 2;
  }
  return out.append(text, at);
}

Record read_record(const std::string& text, const DataConfig& config, std::string where) {
  const json line = json::parse(text, nullptr, false);
  check(!line.is_discarded(), where, ": not valid JSON", json_lines_hint(text));
  check(line.is_object(), where, ": must be a JSON object: got a ", line.type_name(), json_lines_hint(text));
  Record record;
  record.problem = text_of(line, config.prompt_key, false, where);
  if (!config.answer_key.empty()) record.answer = answer_of(text, line, config.answer_key, where);
  if (line.contains(config.solution_key)) record.solution = text_of(line, config.solution_key, false, where);
  if (line.contains("data_source")) record.data_source = text_of(line, "data_source", false, where);
  if (config.strip_calculator_marks) record.solution = without_calculator_marks(record.solution);
  record.line = text;
  record.where = std::move(where);
  return record;
}

/// {problem}, {answer} and {solution} filled in; any other brace stays, so that \boxed{{answer}} gives
/// \boxed{42}.
std::string response_of(const std::string& format, const Record& record) {
  std::string out;
  for (size_t at = 0; at < format.size();) {
    const auto fill = [&](std::string_view mark, const std::string& value) {
      if (format.compare(at, mark.size(), mark) != 0) return false;
      check(!value.empty(), record.where, ": data.response_format needs ", mark, ", which this record lacks");
      out += value;
      at += mark.size();
      return true;
    };
    if (!fill("{problem}", record.problem) && !fill("{answer}", record.answer) && !fill("{solution}", record.solution))
      out += format[at++];
  }
  return out;
}

}  // namespace

void DataConfig::fields(Fields& f) {
  f.field("files", files, "JSON lines files");
  f.field("prompt_key", prompt_key, "key of the problem");
  f.field("answer_key", answer_key, "key of the gold answer; empty: the data has none");
  f.field("solution_key", solution_key, "key of the worked solution (sft)");
  f.choice("template", prompt_template, {"none", "chat", "r1", "r1_distill_qwen", "qwen_math"},
           "what is put around a problem");
  std::vector<std::string> names = chat_template_names();
  names.insert(names.begin(), "auto");
  f.choice("chat_template", chat_template, names, "form of template chat; auto: the model's own");
  f.field("chat_template_kwargs", chat_template_kwargs,
          "variables for the model's own form, such as enable_thinking=false");
  f.field("system", system, "system message of template chat; empty: none but the form's default");
  f.field("limit", limit, "only the first so many records; 0: all", at_least(0));
  f.field("max_prompt_tokens", max_prompt_tokens, "longest prompt", at_least(1));
  f.choice("overlong_prompts", overlong_prompts, {"skip", "error"}, "what happens to a longer one");
  f.field("shuffle", shuffle, "a new order each epoch");
  f.field("strip_calculator_marks", strip_calculator_marks, "remove GSM8K's <<...>> from solutions");
  f.field("response_format", response_format, "sft target made of {problem}, {solution}, {answer}");
}

std::vector<Record> read_records(const DataConfig& config) {
  check(!config.files.empty(), "data.files must name at least one file");
  std::vector<Record> records;
  int64_t row = 0;
  for (const std::string& name : config.files) {
    std::ifstream file(name, std::ios::binary);
    std::error_code ignored;
    check(file.good() && !std::filesystem::is_directory(name, ignored), name,
          ": cannot be read (data.files, eval.files)");
    check_content(name, "JSON lines");
    std::string line;
    std::string where = str(name, ':', 1);
    for (int64_t number = 2; read_line(file, line, kMaxLine, where); where = str(name, ':', number++)) {
      if (config.limit > 0 && row == config.limit) return records;
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      records.push_back(read_record(line, config, where));
      records.back().row = row++;
    }
  }
  check(!records.empty(), config.files[0], ": holds no record");
  return records;
}

ChatTemplate chat_template_of(const DataConfig& config, const TokenizerFiles& files) {
  if (config.prompt_template == "chat" && config.chat_template == "auto")
    return ChatTemplate::of_model(files, config.chat_template_kwargs);
  check(config.chat_template_kwargs.empty(),
        "data.chat_template_kwargs are variables of the model's own form: they need "
        "data.template chat and data.chat_template auto");
  return ChatTemplate::named(config.chat_template == "auto" ? "plain" : config.chat_template);
}

std::string apply_prompt_template(const DataConfig& config, const ChatTemplate& chat, const std::string& problem) {
  // The texts of r1 and qwen_math are those of "Understanding R1-Zero-Like Training", which the FP16 paper's
  // code uses.
  if (config.prompt_template == "r1")
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
  if (config.prompt_template == "r1_distill_qwen")
    return apply_chat_template(
        "deepseek_r1",
        {{"user", problem + " Please reason step by step, and put your final answer within \\boxed{}.\n"}});
  if (config.prompt_template == "qwen_math") return apply_chat_template("chatml_qwen2_5_math", {{"user", problem}});
  if (config.prompt_template == "chat") {
    std::vector<ChatMessage> messages;
    if (!config.system.empty()) messages.push_back({"system", config.system});
    messages.push_back({"user", problem});
    return chat.apply(messages);
  }
  check(config.prompt_template == "none", "data.template must be none, chat, r1, r1_distill_qwen or qwen_math: got ",
        config.prompt_template);
  return problem;
}

PromptSet make_prompts(const DataConfig& config, const Tokenizer& tokenizer, const TokenizerFiles& files,
                       int64_t positions, bool with_solution, const std::function<void(const Record&)>& look) {
  const bool chat = config.prompt_template == "chat";
  const ChatTemplate form = chat_template_of(config, files);
  PromptSet set;
  set.longest = std::min(config.max_prompt_tokens, positions - 1);
  for (Record& record : read_records(config)) {
    if (look) look(record);
    Prompt prompt;
    prompt.id = record.row;
    prompt.text = apply_prompt_template(config, form, record.problem);
    prompt.ids = tokenizer.encode(prompt.text, !chat && config.prompt_template != "r1_distill_qwen");
    check(!prompt.ids.empty(), record.where, ": the prompt has no tokens");
    if (int64_t(prompt.ids.size()) > set.longest) {
      check(config.overlong_prompts == "skip", record.where, ": a prompt has at most ", set.longest,
            " tokens (data.max_prompt_tokens, and one less than the model's positions): got ", prompt.ids.size());
      ++set.overlong;
      continue;
    }
    if (with_solution) prompt.solution = response_of(config.response_format, record);
    prompt.answer = std::move(record.answer);
    prompt.data_source = std::move(record.data_source);
    prompt.record = std::move(record.line);
    set.prompts.push_back(std::move(prompt));
  }
  check(!set.prompts.empty(), config.files[0], ": every prompt is longer than ", set.longest,
        " tokens (data.max_prompt_tokens, and one less than the model's positions)");
  return set;
}

uint64_t data_hash(const std::vector<Prompt>& prompts) {
  uint64_t hash = prompts.size();
  const auto add = [&](uint64_t value) { hash = mix64(hash ^ value); };
  const auto add_text = [&](const std::string& text) {
    add(text.size());
    for (const char c : text) add(static_cast<unsigned char>(c));
  };
  for (const Prompt& p : prompts) {
    add(uint64_t(p.id));
    add(p.ids.size());
    for (const int32_t id : p.ids) add(uint64_t(id));
    add_text(p.answer);
    add_text(p.solution);
    if (!p.data_source.empty()) add_text(p.data_source);
  }
  return hash;
}

DataCursor::DataCursor(int64_t size, uint64_t seed, bool shuffle) : size_(size), seed_(seed), shuffle_(shuffle) {
  check(size > 0 && size <= INT32_MAX, "[data] a cursor needs 1 to 2^31-1 prompts: got ", size);
}

void DataCursor::load_epoch() {
  if (loaded_ == epoch()) return;
  loaded_ = epoch();
  order_.resize(size_t(size_));
  std::iota(order_.begin(), order_.end(), int64_t(0));
  if (!shuffle_) return;
  RandomStream random(seed_, mix64(kShufflePurpose) + uint64_t(loaded_));
  for (uint32_t i = uint32_t(size_) - 1; i > 0; --i) std::swap(order_[i], order_[random.below(i + 1)]);
}

std::vector<int64_t> DataCursor::next(int64_t k) {
  check(k > 0 && k <= size_, "[data] a step draws 1 to ", size_, " prompts (all there are): got ", k);
  if (position_ % size_ + k > size_) position_ += size_ - position_ % size_;
  load_epoch();
  const auto begin = order_.begin() + position_ % size_;
  position_ += k;
  return {begin, begin + k};
}

void DataCursor::seek(int64_t position) {
  check(position >= 0, "[data] a saved position is not negative: got ", position);
  position_ = position;
}

}  // namespace mantissa
