// The words around values: labels before the answer, numbers in words, units, nouns and remarks; see parser.h.
#include <gmpxx.h>

#include <algorithm>

#include "rl/reward/math/counts.h"
#include "rl/reward/math/parser.h"

namespace mantissa {
namespace {

using Words = std::vector<std::string_view>;

/// "twenty-five" and "two-thirds" are two words.
Words split(std::string_view text) {
  Words words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    const size_t hyphen = word.find('-');
    if (hyphen != word.npos && is_number_word(word.substr(0, hyphen))) {
      words.push_back(word.substr(0, hyphen));
      words.push_back(word.substr(hyphen + 1));
    } else if (!word.empty()) {
      words.push_back(word);
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

bool among(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

bool says_how_exact(std::string_view word) {
  return among(word, {"approximately", "approx", "about", "roughly", "exactly", "exact"});
}
/// Of a remark in parentheses that changes nothing: "(rounded to the nearest cent)".
bool is_harmless(std::string_view word) {
  return says_how_exact(word) || among(word, {"rounded", "simplified", "estimated", "to", "the", "nearest", "correct",
                                              "tenth", "hundredth", "cent", "integer", "decimal", "place", "places"});
}
bool is_negation(std::string_view word) {
  return among(word, {"not", "no", "never", "isn't", "cannot", "wrong", "incorrect", "false", "except", "without"});
}
bool introduces_answer(std::string_view word) {
  return among(word, {"answer",   "ans",       "result", "solution",    "value",  "total", "sum",      "area",
                      "volume",   "perimeter", "number", "probability", "length", "the",   "final",    "correct",
                      "required", "desired",   "our",    "so",          "thus",   "hence", "therefore"});
}
/// Before a noun, where it counts the same things: "7 distinct integers".
bool is_neutral_adjective(std::string_view word) {
  return among(word, {"distinct", "different", "possible"});
}

std::string_view unit_name(std::string_view word) {
  const std::string_view unit = unit_of_word(word);
  return unit.empty() ? unit_of_symbol(word) : unit;
}

/// Reads the words behind a value one after the other.
class SuffixReader {
 public:
  explicit SuffixReader(Unit& unit) : unit_(unit) {}

  /// Where `words[k]` is no unit, noun or modifier: false.
  bool read(const Words& words, size_t k) {
    const std::string_view word = words[k];
    if (word == "per") return divide(), true;
    if (among(word, {"square", "sq"})) return power_ = 2, true;
    if (among(word, {"cubic", "cu"})) return power_ = 3, true;
    if (among(word, {"squared", "cubed"})) return raise(word == "squared" ? 2 : 3);
    if (const std::string_view unit = unit_name(word); !unit.empty()) return add(unit), true;
    if (is_neutral_adjective(word) && k + 1 < words.size() && is_count_noun(words[k + 1])) return true;
    const bool counts = power_ == 1 && (sign_ < 0 || (unit_.empty() && is_count_noun(word)));
    if (counts) add("#" + std::string(word));
    return counts || says_how_exact(word);
  }
  void divide() { sign_ = -1; }
  void add(std::string_view unit) {
    unit_.multiply(unit, sign_ * power_);
    last_ = unit, last_sign_ = sign_;
    sign_ = power_ = 1;
  }
  /// A power of the last unit; false where there is none.
  bool raise(int power) {
    if (last_.empty() || power == 0) return false;
    unit_.multiply(last_, last_sign_ * (power - 1));
    return true;
  }
  bool at_start() const { return last_.empty() && sign_ == 1 && power_ == 1; }
  /// "100 square"; false for a "per" with nothing behind it.
  bool end() {
    if (power_ != 1) add(power_ == 2 ? "square" : "cubic");
    return sign_ == 1;
  }

 private:
  Unit& unit_;
  std::string last_;
  int last_sign_ = 1, sign_ = 1, power_ = 1;
};

}  // namespace

void MathParser::skip_label() {
  if (peek().kind != Kind::kText) return;
  const Words words = split(peek().text);
  if (words.empty() || std::any_of(words.begin(), words.end(), is_negation)) return;
  if (std::all_of(words.begin(), words.end(), says_how_exact)) {
    ++i_;
    return;
  }
  const bool verb = among(words.back(), {"is", "are", "equals"});
  if (is(":", 1)) {
    i_ += 2;
  } else if (verb && words.size() > 1 && std::all_of(words.begin(), words.end() - 1, introduces_answer)) {
    ++i_;
  }
}

std::string_view MathParser::currency(size_t ahead) const {
  if (peek(ahead).kind != Kind::kOp) return {};
  for (std::string_view name : {"dollar", "euro", "pounds", "yen", "rupee"})
    if (peek(ahead).text == name) return name;
  return {};
}

bool MathParser::has_value(const std::vector<int>& product) const {
  for (int i : product)
    if (node(i).op == Op::kSymbol && node(i).name.starts_with('\'')) return false;
  return true;
}

bool MathParser::starts_suffix(const std::vector<int>& product) const {
  const bool words = peek().kind == Kind::kText || !currency().empty();
  const bool behind = (is("/") || is("{")) && (peek(1).kind == Kind::kText || !currency(1).empty());
  const bool remark = is("(") && peek(1).kind == Kind::kText && is(")", 2) && node(product.back()).op != Op::kSymbol;
  const bool quotient = peek().text == "frac" && is("{", 1) && peek(2).kind == Kind::kText;
  return (words || behind || remark || quotient) && has_value(product);
}

int MathParser::unit_power() {
  const int power = exponent();
  const bool negative = node(power).op == Op::kNeg;
  const MathNode& n = node(negative ? node(power).args[0] : power);
  if (!is_plain_integer(n) || n.number > 9) return 0;
  return int(n.number.get_d()) * (negative ? -1 : 1);
}

bool MathParser::suffix_in_parentheses(std::vector<int>& product, Unit& unit) {
  const Words words = split(peek(1).text);
  if (std::all_of(words.begin(), words.end(), is_harmless)) {
    i_ += 3;
    return true;
  }
  if (unit_name(words[0]).empty() && !is_unit_modifier(words[0]) && !is_count_noun(words[0])) return false;
  ++i_;
  suffix(product, unit);
  expect(")");
  return true;
}

void MathParser::suffix(std::vector<int>& product, Unit& unit) {
  Depth guard(depth_);
  if (is("(")) {
    if (!suffix_in_parentheses(product, unit)) throw MathSyntaxError("words in parentheses behind a value");
    return;
  }
  SuffixReader reader(unit);
  const auto remark = [&](std::string_view word) { (expr_.remarks += word) += ' '; };
  const bool braces = take("{"), quotient = peek().text == "frac";
  if (quotient) i_ += 2;
  for (int groups = 1;;) {
    if (is("/") && (peek(1).kind == Kind::kText || peek(1).kind == Kind::kName || !currency(1).empty())) {
      reader.divide();
      ++i_;
    }
    if (const std::string_view sign = currency(); !sign.empty()) {
      reader.add(sign);
      ++i_;
    } else if (peek().kind == Kind::kText || (peek().kind == Kind::kName && i_ > 0 && tokens_[i_ - 1].text == "/")) {
      const Words words = split(peek().text);
      for (size_t k = 0; k < words.size(); ++k) {
        if (const mpz_class scale = scale_of_word(words[k]); scale > 0 && reader.at_start()) {
          product.push_back(integer(scale.get_si()));
        } else if (!reader.read(words, k)) {
          remark(words[k]);
        }
      }
      ++i_;
    } else if (take("^")) {
      if (!reader.raise(unit_power())) remark("^");
    } else if (is("*") && peek(1).kind == Kind::kText) {
      ++i_;
    } else if (quotient && groups == 1 && is("}") && is("{", 1)) {
      i_ += 2;
      reader.divide();
      groups = 2;
    } else {
      break;
    }
  }
  if (!reader.end()) remark("per");
  if (braces || quotient) expect("}");
}

int MathParser::number_in_words() {
  const Words words = split(peek().text);
  size_t taken = 0;
  auto value = cardinal_of_words(words, taken);
  if (!value) return -1;
  if (taken == words.size()) {
    ++i_;
    if (*value >= 100 && *value % 100 == 0 && is("and") && peek(1).kind == Kind::kText) {  // "one hundred and five"
      const Words more = split(peek(1).text);
      const auto rest = cardinal_of_words(more, taken);
      if (rest && taken == more.size() && *rest < 100) *value += *rest, i_ += 2;
    }
  } else {
    std::string rest(words[taken]);
    for (size_t k = taken + 1; k < words.size(); ++k) (rest += ' ') += words[k];
    tokens_[i_].text = rest;
  }
  const int number = integer(0);
  expr_.nodes[size_t(number)].number = *value;
  return number;
}

int MathParser::degrees(int base) {
  std::string unit;
  for (auto [letter, name] : {std::pair{"C", "celsius"}, {"F", "fahrenheit"}, {"K", "kelvin"}}) {
    const bool written = peek().kind == Kind::kName && peek().text == letter;
    if (written || (peek().kind == Kind::kText && (peek().text == name || peek().text == letter))) unit = name;
  }
  if (unit.empty()) return add(Op::kMul, {base, add(Op::kDegree)});
  ++i_;
  return add(Op::kUnit, {base}, unit);
}

}  // namespace mantissa
