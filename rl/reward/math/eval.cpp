#include "rl/reward/math/eval.h"

#include <algorithm>
#include <optional>

#include "core/hash.h"
#include "rl/reward/math/complex.h"

namespace mantissa {
namespace {

using Op = MathNode::Op;
using Kind = MathValue::Kind;

constexpr size_t kMaxBits = 65536;  // of an exact value; beyond it there is none
constexpr unsigned kMaxFactorial = 3000;
constexpr size_t kMaxDeterminant = 5;  // rows; expanded by minors
const Quad kEqual = 1e-24;             // relative difference of equal numeric values
const Quad kCancelled = 1e-28;         // a sum this far below its terms is zero

size_t bits(const mpq_class& q) {
  return mpz_sizeinbase(q.get_num_mpz_t(), 2) + mpz_sizeinbase(q.get_den_mpz_t(), 2);
}

MathValue exact(mpq_class q) {
  if (bits(q) > kMaxBits) return {};
  MathValue v;
  v.kind = Kind::kExact;
  v.exact = std::move(q);
  return v;
}
MathValue numeric(QuadComplex z) {
  MathValue v;
  if (!is_finite(z)) return v;
  v.kind = Kind::kNumeric;
  v.re = z.re, v.im = z.im;
  return v;
}
MathValue infinite(int sign) {
  MathValue v;
  v.kind = Kind::kInfinite;
  v.exact = sign;
  return v;
}

Quad to_quad(const mpz_class& z) {
  Quad r = 0;
  const Quad limb = Quad(18446744073709551616.0);
  for (size_t i = mpz_size(z.get_mpz_t()); i-- > 0;) r = r * limb + Quad(mpz_getlimbn(z.get_mpz_t(), mp_size_t(i)));
  return z < 0 ? -r : r;
}
QuadComplex to_complex(const MathValue& v) {
  if (v.kind == Kind::kNumeric) return {v.re, v.im};
  mpz_class num = v.exact.get_num(), den = v.exact.get_den();
  // Both are brought near 2^2000, far inside the type's range, without losing its 113 bits.
  long shift_num = std::max(0L, long(mpz_sizeinbase(num.get_mpz_t(), 2)) - 2000);
  long shift_den = std::max(0L, long(mpz_sizeinbase(den.get_mpz_t(), 2)) - 2000);
  if (shift_num == 0 && shift_den == 0) return {to_quad(num) / to_quad(den), 0};
  long shift = std::min(shift_num, shift_den);
  num >>= static_cast<unsigned long>(shift);
  den >>= static_cast<unsigned long>(shift);
  return {to_quad(num) / to_quad(den), 0};
}
uint64_t salted_hash(const std::string& name, size_t salt) {
  return hash64(name + '#' + char('a' + salt % 26));
}
bool has_number(const MathValue& v) {
  return v.kind == Kind::kExact || v.kind == Kind::kNumeric;
}

class Evaluator {
 public:
  Evaluator(const MathExpr& expr, const MathScope& scope, MathBudget& budget)
      : expr_(expr), scope_(scope), budget_(budget) {}

  MathValue eval(int i) {
    const MathNode& n = expr_[i];
    budget_.spend(1);
    switch (n.op) {
      case Op::kNumber:
        return exact(n.number);
      case Op::kSymbol:
        return variable(n.name);
      case Op::kPi:
        return numeric({quad_pi(), 0});
      case Op::kE:
        return numeric(complex_exp({1, 0}));
      case Op::kI:
        return numeric({0, 1});
      case Op::kInfinity:
        return infinite(1);
      case Op::kPercent:
        return scope_.percent_is_one ? exact(1) : exact(mpq_class(1, 100));
      case Op::kDegree:
        return scope_.degree_is_one ? exact(1) : numeric({quad_pi() / 180, 0});
      case Op::kNeg:
        return negate(eval(n.args[0]));
      case Op::kPlusMinus:
        return plus_minus(i, n);
      case Op::kAdd:
        return sum(n);
      case Op::kMul: {
        MathValue v = eval(n.args[0]);
        for (size_t k = 1; k < n.args.size(); ++k) v = multiply(v, eval(n.args[k]));
        return v;
      }
      case Op::kDiv:
        return divide(eval(n.args[0]), eval(n.args[1]));
      case Op::kPow:
        return power(eval(n.args[0]), eval(n.args[1]));
      case Op::kRatio:
        return n.args.size() == 2 ? divide(eval(n.args[0]), eval(n.args[1])) : MathValue{};
      case Op::kCall:
        return call(n);
      default:
        return {};
    }
  }

