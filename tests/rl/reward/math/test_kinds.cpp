// Kinds of answers, each as rows (tests/golden/answer_kinds.jsonl) and as a property of generated inputs: spellings of
// one value are equal, those of another value are not.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "rl/reward/math/compare.h"
#include "rl/reward/reward.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

std::mt19937& generator() {
  static std::mt19937 random(11);
  return random;
}
long between(long low, long high) {
  return std::uniform_int_distribution<long>(low, high)(generator());
}
template <class T>
const T& one_of(const std::vector<T>& choices) {
  return choices[size_t(between(0, long(choices.size()) - 1))];
}
std::string text(long value) {
  return std::to_string(value);
}

void expect_equal(const std::string& answer, const std::string& gold) {
  const Grade there = grade({}, "\\boxed{" + answer + "}", gold), back = grade({}, "\\boxed{" + gold + "}", answer);
  EXPECT_TRUE(there.correct) << answer << " | " << gold << ": " << there.reason;
  EXPECT_TRUE(back.correct) << gold << " | " << answer << ": " << back.reason;
}
void expect_different(const std::string& answer, const std::string& gold) {
  EXPECT_FALSE(grade({}, "\\boxed{" + answer + "}", gold).correct) << answer << " | " << gold;
  EXPECT_FALSE(grade({}, "\\boxed{" + gold + "}", answer).correct) << gold << " | " << answer;
}

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

