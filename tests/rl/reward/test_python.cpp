// reward.kind python: the function's numbers arrive in order, and whatever goes wrong in it is named and is no wrong
// answer.
#include "rl/reward/python.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>

#include "core/error.h"
#include "core/file.h"
#include "rl/reward/grading.h"
#include "tests/support/message.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

class PythonReward : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v python3 >/dev/null") != 0) GTEST_SKIP() << "no python3";
  }
  /// A config whose reward.py holds `code`.
  RewardConfig config(const std::string& code, double timeout_s = 20) {
    const auto file = dir_ / "reward.py";
    write_file(file, code);
    RewardConfig c;
    c.kind = "python";
    c.path = file.string();
    c.timeout_s = timeout_s;
    c.workers = 2;
    c.log_file = (dir_ / "reward.log").string();
    return c;
  }
  static std::vector<Grade> grade(const RewardConfig& c, const std::vector<Answer>& answers) {
    return grade_answers(c, answers);
  }
  std::string refusal(const RewardConfig& c) {
    return message_of([&] { start_python_workers(c); });
  }
  TempDir dir_;
};

TEST_F(PythonReward, GradesInOrderWithTheWholeRecord) {
  const RewardConfig c = config(
      "def reward(response, record):\n"
      "    print('seen', response)  # not an answer: it goes to the log\n"
      "    return record['weight'] * len(response), response.upper()\n");
  std::vector<std::string> responses, records;
  for (int i = 0; i < 100; ++i) {
    responses.push_back(std::string(size_t(i % 7), 'x') + "é\n\"");
    records.push_back("{\"weight\": " + std::to_string(i) + "}");
  }
  std::vector<Answer> answers;
  for (size_t i = 0; i < responses.size(); ++i) answers.push_back({responses[i], "gold", records[i]});
  const std::vector<Grade> grades = grade(c, answers);
  ASSERT_EQ(grades.size(), 100u);
  for (size_t i = 0; i < grades.size(); ++i) {
    EXPECT_EQ(grades[i].status, Grade::Status::kParsed) << grades[i].reason;
    EXPECT_EQ(grades[i].reward, double(i) * double(i % 7 + 3));
    EXPECT_EQ(grades[i].extracted, std::string(i % 7, 'X') + "É\n\"");
  }
  EXPECT_NE(read_file(dir_ / "reward.log").find("seen"), std::string::npos);
}

TEST_F(PythonReward, AnAnswerWithoutRecordHasItsGold) {
  const RewardConfig c = config("def judge(response, record):\n    return response == record['answer']\n");
  RewardConfig named = c;
  named.path += ":judge";
  const std::vector<Grade> grades = grade(named, {{"4", "4"}, {"5", "4"}});
  EXPECT_TRUE(grades[0].correct);
  EXPECT_EQ(grades[0].reward, 1);
  EXPECT_FALSE(grades[1].correct);
  EXPECT_EQ(grades[1].status, Grade::Status::kParsed);
}

TEST_F(PythonReward, BatchesAreOneCall) {
  const RewardConfig c = config(
      "def reward(responses, records):\n    return [len(responses) >= 1 and r == 'y' for r in responses]\n"
      "reward.batch = True\n");
  const std::vector<Grade> grades = grade(c, {{"y", ""}, {"n", ""}, {"y", ""}});
  EXPECT_TRUE(grades[0].correct && !grades[1].correct && grades[2].correct);
}

TEST_F(PythonReward, OfABatchThatFailsOneAnswerIsBlamed) {
  RewardConfig c = config(
      "import os, time\n"
      "def reward(responses, records):\n"
      "    if 'raise' in responses: raise KeyError('nothing')\n"
      "    if 'exit' in responses: os._exit(3)\n"
      "    if 'sleep' in responses: time.sleep(60)\n"
      "    return [1] * len(responses)\n"
      "reward.batch = True\n",
      1.0);
  c.workers = 1;
  std::vector<Answer> answers(24, {"fine", ""});
  answers[1].response = "raise", answers[8].response = "exit", answers[16].response = "sleep";
  const std::vector<Grade> grades = grade(c, answers);
  using S = Grade::Status;
  for (size_t i = 0; i < grades.size(); ++i)
    EXPECT_EQ(grades[i].status, i == 1 || i == 8 ? S::kError
                                : i == 16        ? S::kTimeout
                                                 : S::kParsed)
        << i << ": " << grades[i].reason;
}