  MathValue divide(const MathValue& a, const MathValue& b) {
    if (!has_number(a) || !has_number(b)) return {};
    if (a.kind == Kind::kExact && b.kind == Kind::kExact) {
      if (b.exact == 0) return {};
      spend(a.exact, b.exact);
      return exact(a.exact / b.exact);
    }
    return numeric(to_complex(a) / to_complex(b));
  }

  static MathValue negate(MathValue v) {
    v.exact = -v.exact, v.re = -v.re, v.im = -v.im;
    return v;
  }

  MathValue add(const MathValue& a, const MathValue& b) {
    if (a.kind == Kind::kInfinite || b.kind == Kind::kInfinite) {
      if (a.kind == Kind::kNone || b.kind == Kind::kNone) return {};
      if (a.kind == b.kind && a.exact != b.exact) return {};
      return a.kind == Kind::kInfinite ? a : b;
    }
    if (!has_number(a) || !has_number(b)) return {};
    if (a.kind == Kind::kExact && b.kind == Kind::kExact) {
      spend(a.exact, b.exact);
      return exact(a.exact + b.exact);
    }
    QuadComplex x = to_complex(a), y = to_complex(b), z = x + y;
    Quad scale = std::max(magnitude(x), magnitude(y)) * kCancelled;
    if (magnitude({z.re, 0}) < scale) z.re = 0;
    if (magnitude({z.im, 0}) < scale) z.im = 0;
    return numeric(z);
  }

 private:
  void spend(const mpq_class& a, const mpq_class& b) { budget_.spend(int64_t((bits(a) + bits(b)) / 256)); }

  MathValue variable(const std::string& name) {
    uint64_t h = salted_hash(name, size_t(scope_.point));
    long above = long(1 + h % 211), below = long(7 + (h >> 20) % 89);
    bool negative = scope_.point >= MathScope::kPositivePoints && (h >> 40) % 2 == 1;
    mpq_class q(negative ? -above : above, below);
    q.canonicalize();
    return exact(std::move(q));
  }

  MathValue plus_minus(int i, const MathNode& n) {
    bool negative = n.name == "-";
    if (scope_.plus_minus) {
      auto it = std::find(scope_.plus_minus->begin(), scope_.plus_minus->end(), i);
      size_t bit = std::min<size_t>(size_t(it - scope_.plus_minus->begin()), 31);
      negative = negative != ((scope_.negative >> bit & 1) != 0);
    }
    MathValue v = eval(n.args[0]);
    return negative ? negate(std::move(v)) : v;
  }

  MathValue sum(const MathNode& n) {
    MathValue v = eval(n.args[0]);
    for (size_t k = 1; k < n.args.size(); ++k) v = add(v, eval(n.args[k]));
    return v;
  }

  MathValue multiply(const MathValue& a, const MathValue& b) {
    if (a.kind == Kind::kInfinite && b.kind == Kind::kExact && b.exact != 0)
      return infinite(sgn(a.exact) * sgn(b.exact));
    if (b.kind == Kind::kInfinite && a.kind == Kind::kExact) return multiply(b, a);
    if (!has_number(a) || !has_number(b)) return {};
    if (a.kind == Kind::kExact && b.kind == Kind::kExact) {
      spend(a.exact, b.exact);
      return exact(a.exact * b.exact);
    }
    return numeric(to_complex(a) * to_complex(b));
  }

  /// q^(1/n) where that is rational.
  static std::optional<mpq_class> rational_root(const mpq_class& q, unsigned long n) {
    if (q < 0 && n % 2 == 0) return {};
    mpz_class num, den;
    if (!mpz_root(num.get_mpz_t(), q.get_num_mpz_t(), n) || !mpz_root(den.get_mpz_t(), q.get_den_mpz_t(), n)) return {};
    return mpq_class(num, den);
  }

  MathValue integer_power(const mpq_class& base, const mpz_class& exponent) {
    if (base == 0 && exponent <= 0) return {};
    if (base == 0 || base == 1) return exact(base);
    mpz_class size = abs(exponent);
    if (!size.fits_ulong_p() || size * mpz_class(bits(base)) > 2 * kMaxBits) return {};
    unsigned long n = size.get_ui();
    budget_.spend(int64_t(n * bits(base) / 256));
    mpq_class out;
    mpz_pow_ui(out.get_num_mpz_t(), base.get_num_mpz_t(), n);
    mpz_pow_ui(out.get_den_mpz_t(), base.get_den_mpz_t(), n);
    return exact(exponent < 0 ? mpq_class(1 / out) : out);
  }

