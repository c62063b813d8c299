// Kinds of answers: all as rows (tests/golden/answer_kinds.jsonl), and those beside numbers as properties of generated
// inputs: variables, sets, choices, and what stands around an answer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "rl/reward/math/compare.h"
#include "rl/reward/reward.h"
#include "tests/support/graded_answers.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

TEST(AnswerKinds, Rows) {
  std::ifstream file(std::filesystem::path(MANTISSA_SOURCE_DIR) / "tests/golden/answer_kinds.jsonl");
  int rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    const auto row = nlohmann::json::parse(line);
    const Grade g = grade({}, row.at("response").get<std::string>(), row.at("gold").get<std::string>());
    EXPECT_EQ(g.correct, row.at("expected").get<bool>()) << row << "\n" << g.extracted << ": " << g.reason;
    EXPECT_EQ(row.value("status", status_name(g.status)), status_name(g.status)) << row;
  }
  EXPECT_GE(rows, 800);
}

TEST(AnswerKinds, WhatIsUnsupportedIsUnparsed) {
  for (const char* answer : {"0.5\\hat{4}", "\\bar{5}", "1.4142...", "\\foo{5}", "{1 \\atop 2}", "0.\\dot{1}2", "1 2",
                             "2{3}", "\\cancel{5}", "5 \\text{ (see above)}", "3\\overline{4}"})
    EXPECT_EQ(grade({}, "\\boxed{" + std::string(answer) + "}", "7").status, Grade::Status::kUnparsed) << answer;
}

TEST(AnswerKinds, WhatJoinsInAnOrderDoesNotCommute) {
  for (const char* join : {"\\to", "\\Rightarrow", "\\implies", "\\iff", "\\oplus", "\\subset", "\\subseteq", "\\notin",
                           "\\circ", "\\bullet", "\\star", "\\parallel", "\\prec", "\\vdash", "\\longrightarrow"}) {
    const std::string there = str("p ", join, " q"), back = str("q ", join, " p");
    EXPECT_FALSE(grade({}, "\\boxed{" + there + "}", back).correct) << there;
    EXPECT_TRUE(grade({}, "\\boxed{" + there + "}", there).correct) << there;
    expect_different(there, "pq");
  }
  for (const char* fraction : {"dy", "dx", "\\partial y", "\\Delta y"}) {
    const std::string d = std::string(fraction).substr(0, std::string(fraction).size() - 1);
    expect_different("\\frac{" + std::string(fraction) + "}{" + d + "t}",
                     "\\frac{" + std::string(fraction).substr(d.size()) + "}{t}");
  }
  expect_different("p \\land q", "p \\lor q");
}

TEST(AnswerKinds, WhateverIsWrittenEqualsItself) {
  for (const char* text : {"1 $\\", "4,$ \\", "`\f`", "*~*", "**\t**", "_ _", "\\text{\\", "5\\", "\\mathbf{1} \\"})
    EXPECT_TRUE(math_equal(text, text).equal) << text;
}

TEST(AnswerKinds, CaseOfVariablesCounts) {
  for (int i = 0; i < 300; ++i) {
    const char a = char('j' + random_between(0, 15)), b = char('j' + random_between(0, 15));
    const char A = char(a - 'a' + 'A'), B = char(b - 'a' + 'A');
    if (a == b) continue;
    const std::string form = one_of<std::string>({"1-2", "(1,2)", "1'", "12", "1^2", "-1", "1+2", "[1,2]"});
    const auto filled = [&](char x, char y) {
      std::string out;
      for (char c : form) out += c == '1' ? x : c == '2' && form != "1^2" ? y : c;
      return out;
    };
    expect_different(filled(a, B), filled(A, b));
    expect_equal(filled(a, B), filled(a, B));
  }
  for (const char* word : {"Monday", "yes", "East", "none"}) {
    std::string upper(word);
    for (char& c : upper) c = char(std::toupper(c));
    expect_equal("\\text{" + std::string(word) + "}", upper);
  }
}