TEST(AnswerKinds, MeasuresSideBySideAreNoProduct) {
  const Strings units = {"feet", "inches", "hours", "minutes", "dozen", "apples", "dollars", "percent", "degrees"};
  for (int i = 0; i < 300; ++i) {
    const long a = between(2, 30), b = between(2, 30);
    const std::string first = text(a) + " " + one_of(units) + " ", second = text(b) + " " + one_of(units);
    for (const std::string& pair : {first + second, first + text(b), "\\text{" + first + second + "}"}) {
      expect_different(pair, text(a * b));
      expect_different(pair, text(a));
      expect_different(pair, text(12 * a * b));
      EXPECT_EQ(grade({}, "\\boxed{" + pair + "}", "7").status, Grade::Status::kUnparsed) << pair;
    }
  }
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

TEST(AnswerKinds, ModTakesTheSignWithIt) {
  for (long a = -20; a <= 20; ++a)
    for (long m : {3, 5, 7}) {
      const long remainder = ((a % m) + m) % m;
      expect_equal(text(a) + " \\bmod " + text(m), text(remainder));
      if (a != remainder) expect_different(text(a) + " \\bmod " + text(m), text(a));
    }
  EXPECT_EQ(grade({}, "\\boxed{10 + 17 \\bmod 5}", "2").status, Grade::Status::kUnparsed);
}

TEST(AnswerKinds, WhateverIsWrittenEqualsItself) {
  for (const char* text : {"1 $\\", "4,$ \\", "`\f`", "*~*", "**\t**", "_ _", "\\text{\\", "5\\", "\\mathbf{1} \\"})
    EXPECT_TRUE(math_equal(text, text).equal) << text;
}

std::string raised(const std::string& exponent) {
  const Strings digits = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out;
  for (char c : exponent) out += c == '-' ? "⁻" : c == 'n' ? "ⁿ" : digits[size_t(c - '0')];
  return out;
}

TEST(AnswerKinds, RaisedCharactersAreOneExponent) {
  for (int i = 0; i < 200; ++i) {
    const std::string base = one_of<std::string>({"2", "3", "10", "x", "(a+b)"}), exponent = text(between(-40, 40));
    expect_equal(base + raised(exponent), base + "^{" + exponent + "}");
    const std::string other = text(std::stol(exponent) + (exponent == "-1" ? 2 : 1));
    expect_different(base + raised(exponent), base + "^{" + other + "}");
  }
  expect_equal("2" + raised("-") + raised("n"), "2^{-n}");
}

TEST(AnswerKinds, FractionCharactersAddToTheNumberBefore) {
  struct Fraction {
    std::string character;
    long above, below;
  };
  const std::vector<Fraction> fractions = {{"½", 1, 2}, {"⅓", 1, 3}, {"⅔", 2, 3}, {"¼", 1, 4}, {"¾", 3, 4},
                                           {"⅕", 1, 5}, {"⅖", 2, 5}, {"⅗", 3, 5}, {"⅘", 4, 5}, {"⅙", 1, 6},
                                           {"⅚", 5, 6}, {"⅐", 1, 7}, {"⅛", 1, 8}, {"⅜", 3, 8}, {"⅝", 5, 8},
                                           {"⅞", 7, 8}, {"⅑", 1, 9}, {"⅒", 1, 10}};
  for (const Fraction& f : fractions) {
    expect_equal(f.character, text(f.above) + "/" + text(f.below));
    const long whole = between(2, 40);
    const std::string sum = "\\frac{" + text(whole * f.below + f.above) + "}{" + text(f.below) + "}";
    const std::string product = "\\frac{" + text(whole * f.above) + "}{" + text(f.below) + "}";
    for (const char* blank : {"", " ", "\u2009"}) {
      expect_equal(text(whole) + blank + f.character, sum);
      expect_equal("-" + text(whole) + blank + f.character, "-" + sum);
      expect_different(text(whole) + blank + f.character, product);
    }
    for (const std::string& over : {"{" + text(f.above) + "\\over" + text(f.below) + "}",
                                    "\\nicefrac{" + text(f.above) + "}{" + text(f.below) + "}"})
      expect_equal(text(whole) + over, sum);
  }
}

/// The decimal of above / below as digits before, behind the point, and repeating.
struct Decimal {
  std::string whole, places, repeating;
};
Decimal decimal_of(long above, long below) {
  Decimal out{text(above / below), "", ""};
  std::vector<long> rests;
  for (long rest = above % below;; rest = rest * 10 % below) {
    const auto seen = std::find(rests.begin(), rests.end(), rest);
    if (seen != rests.end()) {
      const size_t from = size_t(seen - rests.begin());
      out.repeating = out.places.substr(from);
      out.places.resize(from);
      return out;
    }
    rests.push_back(rest);
    out.places += char('0' + rest * 10 / below);
  }
}

TEST(AnswerKinds, RepeatingDecimalsInAllSpellings) {
  for (int i = 0; i < 150; ++i) {
    const long below = between(3, 60), above = between(1, 3 * below);
    const auto [whole, places, repeating] = decimal_of(above, below);
    const std::string start = whole + "." + places, fraction = text(above) + "/" + text(below);
    Strings spellings = {start + "\\overline{" + repeating + "}", start + "\\bar{" + repeating + "}",
                         start + "(" + repeating + ")", start + "\\overline{" + repeating + "}\\ldots"};
    if (repeating.size() == 1) {
      spellings.push_back(start + "\\dot{" + repeating + "}");
      spellings.push_back(start + "\\dot" + repeating);
      spellings.push_back(start + "\\overline" + repeating);
      spellings.push_back(start + repeating + "\u0305");
      spellings.push_back(start + repeating + repeating + repeating + "...");
    } else {
      const std::string last(1, repeating.back()), middle = repeating.substr(1, repeating.size() - 2);
      spellings.push_back(start + "\\dot{" + repeating[0] + "}" + middle + "\\dot{" + last + "}");
      spellings.push_back(start + "\\dot" + repeating[0] + middle + "\\dot" + last);
    }
    for (const std::string& spelling : spellings) {
      expect_equal(spelling, fraction);
      if (repeating != "0" && places.size() + repeating.size() < 6)  // one that ends, or one long enough to be rounded
        expect_different(spelling, start + repeating);
      expect_different(spelling, text(above + 1) + "/" + text(below));
    }
  }
}

TEST(AnswerKinds, UnitsCountWithTheirPowers) {
  struct Length {
    std::string symbol, word;
  };
  const std::vector<Length> lengths = {
      {"cm", "centimeters"}, {"m", "meters"}, {"km", "kilometers"}, {"ft", "feet"}, {"in", "inches"}};
  const auto spellings = [](const Length& unit, int power) {
    Strings out = {"\\text{ " + unit.symbol + "}^" + text(power), "\\text{ " + unit.word + "}^{" + text(power) + "}"};
    if (power == 1) out = {"\\text{ " + unit.symbol + "}", "\\text{ " + unit.word + "}", " " + unit.word};
    if (power == 2) out.insert(out.end(), {"\\text{ square " + unit.word + "}", "\\text{ " + unit.symbol + "²}"});
    if (power == 3) out.insert(out.end(), {"\\text{ cubic " + unit.word + "}", "\\text{ " + unit.symbol + "³}"});
    return out;
  };
  for (int i = 0; i < 200; ++i) {
    const Length &a = one_of(lengths), &b = one_of(lengths);
    const int p = int(between(1, 3)), q = int(between(1, 3));
    const std::string value = text(between(2, 99)), left = value + one_of(spellings(a, p));
    const std::string right = value + one_of(spellings(b, q));
    if (a.symbol == b.symbol && p == q) {
      expect_equal(left, right);
    } else {
      expect_different(left, right);
    }
    expect_equal(left, value);
    const std::string time = one_of<std::string>({"h", "s", "min"});
    expect_different(value + "\\text{ " + a.symbol + "/" + time + "}", left);
    expect_equal(value + "\\text{ " + a.symbol + "/" + time + "}",
                 value + "\\text{ " + a.word + "}/\\text{" + time + "}");
  }
}

std::string in_words(long n) {
  const Strings small = {"zero",     "one",     "two",     "three",     "four",     "five",    "six",
                         "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",  "thirteen",
                         "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
  const Strings tens = {"", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"};
  if (n < 20) return small[size_t(n)];
  if (n < 100) return tens[size_t(n / 10)] + (n % 10 ? one_of<std::string>({"-", " "}) + small[size_t(n % 10)] : "");
  for (auto [scale, name] : {std::pair{1000000L, " million"}, {1000L, " thousand"}, {100L, " hundred"}})
    if (n >= scale) return in_words(n / scale) + name + (n % scale ? " " + in_words(n % scale) : "");
  return "";
}

TEST(AnswerKinds, NumbersInWordsAndScales) {
  for (int i = 0; i < 200; ++i) {
    const long n = i < 60 ? i : between(1, i < 130 ? 2000 : 3000000);
    expect_equal("\\text{" + in_words(n) + "}", text(n));
    expect_different("\\text{" + in_words(n) + "}", text(n + 1));
    const std::string value = text(between(1, 999));
    for (auto [word, zeros] : {std::pair{"hundred", "00"}, {"thousand", "000"}, {"million", "000000"}}) {
      for (const std::string& spelling : {value + " " + word, value + "\\text{ " + word + "}"}) {
        expect_equal(spelling, value + zeros);
        expect_different(spelling, value);
        expect_equal("\\$" + spelling, value + zeros + "\\text{ dollars}");
      }
    }
  }
}

TEST(AnswerKinds, NounsAreDroppedAndOtherWordsAreNot) {
  const Strings nouns = {"apples", "oranges", "students", "children", "ways", "points", "boxes", "people", "triangles"};
  const Strings others = {"squared",  "cubed",        "factorial",  "halves",     "thirds", "fifths",   "at most",
                          "at least", "or more",      "below zero", "less",       "more",   "times",    "minus",
                          "is wrong", "not possible", "doubled",    "hundredths", "below",  "remainder"};
  for (const std::string& noun : nouns)
    for (const std::string& value : Strings{"13", "\\frac{5}{2}", "2.5"}) {
      expect_equal(value + "\\text{ " + noun + "}", value);
      expect_equal(value + " " + noun, value + "\\text{ " + noun + "}");
      for (const std::string& other : nouns)
        if (other != noun) expect_different(value + "\\text{ " + noun + "}", value + "\\text{ " + other + "}");
      expect_different(value + "\\text{ " + noun + "}", "\\$" + value);
    }
  for (const std::string& other : others) {
    expect_different("13\\text{ " + other + "}", "13");
    expect_different("13 " + other, "13");
    expect_equal("13\\text{ " + other + "}", "13\\text{ " + other + "}");
  }
}

TEST(AnswerKinds, CaseOfVariablesCounts) {
  for (int i = 0; i < 300; ++i) {
    const char a = char('j' + between(0, 15)), b = char('j' + between(0, 15));
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

TEST(AnswerKinds, BlanksKeepNumbersApart) {
  for (int i = 0; i < 200; ++i) {
    const std::string a = text(between(1, 99)), b = text(between(1, 99)), c = text(between(1, 99));
    const std::string blank = one_of<std::string>({" ", "\\ ", "\\,", "~", "\\quad ", "$ $"});
    expect_different(a + blank + b, a + b);
    expect_different("(" + a + blank + b + "," + c + ")", "(" + a + b + "," + c + ")");
    const bool mixed = std::stol(b) < std::stol(c) && std::stol(a) * std::stol(c) + std::stol(b) != std::stol(a + b);
    if (mixed) expect_different(a + " " + b + "/" + c, a + b + "/" + c);
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
    for (long depth = between(1, 3); depth > 0; --depth) {
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
    const std::string value = one_of<std::string>({text(between(3, 9999)), "\\frac{" + text(between(3, 9)) + "}{11}",
                                                   "-" + text(between(3, 99)), "$" + text(between(3, 99)) + "$"});
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
    const long count = between(2, 5), right = between(1, 99);
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

TEST(AnswerKinds, ScientificNotationRoundsAsADecimalDoes) {
  for (int i = 0; i < 200; ++i) {
    const long below = one_of<long>({3, 7, 9, 11, 13}), above = between(1, below - 1);
    const int places = int(between(2, 9));
    long scale = 1;
    for (int k = 0; k < places; ++k) scale *= 10;
    const long rounded = (2 * above * scale + below) / (2 * below);
    if (rounded < scale / 10) continue;  // 0.0909: fewer digits
    const std::string digits = text(rounded), mantissa = digits.substr(0, 1) + "." + digits.substr(1);
    const std::string fraction = text(above) + "/" + text(below);
    for (const std::string& spelling : {mantissa + "e-1", mantissa + "\\times 10^{-1}", mantissa + "\\cdot10^{-1}"})
      (places >= 6 ? expect_equal : expect_different)(spelling, fraction);
  }
}

TEST(AnswerKinds, FractionsByOverAreFractions) {
  for (int i = 0; i < 200; ++i) {
    const Strings parts = {text(between(1, 30)), "x", "a+b", "\\sqrt{" + text(between(2, 9)) + "}", "x^2"};
    const std::string above = one_of(parts), below = one_of(parts);
    const std::string fraction = "\\frac{" + above + "}{" + below + "}";
    expect_equal("{" + above + "\\over " + below + "}", fraction);
    expect_equal("1+{" + above + "\\over{" + below + "}}", "1+" + fraction);
    expect_different("{" + above + "\\over " + below + "}", fraction + "+1");
  }
}

TEST(AnswerKinds, FiniteSetsAndPairs) {
  for (int i = 0; i < 200; ++i) {
    std::vector<long> members(size_t(between(2, 5)));
    std::iota(members.begin(), members.end(), between(-5, 5));
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
    const std::string remainder = text(between(0, 6));
    expect_equal(text(7 * between(1, 9) + std::stol(remainder)) + " \\bmod 7", remainder);
  }
}

}  // namespace
}  // namespace mantissa
