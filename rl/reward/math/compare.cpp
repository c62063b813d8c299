#include "rl/reward/math/compare.h"

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "rl/reward/math/eval.h"
#include "rl/reward/math/expr.h"
#include "rl/reward/math/extract.h"
#include "rl/reward/math/lexer.h"

namespace mantissa {
namespace {

using Op = MathNode::Op;
using Kind = MathValue::Kind;

constexpr int64_t kBudget = 60000;
constexpr size_t kMaxItems = 128;   // of a list
constexpr int kRoundingPlaces = 6;  // a decimal of fewer is meant as written

/// A node with the signs its \pm have.
struct Item {
  MathExpr* expr;
  int node;
  std::vector<int> plus_minus;
  uint32_t negative = 0;
  bool lenient = false;  // the answer's side: "m + n = 17" may label 17

  const MathNode& operator*() const { return (*expr)[node]; }
  Item at(int other) const {
    Item item = *this;
    item.node = other;
    return item;
  }
};

void find_plus_minus(const MathExpr& expr, int node, std::vector<int>& out) {
  if (expr[node].op == Op::kPlusMinus) out.push_back(node);
  for (int arg : expr[node].args) find_plus_minus(expr, arg, out);
}

bool any(const MathExpr& expr, int node, const std::function<bool(const MathNode&)>& f) {
  if (f(expr[node])) return true;
  for (int arg : expr[node].args)
    if (any(expr, arg, f)) return true;
  return false;
}
bool has_variable(const Item& item) {
  return any(*item.expr, item.node, [](const MathNode& n) { return n.op == Op::kSymbol || n.name.starts_with('@'); });
}

/// What only names a value: x, x_1, f(x), P(3), |AB|, AB/BC, (p, q), "area".
bool is_label(const MathExpr& expr, int node, bool lenient) {
  const MathNode& n = expr[node];
  auto all = [&](size_t from = 0) {
    return std::all_of(n.args.begin() + long(from), n.args.end(),
                       [&](int arg) { return is_label(expr, arg, lenient); });
  };
  switch (n.op) {
    case Op::kSymbol:
    case Op::kE:
    case Op::kI:
      return true;
    case Op::kCall:
      return n.name.starts_with('@') || (n.name != "factorial" && all());
    case Op::kMul:
      // P(3) reads as a product, 2x is one.
      return is_label(expr, n.args[0], lenient) && std::all_of(n.args.begin() + 1, n.args.end(), [&](int arg) {
               return expr[arg].op == Op::kNumber || is_label(expr, arg, lenient);
             });
    case Op::kDiv:
    case Op::kRatio:
    case Op::kTuple:
    case Op::kList:
      return all();
    case Op::kAdd:
      return lenient && all();
    default:
      return false;
  }
}

class Comparer {
 public:
  Comparer(MathExpr& answer, MathExpr& gold) : answer_(answer), gold_(gold) {}

  bool run() {
    Item a{&answer_, answer_.root, {}, 0, true}, b{&gold_, gold_.root, {}, 0, false};
    std::vector<Item> as = items(a), bs = items(b);
    if (as.size() == 1 && bs.size() == 1) {
      if (equal(as[0], bs[0])) return true;
    } else if (bs.size() == 1 ? subset(as, bs) : match(as, bs)) {
      return true;  // "1/2 or 0.5" repeats one value
    }
    return structured(as, bs) || structured(bs, as);
  }

 private:
  /// The members of a list, \pm written out, labels removed around lists.
  std::vector<Item> items(const Item& item) {
    std::vector<Item> out;
    collect(item, out);
    return out;
  }
  void collect(const Item& item, std::vector<Item>& out) {
    const MathNode& n = *item;
    if (n.op == Op::kRelation) {
      int value = value_of(item);
      if (value >= 0 && ((*item.expr)[value].op == Op::kList || item.expr->contains(value, Op::kPlusMinus)))
        return collect(item.at(value), out);
    }
    if (n.op == Op::kList) {
      for (int arg : n.args) collect(item.at(arg), out);
      return;
    }
    if (out.size() > kMaxItems) throw MathTooMuchWork(str("a list of more than ", kMaxItems));
    std::vector<int> marks;
    // The members of a set take their signs one by one.
    if (item.plus_minus.empty() && n.op != Op::kSet) find_plus_minus(*item.expr, item.node, marks);
    if (marks.empty()) {
      out.push_back(item);
      return;
    }
    std::sort(marks.begin(), marks.end());
    // \mp only makes sense together with a \pm: all signs move as one.
    bool together = std::any_of(marks.begin(), marks.end(), [&](int m) { return (*item.expr)[m].name == "-"; });
    if (!together && marks.size() > 4) throw MathTooMuchWork("more than four \\pm");
    uint32_t count = 1u << marks.size();
    if (together) {
      if (marks.size() > 31) throw MathTooMuchWork("too many \\pm");
      for (uint32_t signs : {0u, ~0u}) out.push_back(signed_item(item, marks, signs));
    } else {
      for (uint32_t signs = 0; signs < count; ++signs) out.push_back(signed_item(item, marks, signs));
    }
  }
  static Item signed_item(const Item& item, const std::vector<int>& marks, uint32_t signs) {
    Item out = item;
    out.plus_minus = marks, out.negative = signs;
    return out;
  }