TEST(AnswerKinds, WrappersChangeNothing) {
  const std::vector<std::pair<std::string, std::string>> wrappers = {{"\\color{blue}{", "}"},
                                                                     {"{\\color{red}", "}"},
                                                                     {"\\textcolor{red}{", "}"},
                                                                     {"\\mathbf{", "}"},
                                                                     {"\\boldsymbol{", "}"},
                                                                     {"\\bm{", "}"},
                                                                     {"\\underline{", "}"},
                                                                     {"{\\Large ", "}"},
                                                                     {"", "\\tag{3}"},
                                                                     {"\\displaystyle ", ""},
                                                                     {"$", "$"},
                                                                     {"\\boxed{", "}"},
                                                                     {"\\colorbox{red}{", "}"},
                                                                     {"", "\\label{eq:2}"},
                                                                     {"\\(", "\\)"},
                                                                     {"\\left(", "\\right)"},
                                                                     {"{", "}"},
                                                                     {"\\begin{align*}", "\\end{align*}"}};
  const Strings values = {"5", "-5", "\\frac{1}{2}", "x^2+1", "\\sqrt{3}", "(1,2)", "1234"};
  for (int i = 0; i < 300; ++i) {
    const std::string& value = one_of(values);
    std::string wrapped = value;
    for (long depth = random_between(1, 3); depth > 0; --depth) {
      const auto& [before, behind] = one_of(wrappers);
      wrapped = before + wrapped + behind;
    }
    expect_equal(wrapped, value);
    for (const std::string& other : values)
      if (other != value) expect_different(wrapped, other);
    for (const char* label : {"\\text{Answer: }", "\\text{The answer is }", "\\text{Final answer: }", "x=", "="})
      expect_equal(label + value, value);
  }
}

TEST(AnswerKinds, SentencesStateTheirFirstValue) {
  const Strings clauses = {", which is more than 2.",
                           " and the remainder is 2.",
                           " where x is 2.",
                           " if n is 2.",
                           " because 2 is prime.",
                           ", but 2 is wrong.",
                           " (which is 2!).",
                           " since 2 is less.",
                           "; the other one is 2.",
                           ", as y is 2.",
                           " and not 2",
                           ", so x is not 2."};
  for (int i = 0; i < 300; ++i) {
    const std::string value =
        one_of<std::string>({text(random_between(3, 9999)), "\\frac{" + text(random_between(3, 9)) + "}{11}",
                             "-" + text(random_between(3, 99)), "$" + text(random_between(3, 99)) + "$"});
    const std::string start = one_of<std::string>(
        {"The answer is ", "So the final answer is ", "Answer: ", "**Answer:** ", "The answer is: the largest n is "});
    const std::string response = start + value + one_of(clauses);
    const Grade right = grade({}, response, value), wrong = grade({}, response, "2");
    EXPECT_TRUE(right.correct) << response << "\n" << right.extracted << ": " << right.reason;
    EXPECT_FALSE(wrong.correct) << response << "\n" << wrong.extracted;
  }
}

