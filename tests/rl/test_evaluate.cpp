// Evaluation: pass@k, majority, intervals; grading by a user's program; the self-test's trend.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <thread>

#include "core/file.h"
#include "rl/evaluate.h"
#include "rl/reward/command.h"
#include "rl/reward/grading.h"
#include "rl/selftest.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

RolloutSample sample(double reward, std::string extracted, int tokens = 1, Finish finish = Finish::kStop) {
  RolloutSample s;
  s.reward = reward;
  s.correct = reward == 1;
  s.extracted = std::move(extracted);
  s.completion.ids.assign(size_t(tokens), 0);
  s.completion.finish = finish;
  return s;
}

TEST(Evaluate, PassAtKIsTheShareOfDrawsWithACorrectOne) {
  EXPECT_DOUBLE_EQ(pass_at_k(4, 1, 1), 0.25);
  EXPECT_DOUBLE_EQ(pass_at_k(4, 1, 2), 0.5);           // 3 of 6 pairs hold it
  EXPECT_DOUBLE_EQ(pass_at_k(5, 2, 3), 1 - 1.0 / 10);  // one of 10 triples misses both
  EXPECT_EQ(pass_at_k(5, 3, 3), 1.0);
  EXPECT_EQ(pass_at_k(5, 0, 5), 0.0);
  EXPECT_THROW(pass_at_k(4, 5, 1), Error);
  EXPECT_THROW(pass_at_k(4, 1, 5), Error);
}

Prompt problem(int64_t id) {
  Prompt p;
  p.id = id;
  return p;
}

TEST(Evaluate, SummaryOfTwoProblems) {
  RolloutGroup a{problem(3),
                 {sample(1, "7", 2), sample(0, "8", 4, Finish::kLength), sample(1, "7", 3), sample(0, "", 1)}};
  RolloutGroup b{problem(5), {sample(0, "1"), sample(0, "2"), sample(1, "3"), sample(0, "1")}};
  b.samples[0].reward = 0.5;  // for its form, say: a reward is no sign of a right answer
  const ProblemResult results[] = {problem_result(a), problem_result(b)};
  EXPECT_EQ(results[0].row, 3);
  EXPECT_EQ(results[0].correct, 2);
  EXPECT_EQ(results[0].tokens, 10);
  EXPECT_EQ(results[0].truncated, 1);
  const EvalSummary s = summarize(results);
  EXPECT_EQ(s.problems, 2);
  EXPECT_DOUBLE_EQ(s.avg, (0.5 + 0.25) / 2);
  EXPECT_DOUBLE_EQ(s.pass, 1.0);
  EXPECT_DOUBLE_EQ(s.majority, 0.5) << "7 wins the first and is right, 1 the second and is wrong";
  EXPECT_DOUBLE_EQ(s.mean_length, 14.0 / 8);
  EXPECT_DOUBLE_EQ(s.truncated, 1.0 / 8);
  EXPECT_DOUBLE_EQ(pass_at(results, 2), (pass_at_k(4, 2, 2) + pass_at_k(4, 1, 2)) / 2);
  EXPECT_EQ(summarize({}).avg, 0.0);
}

TEST(Evaluate, TiesOfTheVoteShareIt) {
  const std::vector<RolloutSample> tie = {sample(1, "7"), sample(0, "8"), sample(0, ""), sample(0, "")};
  EXPECT_DOUBLE_EQ(majority_correct(tie), 0.5);
  EXPECT_EQ(majority_correct(std::vector<RolloutSample>{sample(0, "")}), 0.0);
}

TEST(Evaluate, BootstrapIntervalIsAboutTwoStandardErrors) {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(i % 4 == 0);
  const Interval interval = bootstrap_interval(values);
  const double error = std::sqrt(0.25 * 0.75 / 400);
  EXPECT_NEAR(interval.low, 0.25 - 1.96 * error, 0.3 * error);
  EXPECT_NEAR(interval.high, 0.25 + 1.96 * error, 0.3 * error);
  const double equal[] = {0.5, 0.5, 0.5};
  EXPECT_EQ(bootstrap_interval(equal).low, 0.5);
  EXPECT_EQ(bootstrap_interval(equal).high, 0.5);
  EXPECT_EQ(bootstrap_interval(values).low, interval.low) << "repeats";
}

TEST(Evaluate, SetsAreNamedByTheirFiles) {
  const std::vector<std::string> names = set_names({"data/aime.jsonl", "x/t.jsonl", "y/t.jsonl"});
  EXPECT_EQ(names, (std::vector<std::string>{"aime", "x/t.jsonl", "y/t.jsonl"}));
}