  /// The value that a chain of = and ~ states, or -1 for a proper equation, an inequality and a false
  /// statement.
  int value_of(const Item& item) {
    const MathNode& n = *item;
    if (n.name == "e") return is_label(*item.expr, n.args[0], item.lenient) ? n.args[1] : -1;
    if (n.name.find_first_not_of("=~") != std::string::npos) return -1;
    size_t start = is_label(*item.expr, n.args[0], item.lenient) ? 1 : 0;
    while (start + 1 < n.args.size() && start > 0 && n.name[start] == '=' &&
           is_label(*item.expr, n.args[start], item.lenient))
      ++start;
    size_t last = start;
    while (last + 1 < n.args.size() && n.name[last] == '=') ++last;
    if (start == 0 && has_variable(item.at(n.args[0]))) return -1;
    for (size_t k = start; k < last; ++k) {
      Item x = item.at(n.args[k]), y = item.at(n.args[k + 1]);
      if (!has_variable(x) && !has_variable(y) && evaluable(x) && !values_equal(x, y)) return -1;
    }
    return n.args[last];
  }

  bool evaluable(const Item& item) { return evaluate(item, {}).kind != Kind::kNone; }

  MathValue evaluate(const Item& item, MathScope scope) {
    scope.plus_minus = &item.plus_minus;
    scope.negative = item.negative;
    return evaluate_math(*item.expr, item.node, scope, budget_);
  }

  /// One to one, in any order.
  bool match(const std::vector<Item>& as, const std::vector<Item>& bs) {
    if (as.size() != bs.size()) return false;
    std::vector<bool> used(bs.size());
    for (size_t i = 0; i < as.size(); ++i) {
      size_t k = 0;
      for (size_t step = 0; step < bs.size(); ++step) {
        k = (i + step) % bs.size();  // most lists come in the gold's order
        if (!used[k] && equal(as[i], bs[k])) break;
        if (step + 1 == bs.size()) return false;
      }
      used[k] = true;
    }
    return true;
  }

  bool subset(const std::vector<Item>& as, const std::vector<Item>& bs) {
    return std::all_of(as.begin(), as.end(), [&](const Item& a) {
      return std::any_of(bs.begin(), bs.end(), [&](const Item& b) { return equal(a, b); });
    });
  }
  bool same_set(const std::vector<Item>& as, const std::vector<Item>& bs) { return subset(as, bs) && subset(bs, as); }

  std::vector<Item> members(const Item& item) {
    std::vector<Item> out;
    for (int arg : (*item).args) collect(item.at(arg), out);
    return out;
  }

  /// A list against one set, point, column vector or union.
  bool structured(const std::vector<Item>& list, const std::vector<Item>& one) {
    if (one.size() != 1) return false;
    Item other = strip(one[0]);
    const MathNode& n = *other;
    if (n.op == Op::kSet) return (*strip(list[0])).op != Op::kSet && same_set(list, members(other));
    if (list.size() < 2) return false;
    if (n.op == Op::kTuple && n.name == "()") return in_order(list, members(other));
    if (n.op == Op::kUnion) {
      std::vector<Item> parts = union_parts(other), intervals;
      for (const Item& item : list) {
        Item interval = as_interval(item);
        if (interval.node < 0) return false;
        intervals.push_back(interval);
      }
      return match(intervals, parts);
    }
    return false;
  }

  bool in_order(const std::vector<Item>& as, const std::vector<Item>& bs) {
    if (as.size() != bs.size()) return false;
    for (size_t i = 0; i < as.size(); ++i)
      if (!equal(as[i], bs[i])) return false;
    return true;
  }

