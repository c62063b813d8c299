// grade: {"pred", "gold"} -> {"correct", "reward", "extracted", "status", "reason"}, by the rewards of training.
#include "rl/logging/log.h"
#include "rl/reward/reward.h"
#include "tools/arguments.h"
#include "tools/json_lines.h"
#include "tools/programs.h"

namespace mantissa {

int grade_main(int argc, char** argv) {
  RewardConfig reward;
  std::string input;
  Arguments args("grade", "Compares each line's response \"pred\" with the gold answer \"gold\".");
  args.field("input", input, "JSON lines; - is standard input");
  args.required();
  args.section(reward);
  if (!args.parse(argc, argv)) return 0;
  reward.validate();
  if (const std::string notice = reward_notice(reward); !notice.empty()) log_warning(notice);

  JsonLines lines(input);
  while (lines.next()) {
    const std::string gold = lines.text_or_number("gold");
    check_gold(reward, gold, lines.where());
    const Grade graded = grade(reward, lines.text_or_number("pred"), gold);
    print(JsonObject()
              .add("correct", graded.correct)
              .add("reward", graded.reward)
              .add("extracted", graded.extracted)
              .add("status", status_name(graded.status))
              .add("reason", graded.reason));
  }
  return 0;
}

}  // namespace mantissa
