#include "rl/reward/reward.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "rl/reward/code.h"
#include "rl/reward/command.h"
#include "rl/reward/math/compare.h"
#include "rl/reward/math/extract.h"
#include "rl/reward/math/spelling.h"
#include "rl/reward/math/text.h"

namespace mantissa {
namespace {

/// A key that some kinds read, and its value.
struct OfKinds {
  std::string key, value;
  std::vector<std::string> kinds;
};

/// Those that are set and that this kind does not read.
std::vector<OfKinds> misplaced_in(const RewardConfig& c) {
  const RewardConfig unset;
  std::vector<OfKinds> found;
  const auto belongs = [&](const char* key, const auto& value, const auto& without, std::vector<std::string> kinds) {
    if (value != without && std::ranges::count(kinds, c.kind) == 0)
      found.push_back({str("reward.", key), str(value), std::move(kinds)});
  };
  belongs("format", c.format, unset.format, {"math", "exact"});
  belongs("boxed_only", std::string(c.boxed_only ? "true" : "false"), "false", {"math", "exact", "format"});
  belongs("command", c.command, unset.command, {"command", "code"});
  belongs("batch", c.batch, unset.batch, {"command"});
  belongs("path", c.path, unset.path, {"python"});
  belongs("python", c.python, unset.python, {"python"});
  belongs("workers", c.workers, unset.workers, {"python"});
  belongs("timeout_s", c.timeout_s, unset.timeout_s, {"command", "code", "python"});
  belongs("memory_mb", c.memory_mb, unset.memory_mb, {"command", "code", "python"});
  return found;
}

}  // namespace

void RewardConfig::fields(Fields& f) {
  f.choice("kind", kind, {"math", "exact", "format", "command", "code", "python"},
           "math: final answer equal in value; exact: equal as text; format: a final answer is there; "
           "command: a program prints the reward; code: a program runs the answer's code with its tests; "
           "python: a function of yours, in Python processes that stay");
  f.choice("format", format, {"free", "sanity", "octothinker"},
           "of kinds math and exact, the form a response must have: free: any; sanity: one </think>, then a box; "
           "octothinker: a box between \"</think> <answer>\" and </answer>");
  f.field("boxed_only", boxed_only, "only an answer in \\boxed{} counts, not ####, \"the answer is\" or a bare one");
  f.field("command", command, "of kinds command and code: a line for /bin/sh, a process for each batch of answers");
  f.field("batch", batch, "of kind command: most answers for one process, which reads and prints a line for each",
          between(1, 1 << 20));
  f.field("path", path, "of kind python: FILE.py, which defines reward(response, record), or FILE.py:FUNCTION");
  f.field("python", python, "of kind python: the interpreter, say that of an environment with your packages");
  f.field("workers", workers, "of kind python: processes that grade side by side; 0: one for each core",
          between(0, 4096));
  f.field(
      "timeout_s", timeout_s,
      "seconds that a program or function may take for an answer; the import of a Python file has 120, whatever this says",
      between(0.01, 3600));
  f.field("memory_mb", memory_mb, "megabytes of address space that each of its processes may have",
          between(1, 1 << 22));
  f.field("max_failed_steps", max_failed_steps,
          not_decisive("the run ends where every grade of so many steps in a row failed or timed out; 0: it goes on"),
          between(0, 1 << 30));
}

void RewardConfig::validate() const {
  check(kind != "command" || !command.empty(), "reward.command: required by reward.kind command");
  check(kind != "python" || !path.empty(), "reward.path: required by reward.kind python");
  for (const OfKinds& m : misplaced_in(*this)) {
    const std::vector<std::string> first(m.kinds.begin(), m.kinds.end() - 1);
    fail(m.key, ": belongs to reward.kind ", join(first), first.empty() ? "" : " and ", m.kinds.back(), ", got ",
         m.value, " with kind ", kind);
  }
}

std::vector<std::string> RewardConfig::misplaced() const {
  std::vector<std::string> keys;
  for (const OfKinds& m : misplaced_in(*this)) keys.push_back(m.key);
  return keys;
}

const char* status_name(Grade::Status status) {
  switch (status) {
    case Grade::Status::kParsed:
      return "parsed";
    case Grade::Status::kUnparsed:
      return "unparsed";
    case Grade::Status::kNoAnswer:
      return "no_answer";
    case Grade::Status::kTimeout:
      return "timeout";
    case Grade::Status::kError:
      return "error";
  }
  return "";
}

namespace {

/// The last block between lines of ```, which may be indented, without those lines and the fence's indentation; one
/// that is left open counts.
bool last_code_block(std::string_view response, std::string& block) {
  bool found = false, inside = false;
  size_t indent = 0;
  std::string lines;
  for (size_t at = 0; at < response.size();) {
    const size_t end = std::min(response.find('\n', at), response.size() - 1) + 1;
    std::string_view line = response.substr(at, end - at);
    const size_t blanks = std::min(line.find_first_not_of(" \t"), line.size());
    if (line.substr(blanks).starts_with("```")) {
      if (inside) block = std::exchange(lines, {});
      indent = blanks;
      inside = !inside;
      found = true;
    } else if (inside) {
      line.remove_prefix(std::min(blanks, indent));
      lines += line;
    }
    at = end;
  }
  if (inside) block = lines;
  return found;
}

CommandLimits limits_of(const RewardConfig& config, size_t answers) {
  return {.seconds = config.timeout_s * double(answers),
          .memory_mb = config.memory_mb,
          .output = CommandLimits().output * answers,
          .log_file = config.log_file};
}

/// What an ended program says; false where it was ended for it.
bool ended_by_itself(const CommandResult& result, Grade& out) {
  out.status = result.end == CommandResult::End::kTimeout ? Grade::Status::kTimeout : Grade::Status::kError;
  out.reason = "the program " + (result.message.empty() ? "ended" : "was " + result.message);
  return result.end == CommandResult::End::kExited;
}

/// What a program says of an answer: a number, and perhaps the answer that it read.
Grade grade_of_line(std::string_view line) {
  const std::string_view word = line.substr(0, std::min(line.find_first_of(" \t\r"), line.size()));
  const std::string_view digits = word.substr(word.starts_with('+') && !word.starts_with("+-"));
  double reward = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), reward);
  if (error != std::errc() || end != digits.data() + digits.size() || !std::isfinite(reward))
    return {.status = Grade::Status::kError,
            .reason = str("the program must print a number, the reward, and a blank or nothing behind it: got \"",
                          line.substr(0, 40), "\"")};
  return grade_of(reward, word, trimmed(line.substr(word.size())), "the program");
}

