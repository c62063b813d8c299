// Equality of whole answers: lists, sets, points, intervals, unions, matrices and relations, down to single values.
#pragma once

#include "rl/reward/math/items.h"
#include "rl/reward/math/values.h"

namespace mantissa {

class AnswerComparer {
 public:
  AnswerComparer(MathExpr& answer, MathExpr& gold, MathBudget& budget)
      : answer_(answer), gold_(gold), budget_(budget) {}

  bool equal();

 private:
  using Items = std::vector<MathItem>;

  /// The members of a list, \pm written out, labels removed around lists.
  Items items(const MathItem& item);
  void collect(const MathItem& item, Items& out);
  /// One item for each choice of the signs.
  void collect_signs(const MathItem& item, Items& out);
  /// Of a set, point, union or matrix.
  Items members(const MathItem& item);
  /// What a chain of = and ~ states, "x = 2 + 3 = 5", "5 = x", "-x = 5": value < 0 for a proper equation, an inequality
  /// and a false statement; label < 0 where it has none.
  struct Statement {
    int label = -1, value = -1;
  };
  Statement statement(const MathItem& item);
  int value_of(const MathItem& item) { return statement(item).value; }
  /// Without labels and units; a union of finite sets as one set.
  MathItem strip(MathItem item);
  /// as_interval, its work counted against the budget.
  MathItem interval(const MathItem& item);

  bool equal(const MathItem& a, const MathItem& b);
  bool relations_equal(const MathItem& a, const MathItem& b);
  /// Chains of more than two relations: part by part, in either direction.
  bool chains_equal(const MathItem& a, const MathItem& b);
  bool equal_labels(const MathItem& a, const MathItem& b);
  /// The members of groups between semicolons one by one.
  Items ungrouped(const Items& items);
  bool in_order_ungrouped(const Items& as, const Items& bs);
  /// A list against one set, point, column vector or union.
  bool structured(const Items& list, const Items& one);
  /// One to one, in any order.
  bool match(const Items& as, const Items& bs);
  bool subset(const Items& as, const Items& bs);
  bool same_set(const Items& as, const Items& bs) { return subset(as, bs) && subset(bs, as); }
  bool in_order(const Items& as, const Items& bs);

  MathExpr &answer_, &gold_;
  MathBudget& budget_;
  ValueComparer values_{budget_};
};

}  // namespace mantissa
