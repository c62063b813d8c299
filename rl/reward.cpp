#include "rl/reward.h"

#include "core/error.h"
#include "rl/math_compare.h"
#include "rl/math_extract.h"

namespace mantissa {

void RewardConfig::fields(Fields& f) {
  f.choice("kind", kind, {"math", "exact", "format"},
           "math: final answer equal in value; exact: equal as text; format: a final answer is there");
  f.field("boxed_only", boxed_only,
          "only an answer in \\boxed{} counts, not ####, \"the answer is\" or a bare one");
}

const char* status_name(Grade::Status status) {
  switch (status) {
    case Grade::Status::kParsed:
      return "parsed";
    case Grade::Status::kUnparsed:
      return "unparsed";
    case Grade::Status::kNoAnswer:
      return "no_answer";
  }
  return "";
}

Grade grade(const RewardConfig& config, std::string_view response, std::string_view gold) {
  Grade out;
  ExtractedAnswer answer = extract_answer(response, config.boxed_only);
  if (config.kind == "exact") {
    out.extracted = answer.marked ? answer.text : std::string(trimmed(response));
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
  check(config.kind == "math", "reward.kind: must be math, exact or format: ", config.kind);
  ExtractedAnswer truth = extract_gold(gold);
  auto take = [&](std::string_view a, std::string_view b) {
    MathVerdict verdict = math_equal(a, b);
    out.correct = verdict.equal;
    out.status = verdict.parsed ? Grade::Status::kParsed : Grade::Status::kUnparsed;
    out.reason = std::move(verdict.reason);
    return verdict.equal;
  };
  // A run of boxes is one answer in several boxes where the gold is a list; the last box alone otherwise.
  if (!truth.joined.empty() && take(answer.text, truth.joined)) return out;
  if (!answer.joined.empty() && take(answer.joined, truth.text)) {
    out.extracted = answer.joined;
    return out;
  }
  take(answer.text, truth.text);
  return out;
}

double reward_of(const Grade& grade) {
  return grade.correct ? 1.0 : 0.0;
}

}  // namespace mantissa