Grade grade_by_running(const RewardConfig& config, std::string_view response, std::string_view gold) {
  Grade out;
  std::string block;
  if (!last_code_block(response, block)) {
    out.reason = "no fenced block in the response";
    return out;
  }
  out.extracted = block;
  if (config.command.empty()) {
    CodeVerdict verdict = judge_python(block, gold, config.timeout_s, config.memory_mb);
    using End = CodeVerdict::End;
    out.status = verdict.end == End::kJudged    ? Grade::Status::kParsed
                 : verdict.end == End::kTimeout ? Grade::Status::kTimeout
                                                : Grade::Status::kError;
    out.correct = verdict.correct;
    out.reward = out.correct;
    out.reason = std::move(verdict.reason);
    return out;
  }
  const CommandResult result = run_command(config.command, str(block, '\n', gold, '\n'), limits_of(config, 1));
  if (!ended_by_itself(result, out)) return out;
  // 125 to 127 are the shell's: it could not limit or start the program.
  const bool started = result.code < 125 || result.code > 127;
  out.status = started ? Grade::Status::kParsed : Grade::Status::kError;
  out.correct = result.code == 0;
  out.reward = out.correct;
  out.reason = str("the program ended with exit code ", result.code);
  return out;
}

/// Cuts the response to the part of the form where its answer stands; false where it has not the form.
bool take_form(std::string_view form, std::string_view& response) {
  constexpr std::string_view kThinkEnd = "</think>", kOpen = "</think> <answer>", kClose = "</answer>";
  if (form == "sanity") {
    const size_t at = response.find(kThinkEnd);
    if (at == response.npos || response.rfind(kThinkEnd) != at) return false;
    response.remove_prefix(at + kThinkEnd.size());
    return true;
  }
  const size_t open = response.find(kOpen);
  if (open == response.npos) return false;
  response.remove_prefix(open + kOpen.size());
  const size_t close = response.find(kClose);
  if (close == response.npos) return false;
  response = response.substr(0, close);
  return true;
}

