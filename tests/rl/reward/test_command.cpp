// reward.kind command: what it is told, and many answers for one process.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/file.h"
#include "rl/reward/grading.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

RewardConfig command(const std::string& line, int64_t batch = 1) {
  return {.kind = "command", .command = line, .batch = batch, .timeout_s = 20};
}

TEST(RewardByCommand, ReadsTheWholeRecord) {
  const RewardConfig config = command("grep -q '\"record\":{\"answer\":\"4\",\"level\":3}' && echo 1 || echo 0");
  EXPECT_EQ(grade(config, "x", "4", R"({"level": 3, "answer": "4"})").reward, 1);
  EXPECT_EQ(grade(config, "x", "4").reward, 0) << "it has none";
}

TEST(RewardByCommand, StandardErrorGoesToItsFile) {
  TempDir dir;
  RewardConfig config = command("echo said >&2; echo 1");
  config.log_file = (dir / "reward.log").string();
  EXPECT_EQ(grade(config, "x", "4").reward, 1);
  EXPECT_EQ(grade(config, "x", "4").reward, 1);
  EXPECT_EQ(read_file(dir / "reward.log"), "said\nsaid\n");
}

TEST(RewardByCommand, ABatchIsOneProcess) {
  TempDir dir;
  const std::string starts = (dir / "starts").string();
  // Each line is answered by its number.
  const RewardConfig config =
      command("echo x >> " + starts + "; n=0; while read -r line; do n=$((n+1)); echo $n ${#line}; done", 64);
  std::vector<std::string> texts;
  for (int i = 0; i < 100; ++i) texts.push_back("line\nfeed " + std::to_string(i));
  std::vector<Answer> answers;
  for (const std::string& text : texts) answers.push_back({text, "gold"});
  const std::vector<Grade> grades = grade_answers(config, answers);
  ASSERT_EQ(grades.size(), 100u);
  for (const Grade& grade : grades) {
    EXPECT_EQ(grade.status, Grade::Status::kParsed) << grade.reason;
    EXPECT_GT(std::stoi("0" + grade.extracted), 20) << "a line of JSON is an answer";
  }
  EXPECT_EQ(grades[0].reward, 1);
  EXPECT_EQ(grades[1].reward, 2);
  EXPECT_LE(read_file(starts).size(), 2 * 64u) << "batches of at most 64 of 100 answers, one for each core at least";
  EXPECT_GE(read_file(starts).size(), 2 * 2u);
}

TEST(RewardByCommand, ABatchThatFailsIsNoWrongAnswer) {
  const std::vector<Answer> answers = {{"a", ""}, {"b", ""}, {"c", ""}};
  const struct {
    const char *line, *reason;
    Grade::Status status;
  } cases[] = {{"echo 1; echo 1", "a line for each of 3 answers, got 2", Grade::Status::kError},
               {"echo 1; echo 1; echo 1; exit 4", "exit code 4", Grade::Status::kError},
               {"kill -9 $$", "signal 9", Grade::Status::kError},
               {"sleep 60", "killed after", Grade::Status::kTimeout}};
  for (const auto& c : cases) {
    RewardConfig config = command(c.line, 3);
    config.timeout_s = 0.3;
    for (const Grade& grade : grade_by_command(config, answers)) {
      EXPECT_EQ(grade.status, c.status);
      EXPECT_NE(grade.reason.find(c.reason), std::string::npos) << grade.reason;
      EXPECT_EQ(grade.reward, 0);
    }
  }
  // A line that is no number is the error of its own answer.
  const std::vector<Grade> mixed = grade_by_command(command("echo 1; echo one; echo 0.25 seen", 3), answers);
  EXPECT_TRUE(mixed[0].correct);
  EXPECT_EQ(mixed[1].status, Grade::Status::kError);
  EXPECT_EQ(mixed[2].reward, 0.25);
  EXPECT_EQ(mixed[2].extracted, "seen");
}

TEST(RewardByCommand, BatchBelongsToIt) {
  RewardConfig config;
  config.batch = 2;
  EXPECT_THROW(config.validate(), Error);
}

}  // namespace
}  // namespace mantissa
