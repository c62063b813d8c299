#include "rl/reward/math/structure.h"

#include <algorithm>

#include "core/error.h"
#include "rl/reward/math/units.h"

namespace mantissa {
namespace {

using Op = MathNode::Op;

constexpr size_t kMaxItems = 128;  // of a list

}  // namespace

bool AnswerComparer::equal() {
  MathItem a{&answer_, answer_.root, {}, 0, true}, b{&gold_, gold_.root, {}, 0, false};
  Items as = items(a), bs = items(b);
  if (as.size() == 1 && bs.size() == 1) {
    if (equal(as[0], bs[0])) return true;
  } else if (bs.size() == 1 ? subset(as, bs) : match(as, bs)) {
    return true;  // "1/2 or 0.5" repeats one value
  }
  if (structured(as, bs) || structured(bs, as)) return true;
  // "p = 5, q = 2; p = 7, q = 2" against the same values with an "and" for the semicolon.
  return in_order_ungrouped(as, bs);
}

bool AnswerComparer::in_order_ungrouped(const Items& as, const Items& bs) {
  const Items flat_a = ungrouped(as), flat_b = ungrouped(bs);
  const bool grouped = flat_a.size() != as.size() || flat_b.size() != bs.size();
  return grouped && in_order(flat_a, flat_b);
}

AnswerComparer::Items AnswerComparer::ungrouped(const Items& items) {
  Items out;
  for (const MathItem& item : items) {
    if ((*item).op == Op::kTuple && (*item).base == 1) {
      for (const MathItem& member : members(item)) out.push_back(member);
    } else {
      out.push_back(item);
    }
  }
  return out;
}

AnswerComparer::Items AnswerComparer::items(const MathItem& item) {
  Items out;
  collect(item, out);
  return out;
}

void AnswerComparer::collect(const MathItem& item, Items& out) {
  if ((*item).op == Op::kRelation) {
    int value = value_of(item);
    if (value >= 0 && ((*item.expr)[value].op == Op::kList || item.expr->contains(value, Op::kPlusMinus)))
      return collect(item.at(value), out);
  }
  if ((*item).op == Op::kList) {
    const std::vector<int> args = (*item).args;
    for (int arg : args) collect(item.at(arg), out);
    return;
  }
  if (out.size() > kMaxItems) throw MathTooMuchWork(str("a list of more than ", kMaxItems));
  collect_signs(item, out);
}

void AnswerComparer::collect_signs(const MathItem& item, Items& out) {
  MathItem signed_item = item;
  std::vector<int>& marks = signed_item.plus_minus;
  // The members of a set take their signs one by one.
  if (marks.empty() && (*item).op != Op::kSet) find_plus_minus(*item.expr, item.node, marks);
  if (marks.empty() || !item.plus_minus.empty()) {
    out.push_back(item);
    return;
  }
  std::sort(marks.begin(), marks.end());
  // \mp only makes sense together with a \pm: all signs move as one.
  bool together = std::any_of(marks.begin(), marks.end(), [&](int m) { return (*item.expr)[m].name == "-"; });
  if (!together && marks.size() > 4) throw MathTooMuchWork("more than four \\pm");
  if (together && marks.size() > 31) throw MathTooMuchWork("too many \\pm");
  const uint32_t count = together ? 2 : 1u << marks.size();
  for (uint32_t signs = 0; signs < count; ++signs) {
    signed_item.negative = together && signs == 1 ? ~0u : signs;
    out.push_back(signed_item);
  }
}

AnswerComparer::Statement AnswerComparer::statement(const MathItem& item) {
  const MathNode n = *item;  // a copy: nodes may be added
  const auto at = [&](size_t k) { return item.at(n.args[k]); };
  if (n.name == "e") return at(0).is_label() ? Statement{n.args[0], n.args[1]} : Statement{};
  if (n.name.find_first_not_of("=~") != std::string::npos) return {};
  size_t first = 0, end = n.args.size();
  while (first + 1 < end && (first == 0 || n.name[first] == '=') && at(first).is_label()) ++first;
  int label = first > 0 ? n.args[0] : -1;
  if (label < 0 && at(0).has_variable()) {
    // -x = 5
    const bool negated = (*at(0)).op == Op::kNeg && at(0).at((*at(0)).args[0]).names_variable();
    if (!negated || end != 2 || at(1).has_variable()) return {};
    return {(*at(0)).args[0], item.expr->add({Op::kNeg, "", {}, -1, 0, {n.args[1]}})};
  }
  while (end > first + 1 && label != n.args[0] && n.name[end - 2] == '=' && at(end - 1).names_variable())
    label = n.args[--end];  // 5 = x
  size_t last = first;
  while (last + 1 < end && n.name[last] == '=') ++last;
  for (size_t k = first; k < last; ++k) {
    MathItem x = at(k), y = at(k + 1);
    if (!x.has_variable() && !y.has_variable() && values_.evaluable(x) && !values_.equal(x, y)) return {};
  }
  return {label, n.args[last]};
}

bool AnswerComparer::match(const Items& as, const Items& bs) {
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

bool AnswerComparer::subset(const Items& as, const Items& bs) {
  return std::all_of(as.begin(), as.end(), [&](const MathItem& a) {
    return std::any_of(bs.begin(), bs.end(), [&](const MathItem& b) { return equal(a, b); });
  });
}

AnswerComparer::Items AnswerComparer::members(const MathItem& item) {
  Items out;
  const std::vector<int> args = (*item).args;
  for (int arg : args) collect(item.at(arg), out);
  return out;
}

bool AnswerComparer::structured(const Items& list, const Items& one) {
  if (one.size() != 1) return false;
  MathItem other = strip(one[0]);
  const MathNode& n = *other;
  if (n.op == Op::kSet) return (*strip(list[0])).op != Op::kSet && same_set(list, members(other));
  if (list.size() < 2) return false;
  if (n.op == Op::kTuple && n.name == "()") return in_order(list, members(other));
  if (n.op == Op::kUnion) {
    Items parts = union_parts(other), intervals;
    for (const MathItem& item : list) {
      intervals.push_back(interval(item));
      if (intervals.back().node < 0) return false;
    }
    return match(intervals, parts);
  }
  return false;
}

bool AnswerComparer::in_order(const Items& as, const Items& bs) {
  if (as.size() != bs.size()) return false;
  for (size_t i = 0; i < as.size(); ++i)
    if (!equal(as[i], bs[i])) return false;
  return true;
}

MathItem AnswerComparer::interval(const MathItem& item) {
  if ((*item).op == Op::kRelation) budget_.spend(8);
  return as_interval(item);
}

MathItem AnswerComparer::strip(MathItem item) {
  for (;;) {
    const Op op = (*item).op;
    const int inside = op == Op::kRelation ? value_of(item) : op == Op::kUnit ? (*item).args[0] : -1;
    if (inside < 0) break;
    item.node = inside;
  }
  if ((*item).op != Op::kUnion) return item;
  // A union of finite sets is a set.
  std::vector<int> members;
  for (const MathItem& part : union_parts(item)) {
    if ((*part).op != Op::kSet) return item;
    members.insert(members.end(), (*part).args.begin(), (*part).args.end());
  }
  return item.at(item.expr->add({Op::kSet, "", {}, -1, 0, members}));
}

bool AnswerComparer::equal(const MathItem& a, const MathItem& b) {
  budget_.spend(1);
  if (!units_agree(unit_of(a), unit_of(b))) return false;
  if ((*a).op == Op::kRelation && (*b).op == Op::kRelation) {
    if (relations_equal(a, b)) return true;
    if ((value_of(a) < 0) == (value_of(b) < 0)) return false;  // else "x in [-2, 7]" against "-2 <= x <= 7"
  }
  MathItem x = strip(a), y = strip(b);
  if ((*x).op == Op::kRelation || (*y).op == Op::kRelation) {
    if ((*x).op == Op::kRelation) x = interval(x);
    if ((*y).op == Op::kRelation) y = interval(y);
    if (x.node < 0 || y.node < 0) return false;
  }
  const MathNode &m = *x, &n = *y;
  if (m.op == Op::kSet && n.op == Op::kSet) return same_set(members(x), members(y));
  if (m.op == Op::kList || n.op == Op::kList) {
    if (m.op == n.op) return match(items(x), items(y));
    const MathItem& list = m.op == Op::kList ? x : y;
    const MathItem& other = m.op == Op::kList ? y : x;
    return structured(items(list), {other});
  }
  if (m.op == Op::kUnion && n.op == Op::kUnion) return match(union_parts(x), union_parts(y));
  if (m.op == Op::kTuple && n.op == Op::kTuple) {
    if (m.name != n.name) return false;
    const Items as = members(x), bs = members(y);
    return in_order(as, bs) || in_order_ungrouped(as, bs);
  }
  if (m.op == Op::kMatrix && n.op == Op::kMatrix) return m.base == n.base && in_order(members(x), members(y));
  if (x.is_column() && n.op == Op::kTuple) return in_order(members(x), members(y));
  if (y.is_column() && m.op == Op::kTuple) return in_order(members(x), members(y));
  if (m.op == Op::kRatio || n.op == Op::kRatio) return values_.ratios_equal(x, y);
  if (x.is_container() || y.is_container()) return false;
  return values_.equal(x, y);
}

bool AnswerComparer::relations_equal(const MathItem& a, const MathItem& b) {
  const Statement sa = statement(a), sb = statement(b);
  if (sa.value >= 0 && sb.value >= 0) {
    const bool labels = sa.label >= 0 && sb.label >= 0;
    const bool function = labels && (a.at(sa.value).has_variable() || b.at(sb.value).has_variable());
    if (!labels || function || equal_labels(a.at(sa.label), b.at(sb.label))) {
      if (equal(a.at(sa.value), b.at(sb.value))) return true;
    }
  }
  const MathNode m = *a, n = *b;  // copies: as_interval adds nodes
  if (m.args.size() == 2 && n.args.size() == 2) return values_.sides_proportional(a, b);
  if (m.args.size() != n.args.size()) return false;
  MathItem x = interval(a), y = interval(b);
  if (x.node >= 0 && y.node >= 0 && m.args.size() == 3)
    return values_.equal(a.at(m.args[1]), b.at(n.args[1])) && equal(x, y);
  return chains_equal(a, b);
}

bool AnswerComparer::chains_equal(const MathItem& a, const MathItem& b) {
  const MathNode m = *a, n = *b;
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

bool AnswerComparer::equal_labels(const MathItem& a, const MathItem& b) {
  if (a.is_container() || b.is_container()) return equal(a, b);
  return values_.equal(a, b);
}

}  // namespace mantissa