TEST_F(PythonReward, WhatGoesWrongIsNamedAndNoWrongAnswer) {
  const RewardConfig c = config(
      "import os, time\n"
      "def reward(response, record):\n"
      "    if response == 'raise': raise KeyError('nothing')\n"
      "    if response == 'text': return 'a'\n"
      "    if response == 'nan': return float('nan')\n"
      "    if response == 'sleep': time.sleep(60)\n"
      "    if response == 'exit': os._exit(3)\n"
      "    if response == 'vast': return 1e300\n"
      "    if response == 'much': return len(bytearray(1 << 34))\n"
      "    return 1\n",
      1.0);
  const std::vector<Answer> answers = {{"fine", ""}, {"raise", ""}, {"text", ""}, {"nan", ""}, {"sleep", ""},
                                       {"exit", ""}, {"much", ""},  {"vast", ""}, {"fine", ""}};
  const std::vector<Grade> grades = grade(c, answers);
  using S = Grade::Status;
  const S expected[] = {S::kParsed, S::kError, S::kError, S::kError, S::kTimeout,
                        S::kError,  S::kError, S::kError, S::kParsed};
  for (size_t i = 0; i < grades.size(); ++i) EXPECT_EQ(grades[i].status, expected[i]) << i << ": " << grades[i].reason;
  EXPECT_NE(grades[1].reason.find("KeyError: 'nothing' (reward.py line 3)"), std::string::npos) << grades[1].reason;
  EXPECT_NE(grades[3].reason.find("finite"), std::string::npos) << grades[3].reason;
  EXPECT_NE(grades[4].reason.find("longer than 1 s"), std::string::npos) << grades[4].reason;
  EXPECT_TRUE(std::regex_search(grades[4].reason, std::regex("worker [0-9]+, which was killed"))) << grades[4].reason;
  EXPECT_TRUE(std::regex_search(grades[5].reason, std::regex("^worker [0-9]+ ended with status 3;")))
      << grades[5].reason;
  EXPECT_NE(grades[5].reason.find("reward.log"), std::string::npos) << grades[5].reason;
  EXPECT_EQ(grades[6].reason, "MemoryError (reward.py line 9), under reward.memory_mb: " + std::to_string(c.memory_mb));
  EXPECT_NE(grades[7].reason.find("beyond 1e+37"), std::string::npos) << grades[7].reason;
  EXPECT_NE(read_file(dir_ / "reward.log").find("KeyError"), std::string::npos) << "the traceback";
  EXPECT_EQ(grade(c, answers)[8].status, S::kParsed);  // again, with workers that had to be replaced
}

TEST_F(PythonReward, AnExceptionThatHasNoTextIsAnErrorOfItsAnswer) {
  const RewardConfig c = config(
      "class Mute(Exception):\n"
      "    def __str__(self): raise self\n"
      "def reward(response, record): raise Mute()\n",
      1.0);
  for (const Grade& one : grade(c, std::vector<Answer>(2, {"", ""}))) EXPECT_EQ(one.reason, "Mute (reward.py line 3)");
}

TEST_F(PythonReward, ARecordThatPythonCannotReadIsAnErrorOfItsAnswer) {
  const std::string deep = "{\"a\": " + std::string(100000, '[') + std::string(100000, ']') + "}";
  const std::vector<Answer> answers = {{"1", "", "{\"a\":\r1}"}, {"1", "", deep}, {"1", "", "{\"a\": 1}\r"}};
  const std::string one = "def reward(response, record):\n    return record['a']\n";
  const std::string batch =
      "def reward(responses, records):\n    return [r['a'] for r in records]\nreward.batch = True\n";
  for (const std::string& code : {one, batch}) {
    RewardConfig c = config(code, 20 + double(code.size()));  // equal configs would have the same workers
    c.workers = 1;
    const std::vector<Grade> grades = grade(c, answers);
    EXPECT_EQ(grades[0].reward, 1) << grades[0].reason;
    EXPECT_EQ(grades[1].status, Grade::Status::kError);
    EXPECT_NE(grades[1].reason.find("RecursionError"), std::string::npos) << grades[1].reason;
    EXPECT_EQ(grades[2].reward, 1) << grades[2].reason;
  }
}

TEST_F(PythonReward, AFileMayHaveAnySuffix) {
  RewardConfig c = config("");
  c.path = (dir_ / "verifier.txt").string();
  write_file(c.path, "def reward(response, record):\n    return 0.5\n");
  EXPECT_EQ(grade(c, {{"4", "4"}})[0].reward, 0.5);
}

