#include "rl/reward/math/items.h"

#include <algorithm>
#include <functional>

namespace mantissa {
namespace {

using Op = MathNode::Op;

bool any(const MathExpr& expr, int node, const std::function<bool(const MathNode&)>& f) {
  if (f(expr[node])) return true;
  for (int arg : expr[node].args)
    if (any(expr, arg, f)) return true;
  return false;
}

bool labels(const MathExpr& expr, int node, bool lenient) {
  const MathNode& n = expr[node];
  auto all = [&](size_t from = 0) {
    return std::all_of(n.args.begin() + long(from), n.args.end(), [&](int arg) { return labels(expr, arg, lenient); });
  };
  switch (n.op) {
    case Op::kSymbol:
    case Op::kE:
    case Op::kI:
      return true;
    case Op::kCall:
      // "\ln x = 5" is an equation in x rather than the name of a value.
      if (n.name == "factorial" || n.name == "sqrt" || n.name == "root" || n.name == "ln" || n.name == "log" ||
          n.name == "exp")
        return false;
      return n.name.starts_with('@') || all();
    case Op::kMul:
      // P(3) reads as a product, 2x is one.
      return n.name != "*" && labels(expr, n.args[0], lenient) &&
             std::all_of(n.args.begin() + 1, n.args.end(),
                         [&](int arg) { return expr[arg].op == Op::kNumber || labels(expr, arg, lenient); });
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

}  // namespace

bool MathItem::has_variable() const {
  return any(*expr, node, [](const MathNode& n) { return n.op == Op::kSymbol || n.name.starts_with('@'); });
}

bool MathItem::has_symbol() const {
  return any(*expr, node, [](const MathNode& n) { return n.op == Op::kSymbol; });
}

bool MathItem::is_label() const {
  return labels(*expr, node, lenient);
}

bool MathItem::names_variable() const {
  return (**this).op == Op::kSymbol || ((**this).op == Op::kCall && (**this).name.starts_with('@'));
}

bool MathItem::is_column() const {
  const MathNode& n = **this;
  return n.op == Op::kMatrix && (n.base == 1 || size_t(n.base) == n.args.size());
}

bool MathItem::is_container() const {
  const Op op = (**this).op;
  return op == Op::kTuple || op == Op::kSet || op == Op::kUnion || op == Op::kMatrix || op == Op::kList;
}

void find_plus_minus(const MathExpr& expr, int node, std::vector<int>& out) {
  if (expr[node].op == Op::kPlusMinus) out.push_back(node);
  for (int arg : expr[node].args) find_plus_minus(expr, arg, out);
}

std::string unit_of(const MathItem& item) {
  std::vector<std::string_view> units;
  bool percent = false, degree = false;
  const auto look = [&](const MathNode& n) {
    if (n.op == Op::kUnit && std::find(units.begin(), units.end(), n.name) == units.end()) units.push_back(n.name);
    percent = percent || n.op == Op::kPercent;
    degree = degree || n.op == Op::kDegree;
    return false;
  };
  any(*item.expr, item.node, look);
  if (units.empty()) return percent ? "%" : degree ? "degree" : "";
  std::string out;
  for (std::string_view unit : units) (out += out.empty() ? "" : " ") += unit;
  return out;
}

std::vector<MathItem> union_parts(const MathItem& item) {
  std::vector<MathItem> out;
  for (int arg : (*item).args) {
    MathItem part = item.at(arg);
    if ((*part).op == Op::kUnion) {
      for (MathItem& inner : union_parts(part)) out.push_back(inner);
    } else {
      out.push_back(part);
    }
  }
  return out;
}

MathItem as_interval(const MathItem& item) {
  MathItem none = item.at(-1);
  if ((*item).op != Op::kRelation) return item;
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
    if (!is_less(n.name[0]) || !is_less(n.name[1]) || !item.at(n.args[1]).names_variable()) return none;
    ends = {n.args[0], n.args[2]};
    brackets = {n.name[0] == 'l' ? '[' : '(', n.name[1] == 'l' ? ']' : ')'};
  } else if (n.args.size() == 2) {
    char op = n.name[0];
    int bound = n.args[1];
    if (!item.at(n.args[0]).names_variable()) {
      if (!item.at(n.args[1]).names_variable()) return none;
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
  if (item.at(ends[0]).has_variable() || item.at(ends[1]).has_variable()) return none;
  return item.at(item.expr->add({Op::kTuple, brackets, {}, -1, 0, ends}));
}

char flipped(char op) {
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

}  // namespace mantissa