  std::vector<Item> union_parts(const Item& item) {
    std::vector<Item> out;
    for (int arg : (*item).args) {
      Item part = item.at(arg);
      if ((*part).op == Op::kUnion) {
        for (Item& inner : union_parts(part)) out.push_back(inner);
      } else {
        out.push_back(part);
      }
    }
    return out;
  }

  Item strip(Item item) {
    while ((*item).op == Op::kRelation) {
      int value = value_of(item);
      if (value < 0) break;
      item.node = value;
    }
    return item;
  }

  bool equal(const Item& a, const Item& b) {
    budget_.spend(1);
    if ((*a).op == Op::kRelation && (*b).op == Op::kRelation) {
      if (relations_equal(a, b)) return true;
      if ((value_of(a) < 0) == (value_of(b) < 0)) return false;  // else "x in [-2, 7]" against "-2 <= x <= 7"
    }
    Item x = strip(a), y = strip(b);
    if ((*x).op == Op::kRelation || (*y).op == Op::kRelation) {
      if ((*x).op == Op::kRelation) x = as_interval(x);
      if ((*y).op == Op::kRelation) y = as_interval(y);
      if (x.node < 0 || y.node < 0) return false;
    }
    const MathNode &m = *x, &n = *y;
    if (m.op == Op::kSet && n.op == Op::kSet) return same_set(members(x), members(y));
    if (m.op == Op::kList || n.op == Op::kList) {
      if (m.op == n.op) return match(items(x), items(y));
      const Item& list = m.op == Op::kList ? x : y;
      const Item& other = m.op == Op::kList ? y : x;
      return structured(items(list), {other});
    }
    if (m.op == Op::kUnion && n.op == Op::kUnion) return match(union_parts(x), union_parts(y));
    if (m.op == Op::kTuple && n.op == Op::kTuple) return m.name == n.name && in_order(members(x), members(y));
    if (m.op == Op::kMatrix && n.op == Op::kMatrix) return m.base == n.base && in_order(members(x), members(y));
    if (is_column(m) && n.op == Op::kTuple) return in_order(members(x), members(y));
    if (is_column(n) && m.op == Op::kTuple) return in_order(members(x), members(y));
    if (m.op == Op::kRatio || n.op == Op::kRatio) return ratios_equal(x, y);
    if (is_container(m) || is_container(n)) return false;
    return values_equal(x, y);
  }

  static bool is_column(const MathNode& n) {
    return n.op == Op::kMatrix && (n.base == 1 || size_t(n.base) == n.args.size());
  }
  static bool is_container(const MathNode& n) {
    return n.op == Op::kTuple || n.op == Op::kSet || n.op == Op::kUnion || n.op == Op::kMatrix || n.op == Op::kList;
  }

  /// 2:3 equals 4:6 and 2/3. What is not in lowest terms is a time of day: 9:24 is not 3:8.
  bool ratios_equal(const Item& x, const Item& y) {
    const MathNode &m = *x, &n = *y;
    if (m.op != n.op) return lowest_terms(m.op == Op::kRatio ? x : y) && values_equal(x, y);
    if (m.args.size() != n.args.size()) return false;
    bool same = true, proportional = true;
    MathValue x0 = evaluate(x.at(m.args[0]), {}), y0 = evaluate(y.at(n.args[0]), {});
    for (size_t i = 0; i < m.args.size(); ++i) {
      same = same && values_equal(x.at(m.args[i]), y.at(n.args[i]));
      MathValue p = divide_values(evaluate(x.at(m.args[i]), {}), x0, budget_);
      MathValue q = divide_values(evaluate(y.at(n.args[i]), {}), y0, budget_);
      proportional = proportional && same_value(p, q);
    }
    return same || (proportional && lowest_terms(y));
  }

  bool lowest_terms(const Item& ratio) {
    mpz_class divisor = 0;
    for (int arg : (*ratio).args) {
      MathValue v = evaluate(ratio.at(arg), {});
      if (v.kind == Kind::kExact && v.exact.get_den() == 1) divisor = gcd(divisor, v.exact.get_num());
    }
    return divisor <= 1;
  }