TEST(Grading, CountsEveryStatus) {
  std::vector<RolloutGroup> groups(2);
  groups[0].prompt.answer = groups[1].prompt.answer = "4";
  for (const char* text : {"\\boxed{4}", "\\boxed{5}", "\\boxed{4 +}"})
    groups[0].samples.emplace_back().completion.text = text;
  groups[1].samples.emplace_back().completion.text = "I do not know.";
  Metrics metrics;
  grade_samples({}, groups, metrics);
  EXPECT_EQ(groups[0].samples[0].reward, 1.0);
  EXPECT_EQ(groups[0].samples[1].reward, 0.0);
  EXPECT_EQ(groups[0].samples[1].extracted, "5");
  EXPECT_EQ(metrics.get("verifier/parsed"), 2);
  EXPECT_EQ(metrics.get("verifier/unparsed"), 1);
  EXPECT_EQ(metrics.get("verifier/no_answer"), 1);
  EXPECT_EQ(metrics.get("verifier/timeout"), 0);
  grade_samples({}, groups, metrics);  // a second rollout of the same step adds up
  EXPECT_EQ(metrics.get("verifier/parsed"), 4);
}

// ---- a user's program ------------------------------------------------------------------------------------

RewardConfig command(const std::string& line, double seconds = 10) {
  return {.kind = "command", .command = line, .timeout_s = seconds, .memory_mb = 256};
}

TEST(RewardCommand, ReadsJsonAndPrintsTheReward) {
  const Grade g = grade(command("cat >&2; echo '0.25 seen it'"), "a \"quoted\"\nresponse", "4");
  EXPECT_EQ(g.status, Grade::Status::kParsed);
  EXPECT_EQ(g.reward, 0.25);
  EXPECT_FALSE(g.correct);
  EXPECT_EQ(g.extracted, "seen it");
  const RewardConfig echo = command(R"sh(read -r line; [ "$line" = '{"gold":"4","response":"x\ny"}' ] && echo 1)sh");
  EXPECT_TRUE(grade(echo, "x\ny", "4").correct);
}

TEST(RewardCommand, FailuresAreNoWrongAnswers) {
  for (const char* line : {"exit 3", "echo nothing", "echo nan", "kill -9 $$", "true", "/no/such/program"}) {
    const Grade g = grade(command(line), "x", "4");
    EXPECT_EQ(g.status, Grade::Status::kError) << line;
    EXPECT_EQ(g.reward, 0.0) << line;
    EXPECT_FALSE(g.reason.empty()) << line;
  }
}

TEST(Rewards, AnEmptyGoldAnswerIsAnErrorThatNamesTheLine) {
  for (const char* kind : {"math", "exact", "code"}) {
    RewardsConfig rewards;
    rewards.one.kind = kind;
    for (const char* empty : {"", " \n"}) try {
        rewards.check_gold("", empty, "train.jsonl:7");
        ADD_FAILURE() << kind;
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("train.jsonl:7: the gold answer is empty: reward.kind "),
                  std::string::npos);
        EXPECT_NE(std::string(e.what()).find(kind), std::string::npos);
      }
    EXPECT_NO_THROW(rewards.check_gold("", "0", "train.jsonl:7"));
  }
  RewardsConfig math;
  for (const char* empty : {"\\boxed{}", "\\boxed{ }", "$$", "$ $", "####", "The sum: \\boxed{}", "\u00a0"})
    EXPECT_THROW(math.check_gold("", empty, "train.jsonl:7"), Error) << empty;
  for (const char* gold : {"\\{\\}", "\\emptyset", "-", "\\text{no}", "0", "\\boxed{0}", "()"})
    EXPECT_NO_THROW(math.check_gold("", gold, "train.jsonl:7")) << gold;
  RewardsConfig rewards;
  rewards.named["layout"].reward.kind = "format";
  EXPECT_NO_THROW(rewards.check_gold("a", "", "train.jsonl:7"));
  rewards.named["answer"].data_source = {"b"};
  EXPECT_NO_THROW(rewards.check_gold("a", "", "train.jsonl:7"));
  EXPECT_THROW(rewards.check_gold("b", "", "train.jsonl:7"), Error);
}

TEST(RewardCommand, ANumberStandsAlone) {
  for (const char* text : {"0,75", "1,5", "5/10", "100%", "0x10", "1_000", "1.0.5", "1e", "+-1", "++1", "1abc", "-",
                           "+", "1e999", "inf", "1.5kg", "$1", "'1'"}) {
    const Grade g =
        grade(command("printf '%s\\n' \"" + std::string(text[0] == '$' ? "\\" : "") + text + "\""), "x", "4");
    EXPECT_EQ(g.status, Grade::Status::kError) << text;
    EXPECT_NE(g.reason.find(text), std::string::npos) << g.reason;
  }
  struct Case {
    const char* text;
    double reward;
    const char* extracted;
  };
  for (auto [text, reward, extracted] : std::initializer_list<Case>{{"+1", 1, ""},
                                                                    {"-0.5", -0.5, ""},
                                                                    {"1e-3", 1e-3, ""},
                                                                    {"0.5 abc", 0.5, "abc"},
                                                                    {"1\t2", 1, "2"},
                                                                    {".5", 0.5, ""}}) {
    const Grade g = grade(command("printf '%s\\n' '" + std::string(text) + "'"), "x", "4");
    EXPECT_EQ(g.status, Grade::Status::kParsed) << text << ": " << g.reason;
    EXPECT_EQ(g.reward, reward) << text;
    EXPECT_EQ(g.extracted, extracted) << text;
  }
}