Grade grade_by_text(const RewardConfig& config, std::string_view response, std::string_view gold) {
  Grade out;
  bool boxed_only = config.boxed_only;
  if (config.format != "free" && (config.kind == "math" || config.kind == "exact")) {
    if (!take_form(config.format, response)) {
      out.reason = str("the response has not the form ", config.format);
      return out;
    }
    boxed_only = true;
  }
  ExtractedAnswer answer = extract_answer(response, boxed_only);
  if (config.kind == "exact") {
    if (boxed_only && !answer.found) {
      out.reason = "no final answer in the response";
      return out;
    }
    out.extracted = answer.marked ? answer.text : std::string(without_special_tokens(response));
    out.status = out.extracted.empty() ? Grade::Status::kNoAnswer : Grade::Status::kParsed;
    out.correct = out.extracted == trimmed(gold);
    out.reason = out.correct ? "same text" : "texts differ";
    return out;
  }
  if (!answer.found || answer.text.empty()) {
    out.reason = "no final answer in the response";
    return out;
  }
  out.extracted = answer.text;
  if (config.kind == "format") {
    out.status = Grade::Status::kParsed;
    out.correct = answer.marked;
    out.reason = out.correct ? "a final answer is marked" : "the answer is not marked as final";
    return out;
  }
  check(config.kind == "math", "reward.kind: must be math, exact, format, command, code or python: ", config.kind);
  MathVerdict verdict = math_equal(answer.text, extract_gold(gold).text);
  out.correct = verdict.equal;
  out.status = verdict.parsed ? Grade::Status::kParsed : Grade::Status::kUnparsed;
  out.reason = std::move(verdict.reason);
  return out;
}

}  // namespace

std::string reward_notice(const RewardConfig& config) {
  if (config.kind != "code") return "";
  if (!config.command.empty())
    return "reward.kind code with reward.command: no sandbox, and code that exits with 0 before its tests is correct";
  const std::string gaps = sandbox_gaps();
  return gaps.empty() ? "" : "reward.kind code, sandbox: " + gaps;
}

bool reads_gold(const RewardConfig& config) {
  return config.kind == "math" || config.kind == "exact" || config.kind == "code";
}

void check_gold(const RewardConfig& config, std::string_view gold, const std::string& where) {
  bool empty = trimmed(gold).empty();
  if (config.kind == "math" && !empty)  // "\boxed{}", "$$"
    empty = text_key(to_ascii(extract_gold(gold).text)).find_first_not_of("#*.") == std::string::npos;
  check(!reads_gold(config) || !empty, where, ": the gold answer is empty: reward.kind ", config.kind, " needs one");
}

Grade grade_of(double reward, std::string_view written, std::string_view extracted, std::string_view by) {
  Grade out;
  out.status = Grade::Status::kError;
  if (!(std::abs(reward) <= kMaxReward)) {
    out.reason =
        str("the reward ", written.substr(0, 40), " is beyond ", kMaxReward, ", the most that advantages can hold");
    return out;
  }
  out.status = Grade::Status::kParsed;
  out.reward = reward;
  out.correct = reward >= 0.5;
  out.extracted = extracted;
  out.reason = str("by ", by);
  return out;
}

std::vector<Grade> grade_by_command(const RewardConfig& config, std::span<const Answer> answers) {
  using nlohmann::json;
  std::string input;
  for (const Answer& answer : answers) {
    json line = {{"response", answer.response}, {"gold", answer.gold}};
    if (!answer.record.empty()) line["record"] = json::parse(answer.record, nullptr, false);
    input += line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  }
  const CommandResult result = run_command(config.command, input, limits_of(config, answers.size()));
  Grade failed;
  std::vector<std::string_view> lines;
  if (ended_by_itself(result, failed)) {
    failed.reason = result.code != 0 ? str("the program ended with exit code ", result.code) : "";
    for (std::string_view text = trimmed(result.output); !text.empty();) {
      lines.push_back(text.substr(0, text.find('\n')));
      text.remove_prefix(std::min(lines.back().size() + 1, text.size()));
    }
    if (answers.size() == 1) lines.resize(1);  // what follows the first line is for the user
    if (failed.reason.empty() && lines.size() != answers.size())
      failed.reason = str("the program must print a line for each of ", answers.size(), " answers, got ", lines.size());
  }
  if (!failed.reason.empty()) return std::vector<Grade>(answers.size(), failed);
  std::vector<Grade> grades;
  for (const std::string_view line : lines) grades.push_back(grade_of_line(line));
  return grades;
}

Grade grade(const RewardConfig& config, std::string_view response, std::string_view gold, std::string_view record) {
  check(config.kind != "python", "[grade] reward.kind python grades many answers at a time: see grade_answers");
  if (config.kind == "command") return grade_by_command(config, std::vector<Answer>{{response, gold, record}})[0];
  if (config.kind == "code") return grade_by_running(config, response, gold);
  Grade out = grade_by_text(config, response, gold);
  out.reward = out.correct;
  return out;
}

}  // namespace mantissa