  bool values_equal(const Item& x, const Item& y) {
    const MathNode &m = *x, &n = *y;
    // 204_5 is a numeral: 54 is its value, but not an answer in base 5.
    int base_x = m.op == Op::kNumber ? m.base : m.op == Op::kNeg ? (*x.expr)[m.args[0]].base : 0;
    int base_y = n.op == Op::kNumber ? n.base : n.op == Op::kNeg ? (*y.expr)[n.args[0]].base : 0;
    if (base_x != base_y) return false;
    bool percent = x.expr->contains(x.node, Op::kPercent) != y.expr->contains(y.node, Op::kPercent);
    bool degree = x.expr->contains(x.node, Op::kDegree) != y.expr->contains(y.node, Op::kDegree);
    for (bool percent_is_one : {false, true})
      for (bool degree_is_one : {false, true}) {
        if ((percent_is_one && !percent) || (degree_is_one && !degree)) continue;
        MathScope scope;
        scope.percent_is_one = percent_is_one, scope.degree_is_one = degree_is_one;
        if (equal_everywhere(x, y, scope)) return true;
      }
    return false;
  }

  bool equal_everywhere(const Item& x, const Item& y, MathScope scope) {
    bool variables = has_variable(x) || has_variable(y);
    bool imaginary = x.expr->contains(x.node, Op::kI) || y.expr->contains(y.node, Op::kI);
    int agreed = 0;
    for (scope.point = 0; scope.point < MathScope::kPoints; ++scope.point) {
      MathValue a = evaluate(x, scope), b = evaluate(y, scope);
      if (!variables) return same_value(a, b) || rounds_to(x, a, b) || rounds_to(y, b, a);
      if (a.kind == Kind::kNone || b.kind == Kind::kNone) continue;
      // Off the positive axis, formulas that leave the real numbers may take different branches.
      if (scope.point >= MathScope::kPositivePoints && !imaginary && (!is_real(a) || !is_real(b))) continue;
      if (!same_value(a, b)) return false;
      ++agreed;
    }
    return agreed >= 2;
  }

  /// `item` is a decimal with value a, long enough to be a rounded b.
  bool rounds_to(const Item& item, const MathValue& a, const MathValue& b) const {
    const MathNode* n = &*item;
    if (n->op == Op::kNeg) n = &(*item.expr)[n->args[0]];
    if (n->op != Op::kNumber || n->decimals < kRoundingPlaces || a.kind != Kind::kExact) return false;
    mpz_class scale;
    mpz_ui_pow_ui(scale.get_mpz_t(), 10, static_cast<unsigned long>(n->decimals));
    if (abs(a.exact) * scale < 100000) return false;  // 0.000001: one digit
    // Half a unit of the last place; no finer than a double's, since most long decimals come from one.
    mpq_class tolerance = std::max(mpq_class(1, 2 * scale), mpq_class(abs(a.exact) / (mpz_class(1) << 50)));
    return within(a, b, tolerance);
  }

  /// x >= 5 as [5, inf), -2 < x <= 7 as (-2, 7]; node < 0 where it is no interval.
  Item as_interval(const Item& item) {
    Item none = item.at(-1);
    if ((*item).op != Op::kRelation) return item;
    budget_.spend(8);
    MathNode n = *item;
    if (n.args.size() == 3 && (n.name[0] == '>' || n.name[0] == 'g')) {
      std::reverse(n.args.begin(), n.args.end());
      std::reverse(n.name.begin(), n.name.end());
      for (char& op : n.name) op = flipped(op);
    }
    auto is_less = [](char op) { return op == '<' || op == 'l'; };
    std::vector<int> ends;
    std::string brackets;
    if (n.args.size() == 3) {
      if (!is_less(n.name[0]) || !is_less(n.name[1]) || !names_variable(item.at(n.args[1]))) return none;
      ends = {n.args[0], n.args[2]};
      brackets = {n.name[0] == 'l' ? '[' : '(', n.name[1] == 'l' ? ']' : ')'};
    } else if (n.args.size() == 2) {
      char op = n.name[0];
      int bound = n.args[1];
      if (!names_variable(item.at(n.args[0]))) {
        if (!names_variable(item.at(n.args[1]))) return none;
        op = flipped(op), bound = n.args[0];
      }
      if (op != '<' && op != 'l' && op != '>' && op != 'g') return none;
      int infinity = item.expr->add({Op::kInfinity, "", {}, -1, 0, {}});
      if (is_less(op)) {
        ends = {item.expr->add({Op::kNeg, "", {}, -1, 0, {infinity}}), bound};
        brackets = {'(', op == 'l' ? ']' : ')'};
      } else {
        ends = {bound, infinity};
        brackets = {op == 'g' ? '[' : '(', ')'};
      }
    } else {
      return none;
    }
    if (has_variable(item.at(ends[0])) || has_variable(item.at(ends[1]))) return none;
    return item.at(item.expr->add({Op::kTuple, brackets, {}, -1, 0, ends}));
  }
  static bool names_variable(const Item& item) {
    return (*item).op == Op::kSymbol || ((*item).op == Op::kCall && (*item).name.starts_with('@'));
  }
  static char flipped(char op) {
    switch (op) {
      case '<':
        return '>';
      case '>':
        return '<';
      case 'l':
        return 'g';
      case 'g':
        return 'l';
      default:
        return op;
    }
  }

