#include "rl/reward/reward.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "rl/reward/command.h"
#include "rl/reward/math/compare.h"
#include "rl/reward/math/extract.h"
#include "rl/reward/math/text.h"

namespace mantissa {

void RewardConfig::fields(Fields& f) {
  f.choice("kind", kind, {"math", "exact", "format", "command", "code"},
           "math: final answer equal in value; exact: equal as text; format: a final answer is there; "
           "command: a program prints the reward; code: a program runs the answer's code with its tests");
  f.field("boxed_only", boxed_only, "only an answer in \\boxed{} counts, not ####, \"the answer is\" or a bare one");
  f.field("command", command, "of kinds command and code: a line for /bin/sh, one process an answer");
  f.field("timeout_s", timeout_s, "seconds an answer may take it", between(0.01, 3600));
  f.field("memory_mb", memory_mb, "address space it may have", between(1, 1 << 22));
}

void RewardConfig::validate() const {
  check(kind != "command" || !command.empty(), "reward.command: required by reward.kind command");
  check(command.empty() || kind == "command" || kind == "code",
        "reward.command: belongs to reward.kind command and code, got kind ", kind);
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

/// The last block between lines that open with ```, without those lines; one that is left open counts.
bool last_code_block(std::string_view response, std::string_view& block) {
  bool found = false, inside = false;
  size_t begin = 0;
  for (size_t at = 0; at < response.size();) {
    const size_t end = std::min(response.find('\n', at), response.size() - 1) + 1;
    if (response.substr(at, end - at).starts_with("```")) {
      if (inside) block = response.substr(begin, at - begin);
      begin = end;
      inside = !inside;
      found = true;
    }
    at = end;
  }
  if (inside) block = response.substr(begin);
  return found;
}

/// What an ended program says; false where it was ended for it.
bool ended_by_itself(const CommandResult& result, Grade& out) {
  out.status = result.end == CommandResult::End::kTimeout ? Grade::Status::kTimeout : Grade::Status::kError;
  out.reason = "the program " + (result.message.empty() ? "ended" : "was " + result.message);
  return result.end == CommandResult::End::kExited;
}

Grade grade_by_command(const RewardConfig& config, std::string_view response, std::string_view gold) {
  using nlohmann::json;
  const json input = {{"response", response}, {"gold", gold}};
  Grade out;
  const CommandResult result =
      run_command(config.command, input.dump(-1, ' ', false, json::error_handler_t::replace) + "\n",
                  {.seconds = config.timeout_s, .memory_mb = config.memory_mb});
  if (!ended_by_itself(result, out)) return out;
  if (result.code != 0) {
    out.reason = str("the program ended with exit code ", result.code);
    return out;
  }
  const std::string_view text = trimmed(result.output), line = text.substr(0, text.find('\n'));
  double reward = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), reward);
  if (error != std::errc() || !std::isfinite(reward)) {
    out.reason = str("the program must print a number, the reward: got \"", line.substr(0, 40), "\"");
    return out;
  }
  out.status = Grade::Status::kParsed;
  out.reward = reward;
  out.correct = reward >= 0.5;
  out.extracted = trimmed(line.substr(size_t(end - line.data())));
  out.reason = "by the program";
  return out;
}

Grade grade_by_running(const RewardConfig& config, std::string_view response, std::string_view gold) {
  Grade out;
  std::string_view block;
  if (!last_code_block(response, block)) {
    out.reason = "no fenced block in the response";
    return out;
  }
  out.extracted = block;
  const CommandResult result =
      run_command(config.command.empty() ? "python3 -" : config.command, str(block, '\n', gold, '\n'),
                  {.seconds = config.timeout_s, .memory_mb = config.memory_mb});
  if (!ended_by_itself(result, out)) return out;
  // 125 to 127 are the shell's: it could not limit or start the program.
  const bool started = result.code < 125 || result.code > 127;
  out.status = started ? Grade::Status::kParsed : Grade::Status::kError;
  out.correct = result.code == 0;
  out.reward = out.correct;
  out.reason = str("the program ended with exit code ", result.code);
  return out;
}

Grade grade_by_text(const RewardConfig& config, std::string_view response, std::string_view gold) {
  Grade out;
  ExtractedAnswer answer = extract_answer(response, config.boxed_only);
  if (config.kind == "exact") {
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
  check(config.kind == "math", "reward.kind: must be math, exact, format, command or code: ", config.kind);
  MathVerdict verdict = math_equal(answer.text, extract_gold(gold).text);
  out.correct = verdict.equal;
  out.status = verdict.parsed ? Grade::Status::kParsed : Grade::Status::kUnparsed;
  out.reason = std::move(verdict.reason);
  return out;
}

}  // namespace

Grade grade(const RewardConfig& config, std::string_view response, std::string_view gold) {
  if (config.kind == "command") return grade_by_command(config, response, gold);
  if (config.kind == "code") return grade_by_running(config, response, gold);
  Grade out = grade_by_text(config, response, gold);
  out.reward = out.correct;
  return out;
}

}  // namespace mantissa