  MathValue power(const MathValue& a, const MathValue& b) {
    if (!has_number(a) || !has_number(b)) return {};
    budget_.spend(4);
    if (b.kind == Kind::kExact && b.exact.get_den() == 1 && b.exact.get_num().fits_slong_p()) {
      const mpz_class& n = b.exact.get_num();
      if (a.kind == Kind::kExact) {
        if (MathValue v = integer_power(a.exact, n); v.kind != Kind::kNone || a.exact == 0) return v;
      }
      if (abs(n) <= 64) {  // by multiplication: powers of real numbers stay real
        QuadComplex z = to_complex(a), w{1, 0};
        for (unsigned long k = mpz_class(abs(n)).get_ui(); k > 0; k >>= 1, z = z * z)
          if (k & 1) w = w * z;
        return numeric(n < 0 ? QuadComplex{1, 0} / w : w);
      }
    }
    if (b.kind == Kind::kExact && a.kind == Kind::kExact && b.exact.get_den() <= 64) {
      unsigned long n = b.exact.get_den().get_ui();
      if (auto root = rational_root(a.exact, n)) return integer_power(*root, b.exact.get_num());
      // Odd roots of negative numbers are real.
      if (a.exact < 0 && n % 2 == 1) {
        QuadComplex z = complex_pow(to_complex(exact(-a.exact)), to_complex(b));
        bool odd = mpz_odd_p(b.exact.get_num_mpz_t()) != 0;
        return numeric(odd ? QuadComplex{-z.re, -z.im} : z);
      }
    }
    return numeric(complex_pow(to_complex(a), to_complex(b)));
  }

  MathValue factorial(const MathValue& v) {
    if (v.kind == Kind::kExact && v.exact.get_den() == 1) {
      if (v.exact < 0 || v.exact > kMaxFactorial) return {};
      budget_.spend(200);
      mpz_class out;
      mpz_fac_ui(out.get_mpz_t(), v.exact.get_num().get_ui());
      return exact(out);
    }
    if (!is_real(v) || to_complex(v).re <= -1) return {};
    budget_.spend(10);
    return numeric(complex_exp({quad_log_gamma(to_complex(v).re + 1), 0}));
  }

  MathValue binomial(const MathValue& n, const MathValue& k) {
    if (n.kind == Kind::kExact && k.kind == Kind::kExact && n.exact.get_den() == 1 && k.exact.get_den() == 1) {
      if (k.exact < 0 || n.exact < 0 || n.exact > kMaxFactorial) return {};
      if (k.exact > n.exact) return exact(0);
      budget_.spend(200);
      mpz_class out;
      mpz_bin_ui(out.get_mpz_t(), n.exact.get_num_mpz_t(), k.exact.get_num().get_ui());
      return exact(out);
    }
    return divide(factorial(n), multiply(factorial(k), factorial(add(n, negate(k)))));
  }

  MathValue minor_sum(const MathNode& m, size_t rows, size_t row, uint32_t used) {
    if (row == rows) return exact(1);
    MathValue total = exact(0);
    bool negative = false;
    for (size_t column = 0; column < rows; ++column) {
      if (used >> column & 1) continue;
      MathValue v = multiply(eval(m.args[row * rows + column]), minor_sum(m, rows, row + 1, used | 1u << column));
      total = add(total, negative ? negate(v) : v);
      negative = !negative;
    }
    return total;
  }

  MathValue order(const std::string& name, const std::vector<MathValue>& args) {
    MathValue best = args[0];
    for (const MathValue& v : args) {
      if (!is_real(v)) return {};
      bool less = v.kind == Kind::kExact && best.kind == Kind::kExact ? v.exact < best.exact
                                                                      : to_complex(v).re < to_complex(best).re;
      if (less == (name == "min")) best = v;
    }
    return best;
  }

  MathValue common_divisor(const std::string& name, const std::vector<MathValue>& args) {
    mpz_class out = name == "gcd" ? 0 : 1;
    for (const MathValue& v : args) {
      if (v.kind != Kind::kExact || v.exact.get_den() != 1) return {};
      spend(v.exact, v.exact);
      if (name == "gcd") {
        out = gcd(out, v.exact.get_num());
      } else {
        out = lcm(out, v.exact.get_num());
      }
      if (mpz_sizeinbase(out.get_mpz_t(), 2) > kMaxBits) return {};
    }
    return exact(out);
  }

  /// A function of no known meaning: some fixed analytic function that depends on its name.
  MathValue unknown(const std::string& name, const std::vector<MathValue>& args) {
    QuadComplex z{0, 0};
    for (size_t k = 0; k < args.size(); ++k) {
      uint64_t h = salted_hash(name, k);
      QuadComplex a{Quad(1 + h % 97) / 59, 0}, b{Quad(1 + (h >> 16) % 97) / 31, 0}, s;
      complex_function("sin", a * to_complex(args[k]) + b, s);
      z = z + s + a * b * to_complex(args[k]);
    }
    return numeric(z);
  }

