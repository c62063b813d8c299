// Several rewards by name: read from a config, summed by weight, chosen by the row's data_source.
#include "rl/reward/rewards.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/notice.h"
#include "rl/config.h"
#include "rl/evaluate.h"
#include "rl/reward/grading.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

constexpr const char* kRest = "model: {path: m}\ndata: {files: f}\n";

RewardsConfig rewards(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return parse_run_config(kRest + yaml, "test", overrides).reward;
}

std::string error_of(const std::string& yaml) {
  return message_of([&] { rewards(yaml); });
}

TEST(Rewards, AConfigNamesThem) {
  const RewardsConfig plain = rewards("reward: {kind: exact}\n");
  EXPECT_TRUE(plain.named.empty());
  EXPECT_EQ(plain.one.kind, "exact");

  const char* yaml =
      "reward:\n  answer: {kind: math, data_source: [gsm8k, math]}\n"
      "  layout:\n    kind: format\n    weight: 0.25\n";
  const RewardsConfig two = rewards(yaml, {"reward.answer.boxed_only=true", "reward.text.kind=exact"});
  ASSERT_EQ(two.named.size(), 3u);
  EXPECT_EQ(two.named.at("answer").reward.kind, "math");
  EXPECT_TRUE(two.named.at("answer").reward.boxed_only);
  EXPECT_EQ(two.named.at("answer").data_source, (std::vector<std::string>{"gsm8k", "math"}));
  EXPECT_EQ(two.named.at("layout").weight, 0.25);
  EXPECT_EQ(two.named.at("text").reward.kind, "exact");

  const std::string printed = format_run_config(parse_run_config(kRest + std::string(yaml), "test", {}));
  EXPECT_EQ(format_run_config(parse_run_config(printed, "printed", {})), printed);
}

TEST(Rewards, ErrorsNameTheKey) {
  EXPECT_NE(error_of("reward:\n  a: {kind: maths}\n").find("line 4: reward.a.kind must be one of"), std::string::npos)
      << error_of("reward:\n  a: {kind: maths}\n");
  EXPECT_NE(error_of("reward:\n  a: {kind: command}\n").find("reward.a: reward.command: required"), std::string::npos);
  EXPECT_NE(error_of("reward:\n  a: {kidn: math}\n").find("\"reward.a.kind\""), std::string::npos);
  EXPECT_NE(error_of("reward:\n  kind: math\n  a: {kind: math}\n")
                .find("line 4: reward.kind stands beside rewards that have names (a)"),
            std::string::npos);
  EXPECT_NE(error_of("optim:\n  lr: {a: 1}\n").find("unknown key \"optim.lr.a\""), std::string::npos);
}

TEST(Rewards, NamesAreOfLettersAndDigits) {
  EXPECT_EQ(rewards("reward:\n  a-B_9: {kind: math}\n").named.size(), 1u);
  for (const std::string name : {"", "a/b c", "é"})
    EXPECT_NE(error_of("reward:\n  \"" + name + "\": {kind: math}\n")
                  .find("reward.NAME: must be a name of the letters a to z and A to Z, digits, _ and -, got \"" + name),
              std::string::npos);
}

RolloutGroup group(const std::string& source, const std::vector<std::string>& responses) {
  RolloutGroup g;
  g.prompt.answer = "4";
  g.prompt.data_source = source;
  for (const std::string& text : responses) g.samples.emplace_back().completion.text = text;
  return g;
}