TEST_F(PythonReward, OnlyANumberIsAReward) {
  const RewardConfig c = config(
      "import fractions\n"
      "class Scalar:  # as numpy and torch have them\n"
      "    def __float__(self): return 0.25\n"
      "def reward(response, record):\n    return eval(response)\n");
  const std::pair<const char*, const char*> texts[] = {
      {"'0.5'", "str '0.5'"},    {"b'1'", "bytes b'1'"},        {"bytearray(b'1')", "bytearray"},
      {"None", "NoneType None"}, {"('1_0', 'x')", "str '1_0'"}, {"{'reward': '1'}", "str '1'"}};
  for (const auto& [response, found] : texts) {
    const Grade g = grade(c, {{response, ""}})[0];
    EXPECT_EQ(g.status, Grade::Status::kError) << response;
    EXPECT_NE(g.reason.find(std::string("the reward must be a number, got ") + found), std::string::npos) << g.reason;
  }
  const std::pair<const char*, double> numbers[] = {
      {"True", 1}, {"2", 2}, {"fractions.Fraction(1, 2)", 0.5}, {"Scalar()", 0.25}, {"(0.5, None)", 0.5}};
  for (const auto& [response, value] : numbers) {
    const Grade g = grade(c, {{response, ""}})[0];
    EXPECT_EQ(g.status, Grade::Status::kParsed) << g.reason;
    EXPECT_EQ(g.reward, value) << response;
  }
}

TEST_F(PythonReward, AGradeOfAnotherFormIsNamedWithTheRule) {
  const RewardConfig c = config("import os\ndef reward(response, record):\n    return eval(response)\n");
  const std::pair<const char*, const char*> others[] = {
      {"[1.0]", "a pair of it and the answer that was read, got [1.0] (a function of many answers has reward.batch"},
      {"(1, 'a', 2)", "a pair of it and the answer that was read, got (1, 'a', 2)"},
      {"{'score': 1}", "a dict must have the key reward, got {'score': 1}"},
      {"exit(4)", "ended with status 4"},
      {"os.kill(os.getpid(), 9)", "ended by signal 9"}};
  for (const auto& [response, reason] : others) {
    const Grade g = grade(c, {{response, ""}})[0];
    EXPECT_EQ(g.status, Grade::Status::kError) << response;
    EXPECT_NE(g.reason.find(reason), std::string::npos) << g.reason;
  }
  const Grade half = grade(c, {{"(1, 'é' + chr(0xd800))", ""}})[0];
  EXPECT_EQ(half.status, Grade::Status::kParsed) << half.reason;
  EXPECT_EQ(half.extracted, "é?");
}

TEST_F(PythonReward, AFileThatDoesNotServeIsRefusedWithItsReason) {
  EXPECT_NE(refusal(config("import nothing_of_that_name\n")).find("nothing_of_that_name"), std::string::npos);
  const std::string no_reward = refusal(config("def other(a, b): return 1\n"));
  EXPECT_NE(no_reward.find("reward.py: defines no function reward: it must define reward(response, record)"),
            std::string::npos)
      << no_reward;
  EXPECT_NE(refusal(config("reward = 1\n")).find("defines reward, which is no function"), std::string::npos);
  EXPECT_NE(read_file(dir_ / "reward.log").find("defines reward, which"), std::string::npos) << "the message names it";
  RewardConfig missing = config("");
  missing.path = (dir_ / "absent.py").string();
  EXPECT_NE(refusal(missing).find("absent.py"), std::string::npos);
  RewardConfig interpreter = config("def reward(a, b): return 1\n");
  interpreter.python = "no-such-python";
  EXPECT_NE(refusal(interpreter).find("reward.python no-such-python: the interpreter cannot be started"),
            std::string::npos);
  RewardConfig folder = config("");
  folder.path = dir_.path().string();
  EXPECT_NE(refusal(folder).find("IsADirectoryError"), std::string::npos) << refusal(folder);
}

TEST(PythonRewardConfig, KeysThatBelongTogether) {
  RewardConfig c;
  c.kind = "python";
  EXPECT_THROW(c.validate(), Error);
  c.path = "x.py";
  c.validate();
  c.kind = "math";
  EXPECT_THROW(c.validate(), Error);
}

}  // namespace
}  // namespace mantissa