  MathValue call(const MathNode& n) {
    budget_.spend(10);
    const std::string& name = n.name;
    if (name == "det") {
      const MathNode& m = expr_[n.args[0]];
      size_t rows = m.op == Op::kMatrix ? size_t(m.base) : 0;
      if (rows == 0 || rows > kMaxDeterminant || m.args.size() != rows * rows) return {};
      return minor_sum(m, rows, 0, 0);
    }
    std::vector<MathValue> args;
    for (int arg : n.args) {
      args.push_back(eval(arg));
      if (!has_number(args.back())) return {};
    }
    if (name == "@cap" || name == "@setminus") return {};
    if (name[0] == '@') return unknown(name, args);
    const MathValue& x = args[0];
    if (name == "factorial") return factorial(x);
    if (name == "binom") return binomial(x, args[1]);
    if (name == "sqrt") return power(x, exact(mpq_class(1, 2)));
    if (name == "root") return root(x, args[1]);
    if (name == "max" || name == "min") return order(name, args);
    if (name == "gcd" || name == "lcm") return common_divisor(name, args);
    if (name == "abs") return x.kind == Kind::kExact ? exact(abs(x.exact)) : numeric({magnitude(to_complex(x)), 0});
    if (name == "floor" || name == "ceil") return round(name, x);
    if (name == "log" && args.size() == 2)
      return numeric(complex_log(to_complex(args[1])) / complex_log(to_complex(x)));
    QuadComplex z = to_complex(x), out;
    if (!complex_function(name, z, out)) return {};
    // sin(pi) and ln(sqrt(2)^2 / 2): values of order one that round to nearly zero.
    if (!name.starts_with("ar") && name != "sqrt" && name != "exp" && !name.ends_with('h')) {
      Quad noise = kCancelled * (1 + magnitude(z));
      if (magnitude({out.re, 0}) < noise) out.re = 0;
      if (magnitude({out.im, 0}) < noise) out.im = 0;
    }
    return numeric(out);
  }

  MathValue root(const MathValue& index, const MathValue& x) {
    MathValue power_of = divide(exact(1), index);
    bool odd = index.kind == Kind::kExact && index.exact.get_den() == 1 && mpz_odd_p(index.exact.get_num_mpz_t());
    if (odd && is_real(x) && to_complex(x).re < 0) return negate(power(negate(x), power_of));
    return power(x, power_of);
  }

  MathValue round(const std::string& name, const MathValue& x) {
    if (x.kind == Kind::kExact) {
      mpz_class out;
      if (name == "floor") {
        mpz_fdiv_q(out.get_mpz_t(), x.exact.get_num_mpz_t(), x.exact.get_den_mpz_t());
      } else {
        mpz_cdiv_q(out.get_mpz_t(), x.exact.get_num_mpz_t(), x.exact.get_den_mpz_t());
      }
      return exact(out);
    }
    if (!is_real(x)) return {};
    return numeric({name == "floor" ? quad_floor(x.re) : -quad_floor(-x.re), 0});
  }

  const MathExpr& expr_;
  const MathScope& scope_;
  MathBudget& budget_;
};

}  // namespace

MathValue evaluate_math(const MathExpr& expr, int node, const MathScope& scope, MathBudget& budget) {
  return Evaluator(expr, scope, budget).eval(node);
}

bool same_value(const MathValue& a, const MathValue& b) {
  if (a.kind == Kind::kInfinite || b.kind == Kind::kInfinite) return a.kind == b.kind && a.exact == b.exact;
  if (!has_number(a) || !has_number(b)) return false;
  if (a.kind == Kind::kExact && b.kind == Kind::kExact) return a.exact == b.exact;
  QuadComplex x = to_complex(a), y = to_complex(b);
  return magnitude(x - y) <= kEqual * std::max(magnitude(x), magnitude(y));
}

MathValue subtract_values(const MathValue& a, const MathValue& b, MathBudget& budget) {
  MathExpr none;
  MathScope scope;
  return Evaluator(none, scope, budget).add(a, Evaluator::negate(b));
}

MathValue divide_values(const MathValue& a, const MathValue& b, MathBudget& budget) {
  MathExpr none;
  MathScope scope;
  return Evaluator(none, scope, budget).divide(a, b);
}

bool within(const MathValue& a, const MathValue& b, const mpq_class& tolerance) {
  if (!is_real(a) || !is_real(b)) return false;
  if (a.kind == Kind::kExact && b.kind == Kind::kExact) return abs(a.exact - b.exact) <= tolerance;
  Quad difference = to_complex(a).re - to_complex(b).re;
  return (difference < 0 ? -difference : difference) <= to_complex(exact(tolerance)).re;
}

bool is_real(const MathValue& v) {
  if (v.kind == Kind::kExact) return true;
  return v.kind == Kind::kNumeric && magnitude({0, v.im}) <= kEqual * magnitude({v.re, 0});
}

}  // namespace mantissa