TEST(Rewards, AddUpByWeightForTheRowsTheyGrade) {
  const RewardsConfig config = rewards(
      "reward:\n  answer: {kind: math, data_source: sums}\n  layout: {kind: format, weight: 0.5}\n"
      "  text: {kind: exact, weight: 2, data_source: [words]}\n");
  std::vector<RolloutGroup> groups{group("sums", {"\\boxed{8/2}", "\\boxed{5}"}), group("words", {"4", "\\boxed{5}"})};
  Metrics metrics;
  grade_samples(config, groups, metrics);
  EXPECT_EQ(metrics.get("verifier/parsed") + metrics.get("verifier/unparsed") + metrics.get("verifier/no_answer"), 8);
  EXPECT_EQ(metrics.get("verifier/error"), 0);
  const auto sample = [&](size_t g, size_t i) { return groups[g].samples[i]; };
  EXPECT_EQ(sample(0, 0).reward, 1.5);
  EXPECT_EQ(sample(0, 1).reward, 0.5);
  EXPECT_EQ(sample(1, 1).reward, 0.5);
  ASSERT_EQ(sample(0, 0).rewards.size(), 3u);
  EXPECT_EQ(sample(0, 0).rewards[0], 1);
  EXPECT_EQ(sample(0, 0).rewards[1], 1);
  EXPECT_TRUE(std::isnan(sample(0, 0).rewards[2]));
  EXPECT_TRUE(std::isnan(sample(1, 0).rewards[0]));
  EXPECT_EQ(sample(1, 0).rewards[2], 1);
  EXPECT_EQ(sample(0, 0).extracted, "8/2");
}

TEST(Rewards, WhatIsCorrectIsNoMatterOfWeights) {
  const std::vector<std::string> responses = {"\\boxed{4}", "\\boxed{5}", "I do not know."};
  const auto correct = [&](const std::string& named, const std::string& source = "") {
    std::vector<RolloutGroup> groups{group(source, responses)};
    Metrics metrics;
    grade_samples(rewards("reward: {" + named + "}\n"), groups, metrics);
    std::vector<bool> right;
    for (const RolloutSample& s : groups[0].samples) right.push_back(s.correct);
    return right;
  };
  const std::vector<bool> first = {true, false, false}, marked = {true, true, false}, none = {false, false, false};
  for (const char* weight : {"0", "0.4", "1", "1000"})
    EXPECT_EQ(correct(str("right: {kind: math, weight: ", weight, "}, form: {kind: format, weight: 0.5}")), first);
  EXPECT_EQ(correct("a: {kind: command, command: echo 0.5}, right: {kind: exact}"), first)
      << "a program's may be style";
  EXPECT_EQ(correct("a: {kind: command, command: echo 0.4}, right: {kind: exact}"), first);
  EXPECT_EQ(correct("a: {kind: command, command: echo 0.4}, form: {kind: format}"), none);
  EXPECT_EQ(correct("a: {kind: command, command: echo 0.5}, form: {kind: format}"), (std::vector<bool>(3, true)));
  EXPECT_EQ(correct("right: {kind: math}, text: {kind: exact, boxed_only: true}"), first) << "all of them";
  EXPECT_EQ(correct("form: {kind: format}"), marked) << "as of one reward without a name";
  EXPECT_EQ(correct("fault: {kind: math, weight: -1}"), none) << "a penalty judges nothing";
  EXPECT_EQ(correct("fault: {kind: command, command: echo 0, weight: -1}, form: {kind: format}"), marked);
  EXPECT_EQ(correct("right: {kind: math, data_source: a}, form: {kind: format}", "a"), first);
  EXPECT_EQ(correct("right: {kind: math, data_source: a}, form: {kind: format}", "b"), marked) << "of those of its row";
  EXPECT_EQ(correct("right: {kind: math}, z: {kind: command, command: exit 1}"), first) << "its failure says nothing";
  EXPECT_EQ(correct("form: {kind: format}, z: {kind: command, command: exit 1}"), none) << "here it decides";
}

TEST(Rewards, TheVoteIsByTheAnswerThatWasJudged) {
  std::vector<RolloutGroup> groups{group("", {"\\boxed{4}</think> no, \\boxed{5}"})};
  Metrics metrics;
  grade_samples(rewards("reward: {a: {kind: command, command: echo 1 said}, right: {kind: math, format: sanity}}\n"),
                groups, metrics);
  EXPECT_EQ(groups[0].samples[0].extracted, "5");
  EXPECT_FALSE(groups[0].samples[0].correct);
}

TEST(Rewards, AFailedRewardIsNoneAndFailsTheSample) {
  const RewardsConfig config =
      rewards("reward:\n  broken: {kind: command, command: exit 7}\n  layout: {kind: format}\n");
  std::vector<RolloutGroup> groups{group("", {"\\boxed{4}"})};
  Metrics metrics;
  grade_samples(config, groups, metrics);
  const RolloutSample& sample = groups[0].samples[0];
  EXPECT_EQ(sample.status, Grade::Status::kError);
  EXPECT_TRUE(std::isnan(sample.rewards[0])) << "it enters no mean";
  EXPECT_EQ(sample.rewards[1], 1);
}

