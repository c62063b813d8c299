// Values of written mathematics: exact rationals as long as every step stays rational, complex numbers of 113 bits from
// there on. Work is counted against a budget, so no expression can take long.
#pragma once

#include <gmpxx.h>

#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "rl/reward/math/complex.h"

namespace mantissa {

struct MathValue {
  enum class Kind : uint8_t { kNone, kExact, kNumeric, kInfinite };  // kNone: no value (undefined, or too large)
  Kind kind = Kind::kNone;
  mpq_class exact;      // kExact; kInfinite: its sign
  Quad re = 0, im = 0;  // kNumeric, always finite

  static MathValue rational(mpq_class exact);  // kNone beyond 65,536 bits
  static MathValue numeric(QuadComplex z);     // kNone where it is not finite
  static MathValue infinite(int sign);

  bool is_number() const { return kind == Kind::kExact || kind == Kind::kNumeric; }
  bool is_integer() const { return kind == Kind::kExact && exact.get_den() == 1; }
  bool is_real() const;
  QuadComplex complex() const;
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

/// Operations on values; kNone in gives kNone out, and so does what has no value (1/0, infinity - infinity).
class MathArithmetic {
 public:
  explicit MathArithmetic(MathBudget& budget) : budget_(budget) {}

  static MathValue negate(MathValue v);
  MathValue add(const MathValue& a, const MathValue& b);
  MathValue subtract(const MathValue& a, const MathValue& b) { return add(a, negate(b)); }
  MathValue multiply(const MathValue& a, const MathValue& b);
  MathValue divide(const MathValue& a, const MathValue& b);
  /// The remainder of whole numbers, of the divisor's sign.
  MathValue modulo(const MathValue& a, const MathValue& b);
  MathValue power(const MathValue& a, const MathValue& b);
  /// Odd roots of negative numbers are real.
  MathValue root(const MathValue& index, const MathValue& x);
  MathValue factorial(const MathValue& v);
  MathValue binomial(const MathValue& n, const MathValue& k);
  /// By name: max and min; gcd and lcm of whole numbers; floor and ceil.
  MathValue extreme(std::string_view name, const std::vector<MathValue>& args);
  MathValue common_divisor(std::string_view name, const std::vector<MathValue>& args);
  MathValue round(std::string_view name, const MathValue& x);
  /// sin, ln, ...; kNone for a name without meaning.
  MathValue function(std::string_view name, const MathValue& x);

 private:
  void spend(const mpq_class& a, const mpq_class& b);
  MathValue integer_power(const mpq_class& base, const mpz_class& exponent);

  MathBudget& budget_;
};

/// Equal exactly where both are exact, else to 24 digits.
bool same_value(const MathValue& a, const MathValue& b);
/// |a - b| <= tolerance for real values.
bool within(const MathValue& a, const MathValue& b, const mpq_class& tolerance);

}  // namespace mantissa
