// Equality of single values: numbers, formulas at random points, equations up to a factor.
#pragma once

#include "rl/reward/math/eval.h"
#include "rl/reward/math/items.h"

namespace mantissa {

class ValueComparer {
 public:
  explicit ValueComparer(MathBudget& budget) : budget_(budget) {}

  /// Whether it has a value at the first point.
  bool evaluable(const MathItem& item);
  /// As numbers, or as functions of their variables; % and degrees may be missing on one side.
  bool equal(const MathItem& x, const MathItem& y);
  /// 2:3 equals 4:6 and 2/3. What is not in lowest terms is a time of day: 9:24 is not 3:8.
  bool ratios_equal(const MathItem& x, const MathItem& y);
  /// left - right of one relation is a constant multiple of the other's, a positive one for inequalities.
  bool sides_proportional(const MathItem& a, const MathItem& b);

 private:
  MathValue evaluate(const MathItem& item, MathScope scope);
  bool equal_everywhere(const MathItem& x, const MathItem& y, MathScope scope);
  /// `item` is a decimal with value a, long enough to be a rounded b.
  bool rounds_to(const MathItem& item, const MathValue& a, const MathValue& b) const;
  bool lowest_terms(const MathItem& ratio);

  MathBudget& budget_;
  MathArithmetic arithmetic_{budget_};
};

}  // namespace mantissa
