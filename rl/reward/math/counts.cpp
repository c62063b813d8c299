#include "rl/reward/math/counts.h"

#include <algorithm>
#include <unordered_map>

namespace mantissa {
namespace {

using Numbers = std::unordered_map<std::string_view, long>;

const Numbers& small_numbers() {
  static const Numbers numbers = {
      {"zero", 0},      {"one", 1},       {"two", 2},       {"three", 3},    {"four", 4},     {"five", 5},
      {"six", 6},       {"seven", 7},     {"eight", 8},     {"nine", 9},     {"ten", 10},     {"eleven", 11},
      {"twelve", 12},   {"thirteen", 13}, {"fourteen", 14}, {"fifteen", 15}, {"sixteen", 16}, {"seventeen", 17},
      {"eighteen", 18}, {"nineteen", 19}, {"twenty", 20},   {"thirty", 30},  {"forty", 40},   {"fifty", 50},
      {"sixty", 60},    {"seventy", 70},  {"eighty", 80},   {"ninety", 90}};
  return numbers;
}

const Numbers& scales() {
  static const Numbers numbers = {{"dozen", 12},
                                  {"dozens", 12},
                                  {"hundred", 100},
                                  {"hundreds", 100},
                                  {"thousand", 1000},
                                  {"thousands", 1000},
                                  {"lakh", 100000},
                                  {"million", 1000000},
                                  {"millions", 1000000},
                                  {"crore", 10000000},
                                  {"billion", 1000000000},
                                  {"billions", 1000000000},
                                  {"trillion", 1000000000000},
                                  {"trillions", 1000000000000}};
  return numbers;
}

long find(const Numbers& numbers, std::string_view word, long otherwise) {
  auto it = numbers.find(word);
  return it == numbers.end() ? otherwise : it->second;
}

constexpr std::string_view kIrregularPlurals[] = {"people", "children", "men",  "women", "mice", "geese",
                                                  "fish",   "sheep",    "dice", "oxen",  "deer", "cattle"};
// They end like plurals and are none, or they do count something, but not in ones.
constexpr std::string_view kNoNouns[] = {
    "halves",  "thirds",   "quarters", "times",   "plus",    "minus",   "equals",    "always",    "perhaps",
    "was",     "has",      "does",     "yes",     "besides", "others",  "sometimes", "pairs",     "couples",
    "doubles", "triples",  "scores",   "grosses", "needs",   "exceeds", "upwards",   "downwards", "backwards",
    "towards", "percents", "squares",  "cubes",   "is",      "as"};

/// "fifths", "hundredths", "twentieths"; but paths, months and births are counted.
bool is_fraction_word(std::string_view word) {
  if (word.ends_with("s")) word.remove_suffix(1);
  if (!word.ends_with("th")) return false;
  word.remove_suffix(2);
  if (word.ends_with("ie")) return true;  // twentieth
  for (std::string_view stem : {"four", "fif", "six", "seven", "eigh", "nin", "ten", "eleven", "twelf", "hundred",
                                "thousand", "million", "billion", "trillion"})
    if (word == stem) return true;
  return word.ends_with("teen");
}

}  // namespace

mpz_class scale_of_word(std::string_view word) {
  return find(scales(), word, 0);
}

bool is_number_word(std::string_view word) {
  return small_numbers().contains(word) || scales().contains(word);
}

std::optional<mpz_class> cardinal_of_words(std::span<const std::string_view> words, size_t& taken) {
  mpz_class total = 0, group = 0;
  bool any = false, article = false;
  long before = -1;  // the last small number, which a smaller one may follow: "twenty five"
  for (taken = 0; taken < words.size(); ++taken) {
    const std::string_view word = words[taken];
    if (taken == 0 && word == "a") {
      article = true;
    } else if (const long small = find(small_numbers(), word, -1); small >= 0) {
      const bool follows = before < 0 || (before >= 20 && small > 0 && small < 10);
      if (article || !follows) break;
      group += small;
      before = small;
      any = true;
    } else if (const mpz_class scale = scale_of_word(word); scale > 0) {
      if (!any && ((!article && taken > 0) || word.ends_with('s'))) break;  // "hundreds" is no number
      if (group == 0) group = 1;
      if (scale == 100 || scale == 12) {
        group *= scale;
      } else {
        total += group * scale;
        group = 0;
      }
      before = -1;
      any = true, article = false;
    } else {
      break;
    }
  }
  if (!any) return {};
  return total + group;
}

bool is_count_noun(std::string_view word) {
  if (std::find(std::begin(kIrregularPlurals), std::end(kIrregularPlurals), word) != std::end(kIrregularPlurals))
    return true;
  if (word.size() < 3 || !word.ends_with('s') || word.ends_with("ss") || word.ends_with("us") || word.ends_with("is"))
    return false;
  if (word.find_first_not_of("abcdefghijklmnopqrstuvwxyz") != std::string_view::npos) return false;
  if (find(scales(), word, 0) > 0 || is_fraction_word(word)) return false;
  return std::find(std::begin(kNoNouns), std::end(kNoNouns), word) == std::end(kNoNouns);
}

bool same_noun(std::string_view a, std::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  if (!b.starts_with(a)) return false;
  const std::string_view ending = b.substr(a.size());
  return ending.empty() || ending == "s" || ending == "es";
}

}  // namespace mantissa
