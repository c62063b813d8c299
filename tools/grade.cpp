// grade: {"pred", "gold"} -> {"correct", "reward", "extracted", "status", "reason"}, by the rewards of training.
#include <algorithm>

#include "rl/logging/log.h"
#include "rl/reward/grading.h"
#include "tools/arguments.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

struct Line {
  std::string pred, gold, record;
};

void grade_lines(const RewardConfig& reward, const std::vector<Line>& lines) {
  std::vector<Answer> answers;
  for (const Line& line : lines) answers.push_back({line.pred, line.gold, line.record});
  for (const Grade& graded : grade_answers(reward, answers))
    print(JsonObject()
              .add("correct", graded.correct)
              .add("reward", graded.reward)
              .add("extracted", graded.extracted)
              .add("status", status_name(graded.status))
              .add("reason", graded.reason));
}

}  // namespace

int grade_main(int argc, char** argv) {
  RewardConfig reward;
  std::string input;
  Arguments args(
      "grade",
      "Compares each line's response \"pred\" with the gold answer \"gold\". A verifier of your own gets the "
      "object \"record\" as well, where the line has one.");
  args.field("input", input, "JSON lines; - is standard input");
  args.not_empty();
  args.required();
  args.section("reward", reward, {"max_failed_steps"});
  if (!args.parse(argc, argv)) return 0;
  reward.validate();
  if (const std::string notice = reward_notice(reward); !notice.empty()) log_warning(with_flags(notice));

  // A Python function or a batch takes many at a time; the others answer line by line, as a pipe expects.
  const size_t together = reward.kind == "python" ? 256 : size_t(reward.batch);
  std::vector<Line> pending;
  for (JsonLines lines(input); lines.next();) {
    Line& line = pending.emplace_back();
    line.pred = lines.text_or_number("pred");
    if (reads_gold(reward) || lines.has("gold")) line.gold = lines.text_or_number("gold");
    check_gold(reward, line.gold, lines.where());
    if (lines.has("record")) line.record = lines.json_of("record");
    if (pending.size() < together) continue;
    grade_lines(reward, pending);
    pending.clear();
  }
  grade_lines(reward, pending);
  return 0;
}

}  // namespace mantissa
