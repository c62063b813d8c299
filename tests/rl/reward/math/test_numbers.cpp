// Numbers and measures, as properties of generated inputs: spellings of one value are equal, those of another value are
// not.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "rl/reward/reward.h"
#include "tests/support/graded_answers.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

TEST(AnswerKinds, ModTakesTheSignWithIt) {
  for (long a = -20; a <= 20; ++a)
    for (long m : {3, 5, 7}) {
      const long remainder = ((a % m) + m) % m;
      expect_equal(text(a) + " \\bmod " + text(m), text(remainder));
      if (a != remainder) expect_different(text(a) + " \\bmod " + text(m), text(a));
    }
  EXPECT_EQ(grade({}, "\\boxed{10 + 17 \\bmod 5}", "2").status, Grade::Status::kUnparsed);
}

std::string raised(const std::string& exponent) {
  const Strings digits = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out;
  for (char c : exponent) out += c == '-' ? "⁻" : c == 'n' ? "ⁿ" : digits[size_t(c - '0')];
  return out;
}

TEST(AnswerKinds, RaisedCharactersAreOneExponent) {
  for (int i = 0; i < 200; ++i) {
    const std::string base = one_of<std::string>({"2", "3", "10", "x", "(a+b)"}),
                      exponent = text(random_between(-40, 40));
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
    const long whole = random_between(2, 40);
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
    const long below = random_between(3, 60), above = random_between(1, 3 * below);
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
    const long n = i < 60 ? i : random_between(1, i < 130 ? 2000 : 3000000);
    expect_equal("\\text{" + in_words(n) + "}", text(n));
    expect_different("\\text{" + in_words(n) + "}", text(n + 1));
    const std::string value = text(random_between(1, 999));
    for (auto [word, zeros] : {std::pair{"hundred", "00"}, {"thousand", "000"}, {"million", "000000"}}) {
      for (const std::string& spelling : {value + " " + word, value + "\\text{ " + word + "}"}) {
        expect_equal(spelling, value + zeros);
        expect_different(spelling, value);
        expect_equal("\\$" + spelling, value + zeros + "\\text{ dollars}");
      }
    }
  }
}

TEST(AnswerKinds, BlanksKeepNumbersApart) {
  for (int i = 0; i < 200; ++i) {
    const std::string a = text(random_between(1, 99)), b = text(random_between(1, 99)), c = text(random_between(1, 99));
    const std::string blank = one_of<std::string>({" ", "\\ ", "\\,", "~", "\\quad ", "$ $"});
    expect_different(a + blank + b, a + b);
    expect_different("(" + a + blank + b + "," + c + ")", "(" + a + b + "," + c + ")");
    const bool mixed = std::stol(b) < std::stol(c) && std::stol(a) * std::stol(c) + std::stol(b) != std::stol(a + b);
    if (mixed) expect_different(a + " " + b + "/" + c, a + b + "/" + c);
  }
}

TEST(AnswerKinds, ScientificNotationRoundsAsADecimalDoes) {
  for (int i = 0; i < 200; ++i) {
    const long below = one_of<long>({3, 7, 9, 11, 13}), above = random_between(1, below - 1);
    const int places = int(random_between(2, 9));
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
    const Strings parts = {text(random_between(1, 30)), "x", "a+b", "\\sqrt{" + text(random_between(2, 9)) + "}",
                           "x^2"};
    const std::string above = one_of(parts), below = one_of(parts);
    const std::string fraction = "\\frac{" + above + "}{" + below + "}";
    expect_equal("{" + above + "\\over " + below + "}", fraction);
    expect_equal("1+{" + above + "\\over{" + below + "}}", "1+" + fraction);
    expect_different("{" + above + "\\over " + below + "}", fraction + "+1");
  }
}

TEST(AnswerKinds, MeasuresSideBySideAreNoProduct) {
  const Strings units = {"feet", "inches", "hours", "minutes", "dozen", "apples", "dollars", "percent", "degrees"};
  for (int i = 0; i < 300; ++i) {
    const long a = random_between(2, 30), b = random_between(2, 30);
    const std::string first = text(a) + " " + one_of(units) + " ", second = text(b) + " " + one_of(units);
    for (const std::string& pair : {first + second, first + text(b), "\\text{" + first + second + "}"}) {
      expect_different(pair, text(a * b));
      expect_different(pair, text(a));
      expect_different(pair, text(12 * a * b));
      EXPECT_EQ(grade({}, "\\boxed{" + pair + "}", "7").status, Grade::Status::kUnparsed) << pair;
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
    const int p = int(random_between(1, 3)), q = int(random_between(1, 3));
    const std::string value = text(random_between(2, 99)), left = value + one_of(spellings(a, p));
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

}  // namespace
}  // namespace mantissa
