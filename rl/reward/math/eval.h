// Values of expression trees: exact rationals as long as every step stays rational, complex numbers of 113
// bits from there on. Work is counted against a budget, so no expression can take long.
#pragma once

#include <gmpxx.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "rl/reward/math/expr.h"

namespace mantissa {

// IEEE binary128: long double where it has those bits, the compiler's own type elsewhere.
#if __LDBL_MANT_DIG__ == 113
using Quad = long double;
#else
using Quad = __float128;
#endif

struct MathValue {
  enum class Kind : uint8_t { kNone, kExact, kNumeric, kInfinite };  // kNone: no value (undefined, or too large)
  Kind kind = Kind::kNone;
  mpq_class exact;      // kExact; kInfinite: its sign
  Quad re = 0, im = 0;  // kNumeric, always finite
};

/// Thrown when the budget is used up.
struct MathTooMuchWork : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Steps left; a step is about a microsecond at most.
class MathBudget {
 public:
  explicit MathBudget(int64_t steps) : left_(steps) {}
  void spend(int64_t steps) {
    if ((left_ -= steps) < 0) throw MathTooMuchWork("needs too much work to compare");
  }

 private:
  int64_t left_;
};

/// What the leaves stand for in one evaluation.
struct MathScope {
  int point = 0;                // variables take rational values that depend on their name and this: positive for
                                // points below kPositivePoints, of either sign above
  bool percent_is_one = false;  // "28%" read as 28
  bool degree_is_one = false;   // "90^\circ" read as 90
  const std::vector<int>* plus_minus = nullptr;  // the \pm nodes and, bit by bit, which of them are negative
  uint32_t negative = 0;

  static constexpr int kPoints = 8, kPositivePoints = 4;
};

MathValue evaluate_math(const MathExpr& expr, int node, const MathScope& scope, MathBudget& budget);

/// Equal exactly where both are exact, else to 24 digits.
bool same_value(const MathValue& a, const MathValue& b);
/// a - b and a / b; kNone where they have no value.
MathValue subtract_values(const MathValue& a, const MathValue& b, MathBudget& budget);
MathValue divide_values(const MathValue& a, const MathValue& b, MathBudget& budget);
/// |a - b| <= tolerance for real values.
bool within(const MathValue& a, const MathValue& b, const mpq_class& tolerance);
bool is_real(const MathValue& v);

}  // namespace mantissa
