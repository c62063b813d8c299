#include "rl/reward/math/values.h"

#include <algorithm>

namespace mantissa {
namespace {

using Op = MathNode::Op;
using Kind = MathValue::Kind;

constexpr int kRoundingPlaces = 6;  // a decimal of fewer is meant as written

/// The number below a sign and a unit.
int unsigned_node(const MathExpr& expr, int node) {
  while (expr[node].op == Op::kNeg || expr[node].op == Op::kUnit) node = expr[node].args[0];
  return node;
}

/// Digits behind the point of a decimal, written out: 7 for 0.6666667, 6.666667e-1 and 6.666667\cdot10^{-1}; -1 for
/// other expressions.
int written_places(const MathExpr& expr, int node) {
  const MathNode& n = expr[unsigned_node(expr, node)];
  if (n.op == Op::kNumber) return n.decimals;
  if (n.op != Op::kMul || n.args.size() != 2) return -1;
  const MathNode &digits = expr[n.args[0]], &scale = expr[n.args[1]];
  if (digits.op != Op::kNumber || scale.op != Op::kPow || expr[scale.args[0]].number != 10) return -1;
  const bool negative = expr[scale.args[1]].op == Op::kNeg;
  const MathNode& exponent = expr[unsigned_node(expr, scale.args[1])];
  if (exponent.op != Op::kNumber || exponent.number.get_den() != 1 || exponent.number > 1000) return -1;
  return std::max(digits.decimals, 0) + int(exponent.number.get_d()) * (negative ? 1 : -1);
}

}  // namespace

bool ValueComparer::evaluable(const MathItem& item) {
  return evaluate(item, {}).kind != Kind::kNone;
}

MathValue ValueComparer::evaluate(const MathItem& item, MathScope scope) {
  scope.plus_minus = &item.plus_minus;
  scope.negative = item.negative;
  return evaluate_math(*item.expr, item.node, scope, budget_);
}

bool ValueComparer::equal(const MathItem& x, const MathItem& y) {
  // 204_5 is a numeral: 54 is its value, but not an answer in base 5.
  const MathNode &m = (*x.expr)[unsigned_node(*x.expr, x.node)], &n = (*y.expr)[unsigned_node(*y.expr, y.node)];
  if ((m.op == Op::kNumber ? m.base : 0) != (n.op == Op::kNumber ? n.base : 0)) return false;
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

bool ValueComparer::equal_everywhere(const MathItem& x, const MathItem& y, MathScope scope) {
  bool variables = x.has_variable() || y.has_variable();
  bool imaginary = x.expr->contains(x.node, Op::kI) || y.expr->contains(y.node, Op::kI);
  int agreed = 0;
  for (scope.point = 0; scope.point < MathScope::kPoints; ++scope.point) {
    MathValue a = evaluate(x, scope), b = evaluate(y, scope);
    if (!variables) return same_value(a, b) || rounds_to(x, a, b) || rounds_to(y, b, a);
    if (a.kind == Kind::kNone || b.kind == Kind::kNone) continue;
    // Off the positive axis, formulas that leave the real numbers may take different branches.
    if (scope.point >= MathScope::kPositivePoints && !imaginary && (!a.is_real() || !b.is_real())) continue;
    if (!same_value(a, b)) return false;
    ++agreed;
  }
  return agreed >= 2;
}

bool ValueComparer::rounds_to(const MathItem& item, const MathValue& a, const MathValue& b) const {
  const int places = written_places(*item.expr, item.node);
  if (places < kRoundingPlaces || a.kind != Kind::kExact) return false;
  mpz_class scale;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10, static_cast<unsigned long>(places));
  if (abs(a.exact) * scale < 100000) return false;  // 0.000001: one digit
  // Half a unit of the last place; no finer than a double's, since most long decimals come from one.
  mpq_class tolerance = std::max(mpq_class(1, 2 * scale), mpq_class(abs(a.exact) / (mpz_class(1) << 50)));
  return within(a, b, tolerance);
}

bool ValueComparer::ratios_equal(const MathItem& x, const MathItem& y) {
  const MathNode &m = *x, &n = *y;
  if (m.op != n.op) return lowest_terms(m.op == Op::kRatio ? x : y) && equal(x, y);
  if (m.args.size() != n.args.size()) return false;
  bool same = true, proportional = true;
  MathValue x0 = evaluate(x.at(m.args[0]), {}), y0 = evaluate(y.at(n.args[0]), {});
  for (size_t i = 0; i < m.args.size(); ++i) {
    same = same && equal(x.at(m.args[i]), y.at(n.args[i]));
    MathValue p = arithmetic_.divide(evaluate(x.at(m.args[i]), {}), x0);
    MathValue q = arithmetic_.divide(evaluate(y.at(n.args[i]), {}), y0);
    proportional = proportional && same_value(p, q);
  }
  return same || (proportional && lowest_terms(y));
}

bool ValueComparer::lowest_terms(const MathItem& ratio) {
  mpz_class divisor = 0;
  for (int arg : (*ratio).args) {
    MathValue v = evaluate(ratio.at(arg), {});
    if (v.kind == Kind::kExact && v.exact.get_den() == 1) divisor = gcd(divisor, v.exact.get_num());
  }
  return divisor <= 1;
}

bool ValueComparer::sides_proportional(const MathItem& a, const MathItem& b) {
  const MathNode &m = *a, &n = *b;
  char op = m.name[0], other = n.name[0];
  if (a.at(m.args[0]).is_container() || a.at(m.args[1]).is_container()) return false;
  if (!a.has_symbol() && !b.has_symbol()) return false;  // "f(2) = 5", "2 < 3": constants are always proportional
  auto kind = [](char c) { return c == '<' || c == '>' ? '<' : c == 'l' || c == 'g' ? 'l' : c == '~' ? '=' : c; };
  if (kind(op) != kind(other) || op == 'e') return false;
  bool ordered = kind(op) == '<' || kind(op) == 'l';
  bool same_direction = (op == '<' || op == 'l') == (other == '<' || other == 'l');
  MathScope scope;
  MathValue ratio;
  int agreed = 0;
  for (; scope.point < MathScope::kPoints; ++scope.point) {
    MathValue f = arithmetic_.subtract(evaluate(a.at(m.args[0]), scope), evaluate(a.at(m.args[1]), scope));
    MathValue g = arithmetic_.subtract(evaluate(b.at(n.args[0]), scope), evaluate(b.at(n.args[1]), scope));
    MathValue r = arithmetic_.divide(f, g);
    if (r.kind == Kind::kNone) {
      MathValue inverse = arithmetic_.divide(g, f);
      if (inverse.kind != Kind::kNone) return false;  // only one of them is zero
      continue;
    }
    if (agreed > 0 && !same_value(r, ratio)) return false;
    ratio = r;
    ++agreed;
  }
  if (agreed < 2 || !ratio.is_real()) return false;
  bool positive = ratio.kind == Kind::kExact ? ratio.exact > 0 : ratio.re > 0;
  bool zero = ratio.kind == Kind::kExact ? ratio.exact == 0 : ratio.re == 0;
  return !zero && (!ordered || positive == same_direction);
}

}  // namespace mantissa
