#include "rl/reward/math/compare.h"

#include <algorithm>

#include "core/error.h"
#include "rl/reward/math/parser.h"
#include "rl/reward/math/spelling.h"
#include "rl/reward/math/structure.h"
#include "rl/reward/math/text.h"
#include "rl/reward/math/units.h"
#include "rl/reward/math/words.h"

namespace mantissa {
namespace {

constexpr int64_t kBudget = 60000;

/// The letter of a multiple-choice answer and what is written behind it: "B", "(B)", "\textbf{(B) } 24", "B. 24".
struct Choice {
  char letter = '\0';  // '\0' for anything else
  bool small = false;  // written "(b)"
  std::string content;
};

/// Skips what only sets the letter in a font; counts the braces it opens.
size_t behind_fonts(std::string_view text, int& open) {
  size_t i = 0;
  for (;;) {
    const std::string_view rest = text.substr(i);
    size_t length = 0;
    for (std::string_view font :
         {"\\textbf{", "\\text{", "\\mathbf{", "\\mathrm{", "\\textrm{", "\\mbox{", "\\bf{", "{"})
      if (rest.starts_with(font)) length = font.size(), ++open;
    for (std::string_view nothing : {" ", "$", "*", "\\left", "\\(", "\\[", "\\ ", "\\,", "\\bf ", "\\rm "})
      if (length == 0 && rest.starts_with(nothing)) length = nothing.size();
    if (length == 0) return i;
    i += length;
  }
}

/// `small`: a small letter alone may be one.
Choice choice_of(std::string_view text, bool small = false) {
  int open = 0;
  std::string_view rest = text.substr(behind_fonts(text, open));
  for (std::string_view label : {"The answer is", "Answer", "answer", "Option", "option", "Choice", "choice"}) {
    if (!rest.starts_with(label)) continue;
    rest.remove_prefix(label.size() + rest.substr(label.size()).starts_with(':'));
    const size_t fonts = behind_fonts(rest, open);
    if (fonts == 0 && !rest.starts_with('(')) return {};
    rest.remove_prefix(fonts);
    break;
  }
  const auto take = [&](std::string_view mark) {
    const bool found = rest.starts_with(mark);
    if (found) rest.remove_prefix(mark.size());
    return found;
  };
  const bool bracket = take("(");
  if (bracket) rest.remove_prefix(behind_fonts(rest, open));
  if (rest.empty()) return {};
  char letter = rest[0];
  small = (bracket || small) && letter >= 'a' && letter <= 'j';
  if (small) letter = char(letter - 'a' + 'A');
  if (letter < 'A' || letter > 'J') return {};
  rest.remove_prefix(1);
  rest = trimmed(rest);
  while (open > 0 && take("}")) --open, rest = trimmed(rest);
  take("\\right");
  const bool closed = take(")") || (!bracket && (take(".") || take(":")));
  if (bracket && !closed) return {};
  take(".") || take(":");
  std::string content(rest);
  for (size_t i = 0; open > 0 && i < content.size(); ++i)  // the font's end
    if (content[i] == '}' && (i == 0 || content[i - 1] != '\\')) content[i] = ' ', --open;
  content = text_key(content).empty() ? "" : content;
  const bool named = content.size() > 2 && rest.data()[-1] == ' ' && content[0] >= 'A' && content[0] <= 'Z' &&
                     content[1] >= 'a' && content[1] <= 'z';  // "C Cecile"
  if (!content.empty() && !closed && !named) return {};
  const std::string key = text_key(content);
  for (size_t i = 0; i + 2 < key.size(); ++i)
    if (key[i] == '(' && key[i + 2] == ')') return {};               // "(A) or (B)" chooses nothing
  if (key.size() == 1 && key[0] >= 'A' && key[0] <= 'J') return {};  // nor does "A. B"
  return {letter, small, std::move(content)};
}

bool is_condition(const MathNode& n) {
  return n.op == MathNode::Op::kRelation && n.name.find_first_not_of("=~e") != n.name.npos;
}

/// Whether a part has no value that could be compared: words, points, sets, matrices or functions of no known meaning
/// in a calculation, several measures or conditions in one answer ("5 feet and 6 inches", "x > 3 and x < 5").
bool is_beyond_us(const MathExpr& expr, int node, bool inside = false) {
  using Op = MathNode::Op;
  const MathNode& n = expr[node];
  const auto any = [&](bool in) {
    return std::any_of(n.args.begin(), n.args.end(), [&](int arg) { return is_beyond_us(expr, arg, in); });
  };
  switch (n.op) {
    case Op::kSymbol:
      return (inside && n.name.starts_with('\'')) || is_operator(std::string_view(n.name).substr(0, n.name.find('_')));
    case Op::kCall:
      return n.name.starts_with('@') || any(n.name != "det");
    case Op::kRelation:
      return std::any_of(n.args.begin(), n.args.end(),
                         [&](int arg) { return !expr[arg].name.starts_with('@') && is_beyond_us(expr, arg); });
    case Op::kList:
      for (int arg : n.args)
        if ((expr[arg].op == Op::kUnit && !units_agree(expr[arg].name, expr[n.args[0]].name)) ||
            is_condition(expr[arg]))
          return true;
      [[fallthrough]];
    case Op::kTuple:
    case Op::kSet:
    case Op::kUnion:
    case Op::kMatrix:
      return inside || any(false);
    case Op::kRatio:
      return any(false);
    default:
      return any(n.op != Op::kUnit || inside);
  }
}

MathVerdict compare_parsed(std::string_view answer, std::string_view gold) {
  MathExpr a, b;
  std::string error;
  if (!parse_math(gold, b, error)) return {false, false, "texts differ; the gold answer is no expression: " + error};
  if (!parse_math(answer, a, error)) return {false, false, "texts differ; the answer is no expression: " + error};
  if (a.remarks != b.remarks)
    return {false, false, str("words differ: \"", trimmed(a.remarks), "\", \"", trimmed(b.remarks), '"')};
  for (const MathExpr* expr : {&a, &b})
    if (!expr->unknown.empty()) return {false, false, str("texts differ; unknown command \\", expr->unknown)};
  if (!a.connective.empty() && !b.connective.empty() && a.connective != b.connective)
    return {false, true, str("\\", a.connective, " is not \\", b.connective)};
  try {
    MathBudget budget(kBudget);
    if (AnswerComparer(a, b, budget).equal()) return {true, true, "equal in value"};
    const std::string unit_a = unit_of({&a, a.root}), unit_b = unit_of({&b, b.root});
    if (!units_agree(unit_a, unit_b)) return {false, true, str("units differ: ", unit_a, ", ", unit_b)};
    for (const MathExpr* expr : {&a, &b})
      if (is_beyond_us(*expr, expr->root)) return {false, false, "values differ; part of one is not computed"};
    return {false, true, "values differ"};
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

MathVerdict compare_values(std::string_view answer, std::string_view gold) {
  MathVerdict verdict = compare_parsed(answer, gold);
  if (!verdict.equal && may_be_list(gold) && may_be_list(answer)) {
    MathVerdict as_list = compare_parsed(commas_spaced(answer), commas_spaced(gold));
    if (as_list.equal) return as_list;
  }
  return verdict;
}

/// Both are choices, or the gold is one that says what it stands for: false where that decides nothing.
bool compare_choices(std::string_view answer, std::string_view gold, MathVerdict& out) {
  const Choice truth = choice_of(gold);
  if (truth.letter == '\0') return false;
  const Choice chosen = choice_of(answer, truth.small);
  if (chosen.letter != '\0') {
    bool same = truth.letter == chosen.letter;
    if (same && !truth.content.empty() && !chosen.content.empty())
      same = same_text(chosen.content, truth.content) || compare_values(chosen.content, truth.content).equal;
    out = {same, true, same ? "same choice" : "another choice"};
    return true;
  }
  if (truth.content.empty()) return false;
  out = same_text(answer, truth.content) ? MathVerdict{true, true, "same text as the choice"}
                                         : compare_values(answer, truth.content);
  return true;
}

/// Without Markdown's stars around a beginning: "**73**", "**Answer:** 5".
std::string without_emphasis(std::string_view text) {
  for (std::string_view mark : {"**", "__", "*", "`"}) {
    if (!text.starts_with(mark)) continue;
    const size_t end = text.find(mark, mark.size());
    if (end == text.npos || trimmed(text.substr(mark.size(), end - mark.size())).empty()) continue;
    return str(text.substr(mark.size(), end - mark.size()), text.substr(end + mark.size()));
  }
  return std::string(text);
}

}  // namespace

MathVerdict math_equal(std::string_view answer, std::string_view gold) {
  answer = trimmed(answer), gold = trimmed(gold);
  if (same_text(answer, gold)) return {true, true, "same text"};
  const std::string plain = without_emphasis(answer), plain_gold = without_emphasis(gold);
  if (plain != answer || plain_gold != gold) {
    answer = trimmed(plain), gold = trimmed(plain_gold);
    if (same_text(answer, gold)) return {true, true, "same text"};
  }
  MathVerdict verdict;
  if (compare_choices(answer, gold, verdict)) return verdict;
  return compare_values(answer, gold);
}

}  // namespace mantissa