TEST(Rewards, AFailureTouchesTheSumOrTheVerdictOrNeither) {
  struct Case {
    const char* named;
    bool correct, judged, summed;
    const char* reason;
  };
  const std::string fails = "{kind: command, command: exit 7, weight: ";
  for (const auto& [named, correct, judged, summed, reason] : std::initializer_list<Case>{
           {"a: {kind: math}, s: FAILS 0}", true, true, true, "same text"},
           {"z: {kind: math}, s: FAILS 0}", true, true, true, "same text"},
           {"a: {kind: math}, s: FAILS 0.1}", true, true, false, "exit code 7"},
           {"a: {kind: math}, s: FAILS -1}", true, true, false, "exit code 7"},
           {"a: {kind: math, weight: 0}, s: FAILS 1}", true, true, false, "exit code 7"},
           {"a: {kind: format}, s: FAILS 0}", false, false, true, "exit code 7"},
           {"a: {kind: format}, s: FAILS 1}", false, false, false, "exit code 7"},
           {"a: {kind: command, command: echo 1}, s: FAILS 0}", false, false, true, "exit code 7"},
           {"s: FAILS -1}", false, false, false, "exit code 7"}}) {
    std::string text = named;
    text.replace(text.find("FAILS "), 6, fails);
    std::vector<RolloutGroup> groups{group("", {"\\boxed{4}"})};
    Metrics metrics;
    grade_samples(rewards("reward: {" + text + "}\n"), groups, metrics);
    const RolloutSample& sample = groups[0].samples[0];
    EXPECT_EQ(sample.correct, correct) << text;
    EXPECT_EQ(!is_failure(sample.verdict), judged) << text;
    EXPECT_EQ(!is_failure(sample.status), summed) << text;
    EXPECT_NE(sample.reason.find(reason), std::string::npos) << text << ": " << sample.reason;
    EXPECT_EQ(problem_result(groups[0]).ungraded(), !judged) << text;
    EXPECT_EQ(metrics.get("verifier/error"), 1) << text;
  }
}

TEST(Rewards, ASumBeyondWhatAdvantagesHoldIsAnError) {
  const RewardsConfig config = rewards(
      "reward:\n  huge: {kind: command, command: echo 1e36, weight: 1e5}\n  layout: {kind: format, weight: 0.5}\n");
  std::vector<RolloutGroup> groups{group("", {"\\boxed{4}"})};
  Metrics metrics;
  grade_samples(config, groups, metrics);
  EXPECT_EQ(groups[0].samples[0].reward, 0);
  EXPECT_EQ(metrics.get("verifier/error"), 1);
  EXPECT_NE(groups[0].samples[0].reason.find("beyond 1e+37"), std::string::npos) << groups[0].samples[0].reason;
}

TEST(Rewards, ARowThatNoneGradesIsAnError) {
  const RewardsConfig config = rewards("reward:\n  a: {kind: math, data_source: sums}\n");
  EXPECT_NO_THROW(config.check_source("sums", "f.jsonl:1"));
  try {
    config.check_source("words", "f.jsonl:8");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("f.jsonl:8: no reward grades data_source \"words\""), std::string::npos);
  }
}

TEST(Rewards, ASourceThatNoRowHasIsSaid) {
  const RewardsConfig config = rewards(
      "reward:\n  x: {kind: math}\n  y: {kind: math, data_source: [a, b]}\n  z: {kind: exact, data_source: [nosuch, a]}\n");
  std::vector<std::string> notices;
  set_notice_sink([&](const std::string& text) { notices.push_back(text); });
  config.note_sources({"a", "b"});
  set_notice_sink({});
  EXPECT_EQ(notices,
            std::vector<std::string>{
                "reward.z.data_source: no row of data.files or eval.files has \"nosuch\"; there are \"a\", \"b\""});
}

}  // namespace
}  // namespace mantissa
