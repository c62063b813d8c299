#include "rl/reward/math/value.h"

#include <algorithm>
#include <optional>

namespace mantissa {
namespace {

using Kind = MathValue::Kind;

constexpr size_t kMaxBits = 65536;  // of an exact value; beyond it there is none
constexpr unsigned kMaxFactorial = 3000;
const Quad kEqual = 1e-24;      // relative difference of equal numeric values
const Quad kCancelled = 1e-28;  // a sum this far below its terms is zero

size_t bits(const mpq_class& q) {
  return mpz_sizeinbase(q.get_num_mpz_t(), 2) + mpz_sizeinbase(q.get_den_mpz_t(), 2);
}

Quad to_quad(const mpz_class& z) {
  Quad r = 0;
  const Quad limb = Quad(18446744073709551616.0);
  for (size_t i = mpz_size(z.get_mpz_t()); i-- > 0;) r = r * limb + Quad(mpz_getlimbn(z.get_mpz_t(), mp_size_t(i)));
  return z < 0 ? -r : r;
}
/// q^(1/n) where that is rational.
std::optional<mpq_class> rational_root(const mpq_class& q, unsigned long n) {
  if (q < 0 && n % 2 == 0) return {};
  mpz_class num, den;
  if (!mpz_root(num.get_mpz_t(), q.get_num_mpz_t(), n) || !mpz_root(den.get_mpz_t(), q.get_den_mpz_t(), n)) return {};
  return mpq_class(num, den);
}

}  // namespace

MathValue MathValue::rational(mpq_class exact) {
  if (bits(exact) > kMaxBits) return {};
  MathValue v;
  v.kind = Kind::kExact;
  v.exact = std::move(exact);
  return v;
}
MathValue MathValue::numeric(QuadComplex z) {
  MathValue v;
  if (!is_finite(z)) return v;
  v.kind = Kind::kNumeric;
  v.re = z.re, v.im = z.im;
  return v;
}
MathValue MathValue::infinite(int sign) {
  MathValue v;
  v.kind = Kind::kInfinite;
  v.exact = sign;
  return v;
}

bool MathValue::is_real() const {
  if (kind == Kind::kExact) return true;
  return kind == Kind::kNumeric && magnitude({0, im}) <= kEqual * magnitude({re, 0});
}

QuadComplex MathValue::complex() const {
  if (kind == Kind::kNumeric) return {re, im};
  mpz_class num = exact.get_num(), den = exact.get_den();
  // Both are brought near 2^2000, far inside the type's range, without losing its 113 bits.
  long shift_num = std::max(0L, long(mpz_sizeinbase(num.get_mpz_t(), 2)) - 2000);
  long shift_den = std::max(0L, long(mpz_sizeinbase(den.get_mpz_t(), 2)) - 2000);
  if (shift_num == 0 && shift_den == 0) return {to_quad(num) / to_quad(den), 0};
  long shift = std::min(shift_num, shift_den);
  num >>= static_cast<unsigned long>(shift);
  den >>= static_cast<unsigned long>(shift);
  return {to_quad(num) / to_quad(den), 0};
}

void MathArithmetic::spend(const mpq_class& a, const mpq_class& b) {
  budget_.spend(int64_t((bits(a) + bits(b)) / 256));
}

MathValue MathArithmetic::negate(MathValue v) {
  v.exact = -v.exact, v.re = -v.re, v.im = -v.im;
  return v;
}

MathValue MathArithmetic::add(const MathValue& a, const MathValue& b) {
  if (a.kind == Kind::kInfinite || b.kind == Kind::kInfinite) {
    if (a.kind == Kind::kNone || b.kind == Kind::kNone) return {};
    if (a.kind == b.kind && a.exact != b.exact) return {};
    return a.kind == Kind::kInfinite ? a : b;
  }
  if (!a.is_number() || !b.is_number()) return {};
  if (a.kind == Kind::kExact && b.kind == Kind::kExact) {
    spend(a.exact, b.exact);
    return MathValue::rational(a.exact + b.exact);
  }
  QuadComplex x = a.complex(), y = b.complex(), z = x + y;
  Quad scale = std::max(magnitude(x), magnitude(y)) * kCancelled;
  if (magnitude({z.re, 0}) < scale) z.re = 0;
  if (magnitude({z.im, 0}) < scale) z.im = 0;
  return MathValue::numeric(z);
}

MathValue MathArithmetic::multiply(const MathValue& a, const MathValue& b) {
  if (a.kind == Kind::kInfinite && b.kind == Kind::kExact && b.exact != 0)
    return MathValue::infinite(sgn(a.exact) * sgn(b.exact));
  if (b.kind == Kind::kInfinite && a.kind == Kind::kExact) return multiply(b, a);
  if (!a.is_number() || !b.is_number()) return {};
  if (a.kind == Kind::kExact && b.kind == Kind::kExact) {
    spend(a.exact, b.exact);
    return MathValue::rational(a.exact * b.exact);
  }
  return MathValue::numeric(a.complex() * b.complex());
}

MathValue MathArithmetic::divide(const MathValue& a, const MathValue& b) {
  if (!a.is_number() || !b.is_number()) return {};
  if (a.kind == Kind::kExact && b.kind == Kind::kExact) {
    if (b.exact == 0) return {};
    spend(a.exact, b.exact);
    return MathValue::rational(a.exact / b.exact);
  }
  return MathValue::numeric(a.complex() / b.complex());
}

MathValue MathArithmetic::modulo(const MathValue& a, const MathValue& b) {
  if (!a.is_integer() || !b.is_integer() || b.exact == 0) return {};
  spend(a.exact, b.exact);
  mpz_class out;
  mpz_fdiv_r(out.get_mpz_t(), a.exact.get_num_mpz_t(), b.exact.get_num_mpz_t());
  return MathValue::rational(out);
}

MathValue MathArithmetic::integer_power(const mpq_class& base, const mpz_class& exponent) {
  if (base == 0 && exponent <= 0) return {};
  if (base == 0 || base == 1) return MathValue::rational(base);
  mpz_class size = abs(exponent);
  if (!size.fits_ulong_p() || size * mpz_class(bits(base)) > 2 * kMaxBits) return {};
  unsigned long n = size.get_ui();
  budget_.spend(int64_t(n * bits(base) / 256));
  mpq_class out;
  mpz_pow_ui(out.get_num_mpz_t(), base.get_num_mpz_t(), n);
  mpz_pow_ui(out.get_den_mpz_t(), base.get_den_mpz_t(), n);
  return MathValue::rational(exponent < 0 ? mpq_class(1 / out) : out);
}

MathValue MathArithmetic::power(const MathValue& a, const MathValue& b) {
  if (!a.is_number() || !b.is_number()) return {};
  budget_.spend(4);
  if (b.kind == Kind::kExact && b.exact.get_den() == 1 && b.exact.get_num().fits_slong_p()) {
    const mpz_class& n = b.exact.get_num();
    if (a.kind == Kind::kExact) {
      if (MathValue v = integer_power(a.exact, n); v.kind != Kind::kNone || a.exact == 0) return v;
    }
    if (abs(n) <= 64) {  // by multiplication: powers of real numbers stay real
      QuadComplex z = a.complex(), w{1, 0};
      for (unsigned long k = mpz_class(abs(n)).get_ui(); k > 0; k >>= 1, z = z * z)
        if (k & 1) w = w * z;
      return MathValue::numeric(n < 0 ? QuadComplex{1, 0} / w : w);
    }
  }
  if (b.kind == Kind::kExact && a.kind == Kind::kExact && b.exact.get_den() <= 64) {
    unsigned long n = b.exact.get_den().get_ui();
    if (auto root = rational_root(a.exact, n)) return integer_power(*root, b.exact.get_num());
    // Odd roots of negative numbers are real.
    if (a.exact < 0 && n % 2 == 1) {
      QuadComplex z = complex_pow(MathValue::rational(-a.exact).complex(), b.complex());
      bool odd = mpz_odd_p(b.exact.get_num_mpz_t()) != 0;
      return MathValue::numeric(odd ? QuadComplex{-z.re, -z.im} : z);
    }
  }
  return MathValue::numeric(complex_pow(a.complex(), b.complex()));
}

MathValue MathArithmetic::root(const MathValue& index, const MathValue& x) {
  MathValue power_of = divide(MathValue::rational(1), index);
  bool odd = index.kind == Kind::kExact && index.exact.get_den() == 1 && mpz_odd_p(index.exact.get_num_mpz_t());
  if (odd && x.is_real() && x.complex().re < 0) return negate(power(negate(x), power_of));
  return power(x, power_of);
}

MathValue MathArithmetic::factorial(const MathValue& v) {
  if (v.kind == Kind::kExact && v.exact.get_den() == 1) {
    if (v.exact < 0 || v.exact > kMaxFactorial) return {};
    budget_.spend(200);
    mpz_class out;
    mpz_fac_ui(out.get_mpz_t(), v.exact.get_num().get_ui());
    return MathValue::rational(out);
  }
  if (!v.is_real() || v.complex().re <= -1) return {};
  budget_.spend(10);
  return MathValue::numeric(complex_exp({quad_log_gamma(v.complex().re + 1), 0}));
}

MathValue MathArithmetic::binomial(const MathValue& n, const MathValue& k) {
  if (n.kind == Kind::kExact && k.kind == Kind::kExact && n.exact.get_den() == 1 && k.exact.get_den() == 1) {
    if (k.exact < 0 || n.exact < 0 || n.exact > kMaxFactorial) return {};
    if (k.exact > n.exact) return MathValue::rational(0);
    budget_.spend(200);
    mpz_class out;
    mpz_bin_ui(out.get_mpz_t(), n.exact.get_num_mpz_t(), k.exact.get_num().get_ui());
    return MathValue::rational(out);
  }
  return divide(factorial(n), multiply(factorial(k), factorial(add(n, negate(k)))));
}

MathValue MathArithmetic::extreme(std::string_view name, const std::vector<MathValue>& args) {
  MathValue best = args[0];
  for (const MathValue& v : args) {
    if (!v.is_real()) return {};
    bool less =
        v.kind == Kind::kExact && best.kind == Kind::kExact ? v.exact < best.exact : v.complex().re < best.complex().re;
    if (less == (name == "min")) best = v;
  }
  return best;
}

MathValue MathArithmetic::common_divisor(std::string_view name, const std::vector<MathValue>& args) {
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
  return MathValue::rational(out);
}

MathValue MathArithmetic::round(std::string_view name, const MathValue& x) {
  if (x.kind == Kind::kExact) {
    mpz_class out;
    if (name == "floor") {
      mpz_fdiv_q(out.get_mpz_t(), x.exact.get_num_mpz_t(), x.exact.get_den_mpz_t());
    } else {
      mpz_cdiv_q(out.get_mpz_t(), x.exact.get_num_mpz_t(), x.exact.get_den_mpz_t());
    }
    return MathValue::rational(out);
  }
  if (!x.is_real()) return {};
  return MathValue::numeric({name == "floor" ? quad_floor(x.re) : -quad_floor(-x.re), 0});
}

MathValue MathArithmetic::function(std::string_view name, const MathValue& x) {
  if (!x.is_number()) return {};
  QuadComplex z = x.complex(), out;
  if (!complex_function(name, z, out)) return {};
  // sin(pi) and ln(sqrt(2)^2 / 2): values of order one that round to nearly zero.
  if (!name.starts_with("ar") && name != "sqrt" && name != "exp" && !name.ends_with('h')) {
    Quad noise = kCancelled * (1 + magnitude(z));
    if (magnitude({out.re, 0}) < noise) out.re = 0;
    if (magnitude({out.im, 0}) < noise) out.im = 0;
  }
  return MathValue::numeric(out);
}

bool same_value(const MathValue& a, const MathValue& b) {
  if (a.kind == Kind::kInfinite || b.kind == Kind::kInfinite) return a.kind == b.kind && a.exact == b.exact;
  if (!a.is_number() || !b.is_number()) return false;
  if (a.kind == Kind::kExact && b.kind == Kind::kExact) return a.exact == b.exact;
  QuadComplex x = a.complex(), y = b.complex();
  return magnitude(x - y) <= kEqual * std::max(magnitude(x), magnitude(y));
}

bool within(const MathValue& a, const MathValue& b, const mpq_class& tolerance) {
  if (!a.is_real() || !b.is_real()) return false;
  if (a.kind == Kind::kExact && b.kind == Kind::kExact) return abs(a.exact - b.exact) <= tolerance;
  Quad difference = a.complex().re - b.complex().re;
  return (difference < 0 ? -difference : difference) <= MathValue::rational(tolerance).complex().re;
}

}  // namespace mantissa