  bool relations_equal(const Item& a, const Item& b) {
    int va = value_of(a), vb = value_of(b);
    if (va >= 0 && vb >= 0) {
      Item la = a.at((*a).args[0]), lb = b.at((*b).args[0]);
      bool labels = is_label(*a.expr, la.node, true) && is_label(*b.expr, lb.node, true);
      bool function = labels && (has_variable(a.at(va)) || has_variable(b.at(vb)));
      if (!labels || function || equal_labels(la, lb)) {
        if (equal(a.at(va), b.at(vb))) return true;
      }
    }
    const MathNode m = *a, n = *b;  // copies: as_interval adds nodes
    if (m.args.size() == 2 && n.args.size() == 2) return sides_proportional(a, b);
    if (m.args.size() != n.args.size()) return false;
    Item x = as_interval(a), y = as_interval(b);
    if (x.node >= 0 && y.node >= 0 && m.args.size() == 3)
      return values_equal(a.at(m.args[1]), b.at(n.args[1])) && equal(x, y);
    // Longer chains: part by part, in either direction.
    for (bool reverse : {false, true}) {
      bool same = true;
      for (size_t k = 0; k < m.name.size() && same; ++k)
        same = m.name[k] == (reverse ? flipped(n.name[m.name.size() - 1 - k]) : n.name[k]);
      for (size_t k = 0; k < m.args.size() && same; ++k)
        same = equal(a.at(m.args[k]), b.at(n.args[reverse ? m.args.size() - 1 - k : k]));
      if (same) return true;
    }
    return false;
  }

  bool equal_labels(const Item& a, const Item& b) {
    if (is_container(*a) || is_container(*b)) return equal(a, b);
    return values_equal(a, b);
  }

  /// left - right of one is a constant multiple of the other's, a positive one for inequalities.
  bool sides_proportional(const Item& a, const Item& b) {
    const MathNode &m = *a, &n = *b;
    char op = m.name[0], other = n.name[0];
    if (is_container((*a.expr)[m.args[0]]) || is_container((*a.expr)[m.args[1]])) return false;
    auto kind = [](char c) { return c == '<' || c == '>' ? '<' : c == 'l' || c == 'g' ? 'l' : c == '~' ? '=' : c; };
    if (kind(op) != kind(other) || op == 'e') return false;
    bool ordered = kind(op) == '<' || kind(op) == 'l';
    bool same_direction = (op == '<' || op == 'l') == (other == '<' || other == 'l');
    MathScope scope;
    MathValue ratio;
    int agreed = 0;
    for (; scope.point < MathScope::kPoints; ++scope.point) {
      MathValue f = subtract_values(evaluate(a.at(m.args[0]), scope), evaluate(a.at(m.args[1]), scope), budget_);
      MathValue g = subtract_values(evaluate(b.at(n.args[0]), scope), evaluate(b.at(n.args[1]), scope), budget_);
      MathValue r = divide_values(f, g, budget_);
      if (r.kind == Kind::kNone) {
        MathValue inverse = divide_values(g, f, budget_);
        if (inverse.kind != Kind::kNone) return false;  // only one of them is zero
        continue;
      }
      if (agreed > 0 && !same_value(r, ratio)) return false;
      ratio = r;
      ++agreed;
    }
    if (agreed < 2 || !is_real(ratio)) return false;
    bool positive = ratio.kind == Kind::kExact ? ratio.exact > 0 : ratio.re > 0;
    bool zero = ratio.kind == Kind::kExact ? ratio.exact == 0 : ratio.re == 0;
    return !zero && (!ordered || positive == same_direction);
  }

  MathExpr &answer_, &gold_;
  MathBudget budget_{kBudget};
};

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

/// What the answer counts: the unit among its words, else "$", "%" or "degree" where it has those; "" for
/// none known.
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
    bool equal = Comparer(a, b).run();
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