TEST(AnswerKinds, RunsOfBoxesAndSigns) {
  const Strings gaps = {", ",
                        " or ",
                        " and ",
                        "/",
                        ", or ",
                        "$ or $",
                        " \\text{ or } ",
                        " and/or ",
                        " ",
                        "\n\n",
                        std::string(300, ' '),
                        " \\quad \\text{or possibly} \\quad ",
                        ". ",
                        "? ",
                        " = ",
                        " + ",
                        "\n2. ",
                        "\n(b) ",
                        " or else ",
                        "**, **",
                        "$; $x = $"};
  for (int i = 0; i < 200; ++i) {
    std::string run;
    const long count = random_between(2, 5), right = random_between(1, 99);
    for (long k = 0; k < count; ++k)
      run += (k ? one_of(gaps) : "") + "\\boxed{" + text(k + 1 == count ? right : right + k + 1) + "}";
    EXPECT_FALSE(grade({}, run, text(right)).correct) << run;
    const std::string same = "\\boxed{" + text(right) + "}" + one_of(gaps) + "\\boxed{" + text(right) + "}";
    EXPECT_TRUE(grade({}, same, text(right)).correct) << same;
    const std::string value = one_of<std::string>({text(right), "\\frac{1}{" + text(right) + "}", "x+" + text(right)});
    const std::string box = "\\boxed{" + value + "}", negative = "-(" + value + ")";
    for (const std::string& sign :
         {"-" + box, "so -" + box + ".", "$x = - " + box + "$", "\\[-" + box + "\\]", "$-" + box + "$"}) {
      EXPECT_TRUE(grade({}, sign, negative).correct) << sign;
      EXPECT_FALSE(grade({}, sign, value).correct) << sign;
    }
    for (const std::string& dash :
         {"- " + box, "it follows - " + box, "\n- " + box, "$9 - " + box + "$", "- $" + box + "$"})
      EXPECT_TRUE(grade({}, dash, value).correct) << dash;
  }
}

TEST(AnswerKinds, SpecialTokensAtTheEndAreNoPartOfAnAnswer) {
  for (const char* token : {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<end_of_turn>", "<eos>",
                            "<｜end▁of▁sentence｜>", "<|im_end|>\n<|endoftext|>"})
    for (const char* start : {"The answer is 42", "#### 42", "42", "\\boxed{42}", "The answer is 42."}) {
      EXPECT_TRUE(grade({}, std::string(start) + token, "42").correct) << start << token;
      EXPECT_TRUE(
          grade({.kind = "exact", .boxed_only = false, .command = {}}, std::string(start) + token, "42").correct)
          << start << token;
    }
}

TEST(AnswerKinds, ChoicesWithWhatTheyStandFor) {
  for (char letter = 'A'; letter <= 'E'; ++letter)
    for (const char* form : {"(X) 12", "\\textbf{(X) }12", "\\text{(X) }12", "X. 12", "\\textbf{(X)}\\ 12"}) {
      std::string gold(form);
      gold[gold.find('X')] = letter;
      const std::string other(1, letter == 'A' ? 'B' : char(letter - 1)), self(1, letter);
      for (const std::string& right :
           {self, "(" + self + ")", std::string("12"), "(" + self + ") 12", "\\text{" + self + "}"})
        EXPECT_TRUE(math_equal(right, gold).equal) << right << " | " << gold;
      for (const std::string& wrong : {other, "(" + other + ") 12", std::string("13"), "(" + self + ") 13",
                                       "(" + self + ") or (" + other + ")", std::string("12, 13")})
        EXPECT_FALSE(math_equal(wrong, gold).equal) << wrong << " | " << gold;
    }
}

TEST(AnswerKinds, FiniteSetsAndPairs) {
  for (int i = 0; i < 200; ++i) {
    std::vector<long> members(size_t(random_between(2, 5)));
    std::iota(members.begin(), members.end(), random_between(-5, 5));
    std::shuffle(members.begin(), members.end(), generator());
    std::string set, sets, other, pairs, points;
    for (long m : members) {
      set += (set.empty() ? "" : ",") + text(m);
      sets += (sets.empty() ? "" : "\\cup") + ("\\{" + text(m) + "\\}");
      other += (other.empty() ? "" : ",") + text(m + 1);
      pairs += (pairs.empty() ? "" : "; ") + (text(m) + ", " + text(m * m));
      points += (points.empty() ? "" : ", ") + ("(" + text(m) + ", " + text(m * m) + ")");
    }
    expect_equal(sets, "\\{" + set + "\\}");
    expect_different(sets, "\\{" + other + "\\}");
    expect_equal(pairs, points);
    const std::string remainder = text(random_between(0, 6));
    expect_equal(text(7 * random_between(1, 9) + std::stol(remainder)) + " \\bmod 7", remainder);
  }
}

}  // namespace
}  // namespace mantissa
