#include "rl/reward/math/compare.h"

#include <algorithm>

#include "core/error.h"
#include "rl/reward/math/parser.h"
#include "rl/reward/math/spelling.h"
#include "rl/reward/math/structure.h"
#include "rl/reward/math/text.h"
#include "rl/reward/math/units.h"

namespace mantissa {
namespace {

using Op = MathNode::Op;

constexpr int64_t kBudget = 60000;

/// The letter of a multiple-choice answer: "B", "(B)", "\textbf{(B) } 24", "B. 24"; '\0' for anything else.
/// `alone`: only where nothing follows the letter.
char choice_letter(std::string_view text, bool alone) {
  std::string key = text_key(text);
  std::string_view rest = key;
  while (!rest.empty() && (rest[0] == '{' || rest[0] == '*')) rest.remove_prefix(1);
  bool bracket = rest.starts_with('(');
  if (bracket) rest.remove_prefix(1);
  if (rest.empty() || rest[0] < 'A' || rest[0] > 'J') {
    if (rest.empty() || !bracket || rest[0] < 'a' || rest[0] > 'j') return '\0';  // text_key lowers words
  }
  char letter = rest[0] >= 'a' ? char(rest[0] - 'a' + 'A') : rest[0];
  rest.remove_prefix(1);
  if (bracket && !rest.starts_with(')')) return '\0';
  bool closed = rest.starts_with(')') || rest.starts_with('.') || rest.starts_with(':');
  if (closed) rest.remove_prefix(1);
  if (rest.empty()) return letter;
  for (size_t i = 0; i + 2 < rest.size(); ++i)
    if (rest[i] == '(' && rest[i + 2] == ')') return '\0';  // "(A) or (B)" chooses nothing
  return closed && !alone ? letter : '\0';
}

/// What the answer counts: the unit among its words, else "$", "%" or "degree" where it has those; "" for none
/// known.
std::string_view unit_of(const MathExpr& expr, std::string_view text) {
  for (std::string_view words = expr.unit; !words.empty();) {
    size_t end = std::min(words.find(' '), words.size());
    std::string_view unit = unit_of_word(words.substr(0, end));
    if (!unit.empty() && unit != "-") return unit;
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  if (text.starts_with("\\$")) return "dollar";
  if (expr.contains(expr.root, Op::kPercent)) return "%";
  return expr.contains(expr.root, Op::kDegree) ? "degree" : "";
}

MathVerdict compare_parsed(std::string_view answer, std::string_view gold) {
  MathExpr a, b;
  std::string error;
  if (!parse_math(gold, b, error)) return {false, false, "texts differ; the gold answer is no expression: " + error};
  if (!parse_math(answer, a, error)) return {false, false, "texts differ; the answer is no expression: " + error};
  std::string_view unit_a = unit_of(a, answer), unit_b = unit_of(b, gold);
  if (!unit_a.empty() && !unit_b.empty() && unit_a != unit_b)
    return {false, true, str("units differ: ", unit_a, ", ", unit_b)};
  try {
    MathBudget budget(kBudget);
    const bool equal = AnswerComparer(a, b, budget).equal();
    return {equal, true, equal ? "equal in value" : "values differ"};
  } catch (const MathTooMuchWork& e) {
    return {false, false, e.what()};
  }
}

/// "100,200": three-digit groups with bare commas, a number or a list.
bool may_be_list(std::string_view text) {
  return text.find(',') != std::string_view::npos && text.find_first_not_of("0123456789,-. ") == std::string_view::npos;
}

std::string commas_spaced(std::string_view text) {
  std::string out;
  for (char c : text) (out += c) += c == ',' ? " " : "";
  return out;
}

}  // namespace

MathVerdict math_equal(std::string_view answer, std::string_view gold) {
  answer = trimmed(answer), gold = trimmed(gold);
  std::string key = text_key(answer);
  if (!key.empty() && key == text_key(gold)) return {true, true, "same text"};
  if (char letter = choice_letter(gold, true)) {
    if (char chosen = choice_letter(answer, false))
      return {letter == chosen, true, letter == chosen ? "same choice" : "another choice"};
  } else if (char option = choice_letter(gold, false)) {
    if (char chosen = choice_letter(answer, true))
      return {option == chosen, true, option == chosen ? "same choice" : "another choice"};
  }
  MathVerdict verdict = compare_parsed(answer, gold);
  if (!verdict.equal && may_be_list(gold) && may_be_list(answer)) {
    MathVerdict as_list = compare_parsed(commas_spaced(answer), commas_spaced(gold));
    if (as_list.equal) return as_list;
  }
  return verdict;
}

}  // namespace mantissa
