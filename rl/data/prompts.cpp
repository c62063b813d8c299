// JSONL reading, prompt templates, the cursor.
#include "rl/data/prompts.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/content.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/notice.h"
#include "core/random.h"
#include "core/text.h"
#include "rl/data/prompt_template.h"

namespace mantissa {

namespace {

using nlohmann::json;

constexpr size_t kMaxLine = size_t(16) << 20;
constexpr uint64_t kShufflePurpose = 0x64617461;  // "data"

/// `hint`: of the key of the config, which says what to do where a record has no such key.
std::string text_of(const json& line, const std::string& key, bool integers, const std::string& where,
                    const char* hint) {
  const auto it = line.find(key);
  if (it == line.end()) {
    std::vector<std::string> keys;
    for (const auto& [name, value] : line.items()) keys.push_back(name);
    fail(where, ": key \"", key, "\" is missing; the record has ", keys.empty() ? "none" : join(keys), " (", hint, ")");
  }
  if (it->is_string()) return it->get<std::string>();
  check(integers && it->is_number_integer(), where, ": \"", key, "\" must be a string",
        integers ? " or an integer" : "", ": got ", with_article(it->type_name()),
        integers && it->is_number()
            ? " with a fraction or an exponent (in quotes it is a string; where the reward reads "
              "the record itself, data.answer_key may be \"\")"
            : "");
  return it->dump();
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

/// Where a key of messages was first met that no prompt holds, by its name.
using DroppedKeys = std::map<std::string, std::string>;

/// A conversation: [{"role": "user", "content": "..."}, ...].
std::vector<ChatMessage> messages_of(const json& list, const std::string& where, DroppedKeys& dropped) {
  std::vector<ChatMessage> messages;
  for (const json& item : list) {
    const auto text = [&](const char* key) {
      check(item.is_object() && item.contains(key) && item[key].is_string(), where, ": message ", messages.size(),
            " must be {\"role\": ..., \"content\": ...}, both texts: got ", item.dump().substr(0, 80));
      return item[key].get<std::string>();
    };
    messages.push_back({text("role"), text("content")});
    for (const auto& [key, value] : item.items())
      if (key != "role" && key != "content" && !value.empty()) dropped.emplace(key, where);
    const std::string& role = messages.back().role;
    check(role == "system" || role == "user" || role == "assistant", where, ": message ", messages.size() - 1,
          ": the role must be system, user or assistant, got \"", role, '"');
  }
  check(!messages.empty(), where, ": a list of messages must not be empty");
  return messages;
}

/// The object that a line holds, in one line wherever it is read: without the byte order mark before it, the rest of a
/// Windows line end behind it and a bare carriage return between its values.
std::string object_in(const std::string& text) {
  const size_t begin = text.find('{');
  std::string object = text.substr(begin, text.rfind('}') + 1 - begin);
  std::ranges::replace(object, '\r', ' ');
  return object;
}

/// What a record is read for beside its problem.
struct Wanted {
  bool solution;
  bool answer;  // it must be there; else one that is neither string nor integer is passed over
};

bool is_answer(const json& line, const std::string& key) {
  const auto it = line.find(key);
  return it != line.end() && (it->is_string() || it->is_number_integer());
}

Record read_record(const std::string& text, const DataConfig& config, Wanted wanted, std::string where,
                   DroppedKeys& dropped) {
  check_json(text, where);
  const std::string readable = with_large_numbers(text);
  const json line = json::parse(readable, nullptr, false);
  if (line.is_discarded()) fail(where, ": not valid JSON", json_fault(readable), json_lines_hint(text));
  check(line.is_object(), where, ": must be a JSON object: got ", with_article(line.type_name()),
        json_lines_hint(text));
  const std::string twice = repeated_key(readable);
  check(twice.empty(), where, ": key \"", twice, "\" appears twice");
  Record record;
  if (line.contains(config.prompt_key) && line[config.prompt_key].is_array()) {
    record.messages = messages_of(line[config.prompt_key], str(where, ": \"", config.prompt_key, '"'), dropped);
    record.problem = record.messages.back().content;
  } else {
    record.problem = text_of(line, config.prompt_key, false, where, "data.prompt_key names the one to read");
  }
  if (!config.answer_key.empty() && (wanted.answer || is_answer(line, config.answer_key)))
    record.answer = text_of(line, config.answer_key, true, where,
                            "data.answer_key names the one to read, and is \"\" where the data has no answers");
  if (wanted.solution && line.contains(config.solution_key))
    record.solution = text_of(line, config.solution_key, false, where, "data.solution_key names the one to read");
  if (const json source = line.value("data_source", json()); !source.is_null())
    record.data_source = source.is_string() ? source.get<std::string>() : source.dump();
  if (config.strip_calculator_marks) record.solution = without_calculator_marks(record.solution);
  record.line = object_in(text);
  record.where = std::move(where);
  return record;
}

/// {problem}, {answer} and {solution} filled in; any other brace stays, so that \boxed{{answer}} gives
/// \boxed{42}.
std::string response_of(const DataConfig& config, const Record& record) {
  const std::string& format = config.response_format;
  std::string out;
  for (size_t at = 0; at < format.size();) {
    const auto fill = [&](std::string_view mark, const std::string& value, const char* which, const std::string& key) {
      if (format.compare(at, mark.size(), mark) != 0) return false;
      check(!value.empty(), record.where, ": data.response_format needs ", mark, ", which this record lacks (", which,
            " is \"", key, "\")");
      out += value;
      at += mark.size();
      return true;
    };
    if (!fill("{problem}", record.problem, "data.prompt_key", config.prompt_key) &&
        !fill("{answer}", record.answer, "data.answer_key", config.answer_key) &&
        !fill("{solution}", record.solution, "data.solution_key", config.solution_key))
      out += format[at++];
  }
  return out;
}

}  // namespace

std::string repeated_file(const std::vector<std::string>& files) {
  std::map<std::filesystem::path, const std::string*> seen;
  for (const std::string& file : files) {
    std::error_code unknown;  // what cannot be followed cannot be read either, which its reader says
    const auto path = std::filesystem::weakly_canonical(std::filesystem::absolute(file, unknown), unknown);
    if (path.empty()) continue;
    const auto [first, fresh] = seen.emplace(path, &file);
    if (fresh) continue;
    return *first->second == file ? str('"', file, "\" is named twice")
                                  : str('"', file, "\" is the same file as \"", *first->second, '"');
  }
  return "";
}

std::vector<Record> read_records(const DataConfig& config, bool with_solution) {
  const std::string& key = config.files_key;
  check(!config.files.empty(), key, ": must name at least one file");
  check(std::ranges::count(config.files, "") == 0, key, ": the name of a file must not be empty, got \"\"");
  if (const std::string again = repeated_file(config.files); !again.empty())
    notice(str(key, ": ", again, ", so its problems count twice"));
  const Wanted wanted = {.solution = with_solution && config.response_has("{solution}"),
                         .answer = !with_solution || config.response_has("{answer}")};
  std::vector<Record> records;
  DroppedKeys dropped;
  const auto done = [&] {
    std::vector<std::string> keys;
    for (const auto& [name, where] : dropped) keys.push_back(str('"', name, "\" (", where, ')'));
    if (!keys.empty()) notice("keys of messages that no prompt holds: " + join(keys));
    return std::move(records);
  };
  for (const std::string& name : config.files) {
    std::ifstream file(name, std::ios::binary);
    std::error_code ignored;
    check(
        file.good() && !std::filesystem::is_directory(name, ignored), name, ": cannot be read (", key, ')',
        name.find_first_of("*?") != std::string::npos ? "; * and ? are not expanded, a shell does that unquoted" : "");
    check_content(name, "JSON lines");
    const size_t before = records.size();
    std::string line;
    std::string where = str(name, ':', 1);
    for (int64_t number = 2; read_line(file, line, kMaxLine, where); where = str(name, ':', number++)) {
      if (config.limit > 0 && int64_t(records.size()) == config.limit) return done();
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      Record record = read_record(line, config, wanted, where, dropped);
      record.row = int64_t(records.size());
      records.push_back(std::move(record));
    }
    if (records.size() == before && config.files.size() > 1) notice(name + ": holds no record");
  }
  check(!records.empty(), join(config.files), ": holds no record");
  return done();
}

std::string PromptSet::skipped() const {
  return overlong > 0 ? str(", ", overlong, " skipped for prompts over ", longest, " tokens") : "";
}

PromptSet make_prompts(const DataConfig& config, const Tokenizer& tokenizer, const TokenizerFiles& files,
                       int64_t positions, bool with_solution, const std::function<void(const Record&)>& look) {
  const PromptTemplate form(config, files);
  PromptSet set;
  set.longest = std::min(config.max_prompt_tokens, positions - 1);
  for (Record& record : read_records(config, with_solution)) {
    if (look) look(record);
    Prompt prompt;
    prompt.id = record.row;
    prompt.text = record.messages.empty() ? form.apply(record.problem) : form.apply(record.messages, record.where);
    prompt.ids = tokenizer.encode(prompt.text, form.adds_special());
    check(!prompt.ids.empty(), record.where, ": the prompt has no tokens");
    if (int64_t(prompt.ids.size()) > set.longest) {
      check(config.overlong_prompts == "skip", record.where, ": a prompt has at most ", set.longest,
            " tokens (data.max_prompt_tokens, and one less than the model's positions): got ", prompt.ids.size());
      ++set.overlong;
      continue;
    }
    if (with_solution) prompt.solution = response_of(config, record);
    prompt.answer = std::move(record.answer);
    prompt.data_source = std::move(record.data_source);
    prompt.where = std::move(record.where);
    prompt.record = std::move(record.line);
    set.prompts.push_back(std::move(prompt));
  }
  check(!set.prompts.empty(), join(config.files), ": every prompt is longer than ", set.longest,
        " tokens (data.max_prompt_tokens, and one less than the model's positions)");
  return set;
}

int64_t encode_solutions(std::vector<Prompt>& prompts, const DataConfig& config, const Tokenizer& tokenizer,
                         int32_t stop, int64_t positions) {
  for (Prompt& p : prompts) {
    p.solution_ids = tokenizer.encode(p.solution);
    p.solution_ids.push_back(stop);
  }
  const size_t left_out = std::erase_if(prompts, [&](const Prompt& p) {
    const auto tokens = int64_t(p.ids.size() + p.solution_ids.size());
    check(tokens <= positions || config.overlong_prompts == "skip", p.where,
          ": prompt and response must fit into the model's ", positions, " positions: got ", tokens, " tokens");
    return tokens > positions;
  });
  check(!prompts.empty(), join(config.files), ": no prompt and response fit into the model's ", positions,
        " positions");
  return int64_t(left_out);
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
  RandomStream random(seed_, mix64(kShufflePurpose) + uint64_t(loaded_));
  for (uint32_t i = uint32_t(size_) - 1; i > 0; --i) std::swap(order_[i], order_[random.below(i + 1)]);
}

std::vector<int64_t> DataCursor::next(int64_t k) {
  check(k > 0 && k <= size_, "[data] a step draws 1 to ", size_, " prompts (all there are): got ", k);
  if (!shuffle_) {
    std::vector<int64_t> drawn;
    for (; k > 0; --k) drawn.push_back(position_++ % size_);
    return drawn;
  }
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
