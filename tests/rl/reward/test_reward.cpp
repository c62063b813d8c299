// The verifier: where the answer is, what equals what, what does not, and that no text is too much for it.
// tests/golden/verifier_cases.jsonl holds cases of public graders' test suites (source field: repository and file).
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/fields.h"
#include "rl/reward/math/compare.h"
#include "rl/reward/math/extract.h"
#include "rl/reward/math/parser.h"
#include "rl/reward/reward.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
const fs::path kGolden = fs::path(MANTISSA_SOURCE_DIR) / "tests" / "golden";
const fs::path kShared = fs::path(MANTISSA_SOURCE_DIR) / ".." / "shared" / "data";

std::vector<nlohmann::json> read_lines(const fs::path& path) {
  std::vector<nlohmann::json> rows;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

std::string boxed(const std::string& text) {
  return "So the result is $\\boxed{" + text + "}$.";
}

TEST(Extraction, FindsTheLastAnswer) {
  struct Case {
    const char *response, *answer;
  };
  for (auto [response, answer] : std::initializer_list<Case>{{"\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"},
                                                             {"\\boxed{\\{1, \\{2\\}\\}}", "\\{1, \\{2\\}\\}"},
                                                             {"\\boxed{\\text{a \\boxed{3}}}", "\\text{a \\boxed{3}}"},
                                                             {"<think>\\boxed{1}</think> hence \\fbox{2}", "2"},
                                                             {"<think>\\boxed{1}</think> and I say no more", ""},
                                                             {"\\boxed{5} and \\boxed{6", "5"},
                                                             {"It is \\boxed 7", "7"},
                                                             {"steps\n#### 1,234\n", "1,234"},
                                                             {"The answer is 12. I hope so.", "12"},
                                                             {"The answer is $\\frac{1}{2}$, surely.", "\\frac{1}{2}"},
                                                             {"**Final Answer:** 3.5", "3.5"},
                                                             {"Answer: 1\nAnswer: 2", "2"},
                                                             {"The final answer is: the largest n is 34.", "34"},
                                                             {"The answer is \\$5.50.", "\\$5.50"},
                                                             {"42", "42"},
                                                             {"work mentions 34 and more", ""},
                                                             {"", ""},
                                                             {"\\boxed{}", ""}}) {
    const Grade g = grade({}, response, "never");
    EXPECT_EQ(g.extracted, answer) << response;
    EXPECT_EQ(g.status == Grade::Status::kNoAnswer, g.extracted.empty()) << response;
  }
  EXPECT_EQ(extract_answer("\\boxed{1} and $\\boxed{2}$").text, "1, 2");
  EXPECT_EQ(extract_answer("\\boxed{1} so that \\boxed{2}").text, "2");
  EXPECT_FALSE(extract_answer("the answer is 3", true).found);

  std::string nested;  // as fast as any other text of its length
  for (int i = 0; i < 200000; ++i) nested += "\\boxed{";
  nested += "1 " + std::string(200000, '}');
  EXPECT_EQ(extract_answer(nested).text.size(), nested.size() - 8);
  EXPECT_EQ(extract_answer("\\boxed{a \\fbox }x{1} b}").text, "a \\fbox") << "a box without braces of its own";
  EXPECT_EQ(extract_answer("\\boxed{\\boxed{1} \\fbox{2 \\boxed{3}} 4}").text, "\\boxed{1} \\fbox{2 \\boxed{3}} 4");
}

TEST(Verifier, EqualAnswers) {
  const std::pair<const char*, const char*> kPairs[] = {
      {"\\frac38", "0.375"},
      {"\\dfrac{98}5", "19.6"},
      {"1\\frac{4}{5}", "\\frac95"},
      {"-3 \\frac{1}{2}", "-3.5"},
      {"1 1/2", "3/2"},
      {"16.\\overline{6}", "50/3"},
      {"11,\\! 111,\\! 111,\\! 100", "11111111100"},
      {"1{,}008{,}016", "1,008,016"},
      {"2.5E2", "250"},
      {"\\$1,\\!657", "1657 dollars"},
      {"84\\%", "84 percent"},
      {"84\\%", "0.84"},
      {"90^\\circ", "90 degrees"},
      {"90^{\\circ}", "\\pi/2"},
      {"864 \\mbox{ inches}^2", "864"},
      {"32\\text{ square cm}", "32 cm^2"},
      {"204_5", "204_{5}"},
      {"\\text{(C)}", "C"},
      {"B", "\\textbf{(B)}\\ 24"},
      {"(D) Alina", "D"},
      {"\\text{east}", "East"},
      {"-2 \\text{ or } -12", "-12, -2"},
      {"1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"},
      {"\\{1\\pm\\sqrt{5},-2\\}", "\\{-2, 1+\\sqrt5, 1-\\sqrt5\\}"},
      {"x = 1, y = 2", "(1, 2)"},
      {"x=5", "5"},
      {"x \\approx 11", "11"},
      {"x \\in [-2,7]", "-2 \\le x \\le 7"},
      {"(5,\\infty)", "x > 5"},
      {"x \\leq 5", "5 \\geq x"},
      {"(-\\infty, 2) \\cup (3, \\infty)", "x < 2 \\text{ or } x > 3"},
      {"(0,9) \\cup (9,36)", "(9, 36) \\cup (0, 9)"},
      {"\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}", "\\begin{bmatrix} 0.2 \\\\ -3.6 \\end{bmatrix}"},
      {"\\begin{vmatrix} 2 & 1 \\\\ 1 & 2 \\end{vmatrix}", "3"},
      {"\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt2}{2}"},
      {"4.123105625617661", "\\sqrt{17}"},
      {"0.6666667", "2/3"},
      {"(a+5)(b+2)", "ab + 2a + 5b + 10"},
      {"\\tan^2 y + 1", "\\sec^2 y"},
      {"f(4 - x)", "f(-x+4)"},
      {"i(2-i)", "1+2i"},
      {"5x - 7y + 11z + 4 = 0", "-10x + 14y = 22z + 8"},
      {"y = 2x + 3", "f(x) = 3 + 2x"},
      {"\\log\\left(\\frac{2007}{2006}\\right)", "\\ln 2007 - \\ln 2006"},
      {"\\binom{16}{2}", "5!"},
      {"8\\!:\\!34 \\text{ p.m.}", "8:34 PM"},
      {"2^{98}", "4^{49}"},
      {"√3/2", "\\frac{\\sqrt{3}}{2}"}};
  for (auto [a, b] : kPairs) {
    const MathVerdict there = math_equal(a, b), back = math_equal(b, a);
    EXPECT_TRUE(there.equal) << a << " | " << b << ": " << there.reason;
    EXPECT_TRUE(back.equal) << b << " | " << a << ": " << back.reason;
  }
  // A sum of names labels an answer but is an equation as the gold; a ratio out of lowest terms is a time there.
  EXPECT_TRUE(math_equal("m+n = 12+5 = 17", "17").equal);
  EXPECT_FALSE(math_equal("17", "m+n = 17").equal);
  EXPECT_TRUE(math_equal("4:6", "2:3").equal);
  EXPECT_FALSE(math_equal("2:3", "4:6").equal);
}

TEST(Verifier, DifferentAnswers) {
  const std::pair<const char*, const char*> kPairs[] = {{"5", "5.001"},
                                                        {"2.23", "2.232"},
                                                        {"0.3333", "\\frac13"},
                                                        {"2^{98}", "2^{98}+1"},
                                                        {"\\sqrt{2}", "1.41"},
                                                        {"(1,2)", "(2,1)"},
                                                        {"[0,1)", "[0,1]"},
                                                        {"\\{1,2\\}", "\\{1,2,3\\}"},
                                                        {"-1,3,3", "-1,3"},
                                                        {"32349", "32, 349"},
                                                        {"10 cm", "10 m\\text{inutes}"},
                                                        {"80\\text{ cents}", "80\\text{ dollars}"},
                                                        {"20\\%", "20^\\circ"},
                                                        {"204_5", "204"},
                                                        {"1112112_3", "1112122_3"},
                                                        {"C", "\\textbf{(B)} C"},
                                                        {"A", "(A) or (B)"},
                                                        {"\\text{east}", "\\text{west}"},
                                                        {"1 \\pm \\sqrt{19}", "1 + \\sqrt{19}"},
                                                        {"x=5", "y=5"},
                                                        {"13", "3 \\cdot 4 = 13"},
                                                        {"a + 3z = 0", "0"},
                                                        {"10", "2x = 10"},
                                                        {"x \\geq 5", "x \\leq 5"},
                                                        {"x > 5", "x \\ge 5"},
                                                        {"x^2", "y^2"},
                                                        {"\\sqrt{x^2}", "x"},
                                                        {"f(x)", "f(y)"},
                                                        {"9:24", "3/8"},
                                                        {"2x + z - 5 = 0", "2x + z - 4 = 0"},
                                                        {"1+2i", "1-2i"}};
  for (auto [a, b] : kPairs) {
    EXPECT_FALSE(math_equal(a, b).equal) << a << " | " << b;
    EXPECT_FALSE(math_equal(b, a).equal) << b << " | " << a;
  }
}

TEST(Verifier, AnswersInTagsOfTheR1Template) {
  const std::string response = "<think> 40 + 2, so <answer> 7 </answer>? No. </think> <answer> 42 </answer>";
  EXPECT_TRUE(grade({}, response, "42").correct);
  EXPECT_EQ(grade({}, response, "42").extracted, "42");
  EXPECT_TRUE(grade({}, "<answer> it is \\boxed{42} </answer>", "42").correct);
  EXPECT_TRUE(grade({}, "<answer>\\frac{1}{2}", "0.5").correct) << "cut off behind the answer";
  RewardConfig boxed;
  boxed.boxed_only = true;
  EXPECT_EQ(grade(boxed, response, "42").status, Grade::Status::kNoAnswer);
}

TEST(Verifier, StatusesAndKinds) {
  EXPECT_EQ(grade({}, "I do not know.", "4").status, Grade::Status::kNoAnswer);
  const Grade unread = grade({}, "\\boxed{4 +}", "4");
  EXPECT_EQ(unread.status, Grade::Status::kUnparsed);
  EXPECT_NE(unread.reason.find("no expression"), std::string::npos) << unread.reason;
  const Grade wrong = grade({}, "\\boxed{5}", "4");
  EXPECT_EQ(wrong.status, Grade::Status::kParsed);
  EXPECT_EQ(wrong.reward, 0.0);
  EXPECT_EQ(grade({}, "\\boxed{4.0}", "The sum is \\boxed{4}.").reward, 1.0);

  RewardConfig exact;
  exact.kind = "exact";
  EXPECT_TRUE(grade(exact, " 42 \n", "42").correct);
  EXPECT_TRUE(grade(exact, "so \\boxed{42}", "42").correct);
  EXPECT_FALSE(grade(exact, "42.0", "42").correct);
  RewardConfig format;
  format.kind = "format";
  EXPECT_TRUE(grade(format, "\\boxed{anything}", "42").correct);
  EXPECT_FALSE(grade(format, "anything", "42").correct);
  RewardConfig boxed;
  boxed.boxed_only = true;
  EXPECT_FALSE(grade(boxed, "The answer is 42.", "42").correct);
}

TEST(Verifier, StrictForms) {
  const auto status = [](const std::string& form, const std::string& response) {
    RewardConfig config;
    config.format = form;
    return grade(config, response, "42").status;
  };
  const auto right = [](const std::string& form, const std::string& response) {
    RewardConfig config;
    config.format = form;
    return grade(config, response, "42").correct;
  };
  EXPECT_TRUE(right("sanity", "<think> a </think> so \\boxed{42}"));
  EXPECT_TRUE(right("sanity", "a \\boxed{1} </think> so \\boxed{42}"));
  for (const char* response : {"so \\boxed{42}", "</think> a </think> so \\boxed{42}", "\\boxed{42} </think> so 42",
                               "</think> The answer is 42.", "</think> #### 42", "<think> \\boxed{42}"})
    EXPECT_EQ(status("sanity", response), Grade::Status::kNoAnswer) << response;
  EXPECT_TRUE(right("octothinker", "a </think> <answer> it is \\boxed{42} </answer>"));
  EXPECT_TRUE(right("octothinker", "a </think> <answer>\\boxed{42}</answer> and \\boxed{1}"));
  for (const char* response :
       {"a </think> <answer> 42 </answer>", "a </think><answer>\\boxed{42}</answer>", "a </think> <answer>\\boxed{42}",
        "<answer>\\boxed{42}</answer>", "\\boxed{42} </think> <answer> so </answer> \\boxed{42}"})
    EXPECT_EQ(status("octothinker", response), Grade::Status::kNoAnswer) << response;
}

TEST(RewardConfig, KeysBelongToKinds) {
  struct Case {
    std::function<void(RewardConfig&)> set;
    std::string kinds, value;  // those that the key belongs to, as the message names them
  };
  using C = RewardConfig;
  const std::map<std::string, Case> cases = {
      {"format", {[](C& c) { c.format = "sanity"; }, "math and exact", "sanity"}},
      {"boxed_only", {[](C& c) { c.boxed_only = true; }, "math, exact and format", "true"}},
      {"batch", {[](C& c) { c.batch = 2; }, "command", "2"}},
      {"python", {[](C& c) { c.python = "mine"; }, "python", "mine"}},
      {"workers", {[](C& c) { c.workers = 2; }, "python", "2"}},
      {"timeout_s", {[](C& c) { c.timeout_s = 2; }, "command, code and python", "2"}},
      {"memory_mb", {[](C& c) { c.memory_mb = 64; }, "command, code and python", "64"}},
      {"command", {[](C& c) { c.command = "true"; }, "command and code", "true"}},
      {"path", {[](C& c) { c.path = "r.py"; }, "python", "r.py"}}};
  for (const auto& [key, c] : cases)
    for (const std::string kind : {"math", "exact", "format", "command", "code", "python"}) {
      RewardConfig config;
      config.kind = kind;
      if (kind == "command") config.command = "cat";
      if (kind == "python") config.path = "x.py";
      c.set(config);
      const bool belongs = c.kinds.find(kind) != std::string::npos;
      EXPECT_EQ(message_of([&] { config.validate(); }), belongs ? ""
                                                                : str("reward.", key, ": belongs to reward.kind ",
                                                                      c.kinds, ", got ", c.value, " with kind ", kind))
          << key << " " << kind;
    }
}

TEST(Verifier, PublicCases) {
  const auto rows = read_lines(kGolden / "verifier_cases.jsonl");
  ASSERT_GE(rows.size(), 90u);
  for (const auto& row : rows) {
    const Grade g = grade({}, row.at("response").get<std::string>(), row.at("gold").get<std::string>());
    EXPECT_EQ(g.correct, row.at("expected").get<bool>()) << row << "\n" << g.reason;
  }
}

TEST(Verifier, AllCleanSharedCases) {
  if (!fs::exists(kShared / "verifier_cases.jsonl")) GTEST_SKIP() << "no " << kShared;
  int clean = 0;
  for (const auto& row : read_lines(kShared / "verifier_cases.jsonl")) {
    if (row.contains("hard") || row.contains("quirk") || row.contains("policy")) continue;
    ++clean;
    std::string response = row.at("pred");
    if (row.at("pred_form") == "bare") response = "\\boxed{" + response + "}";
    const Grade g = grade({}, response, row.at("gold").get<std::string>());
    EXPECT_EQ(g.correct, row.at("expected").get<bool>()) << row << "\n" << g.reason;
  }
  EXPECT_EQ(clean, 347);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

TEST(Verifier, EveryGoldEqualsItsRewritingsAndNoOtherNumber) {
  if (!fs::exists(kShared / "math500.jsonl")) GTEST_SKIP() << "no " << kShared;
  std::set<std::string> golds;
  for (const char* file : {"sanity_math", "math500", "aime", "amc", "gsm8k_train", "gsm8k_test"})
    for (const auto& row : read_lines(kShared / (std::string(file) + ".jsonl"))) golds.insert(row.at("answer"));
  for (const std::string& gold : golds) {
    MathExpr expr;
    std::string error;
    EXPECT_TRUE(parse_math(gold, expr, error)) << gold << ": " << error;
    for (const std::string& response :
         {boxed(gold), "The answer is $" + gold + "$.", "**Answer:** " + gold, boxed(" " + gold + " "),
          boxed(replaced(gold, " ", "")), boxed(replaced(replaced(gold, "\\dfrac", "\\frac"), "\\frac", "\\tfrac")),
          boxed(replaced(replaced(gold, "\\left", ""), "\\right", "")), boxed("\\displaystyle " + gold),
          boxed("$" + gold + "$"), boxed(gold + "."), boxed(replaced(gold, "^\\circ", "\\text{ degrees}")),
          boxed(replaced(replaced(gold, "\\!", ""), "{,}", ",")), boxed(replaced(gold, "\\text", "\\mathrm")),
          boxed(replaced(gold, "pmatrix", "bmatrix"))})
      EXPECT_TRUE(grade({}, response, gold).correct) << gold << " | " << response;
  }
  // Plain numbers against plain numbers: accepted exactly where their values agree.
  std::vector<std::string> numbers;
  for (const std::string& gold : golds)
    if (gold.find_first_not_of("0123456789.-") == std::string::npos) numbers.push_back(gold);
  ASSERT_GT(numbers.size(), 500u);
  for (size_t i = 0; i < numbers.size(); i += 7)
    for (size_t k = i % 5; k < numbers.size(); k += 5)
      EXPECT_EQ(math_equal(numbers[i], numbers[k]).equal, std::stod(numbers[i]) == std::stod(numbers[k]))
          << numbers[i] << " | " << numbers[k];
}

TEST(Verifier, HardTextsAreBounded) {
  const std::string deep(100000, '{'), boxes = [] {
    std::string s;
    for (int i = 0; i < 20000; ++i) s += "\\boxed{";
    return s;
  }();
  std::string tower = "9", nested, list, product = "(x+1)";
  for (int i = 0; i < 40; ++i) tower = "9^{" + tower + "}";
  for (int i = 0; i < 30; ++i) nested += "1\\frac{";
  for (int i = 0; i < 120; ++i) list += "\\sin " + std::to_string(i) + ", ";
  for (int i = 0; i < 120; ++i) product += "(x+" + std::to_string(i) + ")^{99}";
  std::string texts, words;
  for (int i = 0; i < 100000; ++i) texts += "\\text{", words += "\\text{at B ";
  texts += "3" + std::string(100000, '}');
  std::string reversed;
  for (int i = 120; i-- > 0;) reversed += "\\sin " + std::to_string(i) + ", ";
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text :
       {deep, boxes, tower, nested, list, product, texts, words, reversed, std::string("9999999!"),
        std::string("2^{9999999}"), std::string("0/0"), std::string("\\binom{3000}{1500}!"), std::string("1e99999999"),
        std::string(5000, '9'), std::string(3000, '!'), std::string("\\pm\\pm\\pm\\pm\\pm\\pm\\pm 1"),
        std::string("\xff\xfe\x80")}) {
    EXPECT_FALSE(grade({}, "\\boxed{" + text + "}", "4").correct);
    math_equal(text, list);
    math_equal("4", text);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(Verifier, RandomTextsDoNotThrow) {
  std::mt19937 random(7);
  const std::string_view kPieces[] = {"\\frac",
                                      "{",
                                      "}",
                                      "1",
                                      "23",
                                      "x",
                                      "^",
                                      "_",
                                      "(",
                                      ")",
                                      "[",
                                      ",",
                                      "\\pm",
                                      "\\sqrt",
                                      "|",
                                      "=",
                                      "<",
                                      "+",
                                      "-",
                                      "/",
                                      "\\{",
                                      "\\}",
                                      "!",
                                      "\\text{",
                                      "\\boxed{",
                                      " ",
                                      "\\sin",
                                      "%",
                                      "&",
                                      "\\\\",
                                      ".",
                                      ":",
                                      "e",
                                      "\\cup",
                                      "\\begin{pmatrix}",
                                      "\\end{pmatrix}"};
  for (int i = 0; i < 20000; ++i) {
    std::string a, b;
    for (unsigned n = random() % 12; n-- > 0;) a += kPieces[random() % std::size(kPieces)];
    for (unsigned n = random() % 12; n-- > 0;) b += kPieces[random() % std::size(kPieces)];
    EXPECT_NO_THROW(grade({}, "\\boxed{" + a + "}", b)) << a << " | " << b;
    EXPECT_TRUE(math_equal(a, a).equal || a.find_first_not_of(" .") == std::string::npos || !math_equal(a, a).parsed)
        << a;
  }
}

TEST(Verifier, SameVerdictsOnManyThreads) {
  const auto rows = read_lines(kGolden / "verifier_cases.jsonl");
  std::vector<int> right(4);
  std::vector<std::thread> threads;
  for (int& count : right)
    threads.emplace_back([&rows, &count] {
      for (const auto& row : rows)
        count += grade({}, row.at("response").get<std::string>(), row.at("gold").get<std::string>()).correct;
    });
  for (std::thread& thread : threads) thread.join();
  for (int count : right) EXPECT_EQ(count, right[0]);
  EXPECT_GT(right[0], 0);
}

}  // namespace
}  // namespace mantissa