TEST(RewardCommand, RewardsBeyondAdvantagesAreNamed) {
  for (const char* text : {"1e200", "-1e200", "3.5e38"}) {
    const Grade g = grade(command("echo " + std::string(text)), "x", "4");
    EXPECT_EQ(g.status, Grade::Status::kError) << text;
    EXPECT_NE(g.reason.find(text), std::string::npos) << g.reason;
  }
  EXPECT_EQ(grade(command("echo 1e30"), "x", "4").reward, 1e30);
}

TEST(RewardCommand, WhatItStartedIsKilledWithIt) {
  TempDir dir;
  const std::string pid_file = (dir / "pid").string();
  const auto start = std::chrono::steady_clock::now();
  const Grade g = grade(command("sleep 60 & echo $! > " + pid_file + "; wait", 0.5), "x", "4");
  EXPECT_EQ(g.status, Grade::Status::kTimeout);
  EXPECT_NE(g.reason.find("0.5 s"), std::string::npos) << g.reason;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  const pid_t child = pid_t(std::stol(read_file(dir / "pid")));
  bool gone = false;
  for (int i = 0; i < 100 && !gone; ++i) {
    std::ifstream status("/proc/" + std::to_string(child) + "/stat");
    std::string id, name, state;
    status >> id >> name >> state;
    gone = !status || state == "Z";  // nobody may have reaped it
    if (!gone) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_TRUE(gone);
  // One that ends, but leaves something behind that holds its output.
  const Grade left = grade(command("sleep 60 & echo 1", 0.5), "x", "4");
  EXPECT_EQ(left.status, Grade::Status::kTimeout) << "its output never ends";
}

TEST(RewardCommand, MemoryIsBounded) {
  const CommandResult r = run_command("ulimit -v", "", {.seconds = 10, .memory_mb = 64});
  EXPECT_EQ(r.output, "65536\n");
}

TEST(RewardCommand, LargeInputsAndOutputs) {
  const std::string large(size_t(1) << 20, 'a');
  const CommandResult read = run_command("wc -c", large, {});
  EXPECT_EQ(read.output, "1048576\n");
  const CommandResult ignored = run_command("echo 1", large, {});  // it does not read: no signal reaches us
  EXPECT_EQ(ignored.end, CommandResult::End::kExited);
  const CommandResult wrote = run_command("cat", large, {});
  EXPECT_EQ(wrote.end, CommandResult::End::kExited);
  EXPECT_EQ(wrote.output.size(), size_t(64) << 10);
}

TEST(RewardCommand, CodeRunsTheLastBlockWithItsTests) {
  const RewardConfig code{.kind = "code", .command = "sh -", .timeout_s = 10, .memory_mb = 256};
  const std::string response = "First:\n```sh\nx=1\n```\nbetter:\n```sh\nx=2\n```\ndone";
  EXPECT_TRUE(grade(code, response, "[ $x = 2 ]").correct);
  const Grade wrong = grade(code, response, "[ $x = 1 ]");
  EXPECT_FALSE(wrong.correct);
  EXPECT_EQ(wrong.status, Grade::Status::kParsed);
  EXPECT_EQ(wrong.extracted, "x=2\n");
  EXPECT_TRUE(grade(code, "```\nx=2", "[ $x = 2 ]").correct) << "left open";
  EXPECT_EQ(grade(code, "x=2", "true").status, Grade::Status::kNoAnswer);
  EXPECT_EQ(grade({.kind = "code", .command = "/no/such/program"}, "```\nx\n```", "").status, Grade::Status::kError);
}

// ---- self-test -------------------------------------------------------------------------------------------

TEST(SelfTestTrend, IsTheSlopeOverItsStandardError) {
  const double line[] = {1, 2, 3, 4}, flat[] = {2, 2, 2, 2}, few[] = {1, 2, 3};
  EXPECT_TRUE(std::isinf(trend(line)) || trend(line) > 1e6);
  EXPECT_EQ(trend(flat), 0);
  EXPECT_EQ(trend(few), 0);
  // y = 0, 2, 1, 3: slope 0.8, residuals sum to 1.8, standard error sqrt(1.8 / 2 / 5).
  const double noisy[] = {0, 2, 1, 3};
  EXPECT_NEAR(trend(noisy), 0.8 / std::sqrt(1.8 / 2 / 5), 1e-12);
}

}  // namespace
}  // namespace mantissa
