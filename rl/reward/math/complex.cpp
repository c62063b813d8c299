#include "rl/reward/math/complex.h"

#include <cmath>

namespace mantissa {
namespace {

// glibc's binary128 functions under names of our own: compilers disagree on whether <cmath> declares them.
#if __LDBL_MANT_DIG__ == 113
Quad q_sqrt(Quad x) {
  return std::sqrt(x);
}
Quad q_exp(Quad x) {
  return std::exp(x);
}
Quad q_log(Quad x) {
  return std::log(x);
}
Quad q_sin(Quad x) {
  return std::sin(x);
}
Quad q_cos(Quad x) {
  return std::cos(x);
}
Quad q_sinh(Quad x) {
  return std::sinh(x);
}
Quad q_cosh(Quad x) {
  return std::cosh(x);
}
Quad q_atan2(Quad y, Quad x) {
  return std::atan2(y, x);
}
Quad q_hypot(Quad x, Quad y) {
  return std::hypot(x, y);
}
Quad q_floor(Quad x) {
  return std::floor(x);
}
Quad q_lgamma(Quad x) {
  return std::lgamma(x);
}
#else
extern "C" {
Quad q_sqrt(Quad) noexcept __asm__("sqrtf128");
Quad q_exp(Quad) noexcept __asm__("expf128");
Quad q_log(Quad) noexcept __asm__("logf128");
Quad q_sin(Quad) noexcept __asm__("sinf128");
Quad q_cos(Quad) noexcept __asm__("cosf128");
Quad q_sinh(Quad) noexcept __asm__("sinhf128");
Quad q_cosh(Quad) noexcept __asm__("coshf128");
Quad q_atan2(Quad, Quad) noexcept __asm__("atan2f128");
Quad q_hypot(Quad, Quad) noexcept __asm__("hypotf128");
Quad q_floor(Quad) noexcept __asm__("floorf128");
Quad q_lgamma(Quad, int*) noexcept __asm__("lgammaf128_r");
}
#endif

QuadComplex reciprocal(QuadComplex z) {
  return QuadComplex{1, 0} / z;
}
QuadComplex times_i(QuadComplex z) {
  return {-z.im, z.re};
}
QuadComplex half(QuadComplex z) {
  return {z.re / 2, z.im / 2};
}
constexpr QuadComplex kOne{1, 0};

QuadComplex sine(QuadComplex z) {
  return {q_sin(z.re) * q_cosh(z.im), q_cos(z.re) * q_sinh(z.im)};
}
QuadComplex cosine(QuadComplex z) {
  return {q_cos(z.re) * q_cosh(z.im), -q_sin(z.re) * q_sinh(z.im)};
}
QuadComplex hyperbolic_sine(QuadComplex z) {
  return half(complex_exp(z) - complex_exp({-z.re, -z.im}));
}
QuadComplex hyperbolic_cosine(QuadComplex z) {
  return half(complex_exp(z) + complex_exp({-z.re, -z.im}));
}

QuadComplex arc_sine(QuadComplex z) {
  QuadComplex w = complex_log(times_i(z) + complex_sqrt(kOne - z * z));
  return {w.im, -w.re};
}
QuadComplex arc_cosine(QuadComplex z) {
  return QuadComplex{quad_pi() / 2, 0} - arc_sine(z);
}
QuadComplex arc_tangent(QuadComplex z) {
  if (z.im == 0) return {q_atan2(z.re, 1), 0};
  QuadComplex w = complex_log(kOne - times_i(z)) - complex_log(kOne + times_i(z));
  return half(times_i(w));
}

}  // namespace

QuadComplex operator+(QuadComplex a, QuadComplex b) {
  return {a.re + b.re, a.im + b.im};
}
QuadComplex operator-(QuadComplex a, QuadComplex b) {
  return {a.re - b.re, a.im - b.im};
}
QuadComplex operator*(QuadComplex a, QuadComplex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
QuadComplex operator/(QuadComplex a, QuadComplex b) {
  if (b.im == 0) return {a.re / b.re, a.im / b.re};
  Quad norm = b.re * b.re + b.im * b.im;
  return {(a.re * b.re + a.im * b.im) / norm, (a.im * b.re - a.re * b.im) / norm};
}
Quad magnitude(QuadComplex z) {
  return z.im == 0 ? (z.re < 0 ? -z.re : z.re) : q_hypot(z.re, z.im);
}
bool is_finite(QuadComplex z) {
  return z.re - z.re == 0 && z.im - z.im == 0;
}

Quad quad_pi() {
  static const Quad pi = q_atan2(0, -1);
  return pi;
}
Quad quad_floor(Quad x) {
  return q_floor(x);
}
Quad quad_log_gamma(Quad x) {
#if __LDBL_MANT_DIG__ == 113
  return q_lgamma(x);
#else
  int sign;  // lgamma itself writes a global
  return q_lgamma(x, &sign);
#endif
}

QuadComplex complex_exp(QuadComplex z) {
  Quad r = q_exp(z.re);
  return z.im == 0 ? QuadComplex{r, 0} : QuadComplex{r * q_cos(z.im), r * q_sin(z.im)};
}
QuadComplex complex_log(QuadComplex z) {
  if (z.im == 0 && z.re > 0) return {q_log(z.re), 0};
  return {q_log(magnitude(z)), q_atan2(z.im, z.re)};
}
QuadComplex complex_sqrt(QuadComplex z) {
  if (z.im == 0) return z.re >= 0 ? QuadComplex{q_sqrt(z.re), 0} : QuadComplex{0, q_sqrt(-z.re)};
  QuadComplex w = half(complex_log(z));
  return complex_exp(w);
}
QuadComplex complex_pow(QuadComplex z, QuadComplex w) {
  if (z.re == 0 && z.im == 0) return {Quad(w.re > 0 ? 0 : 1) / Quad(w.re >= 0 ? 1 : 0), 0};
  return complex_exp(w * complex_log(z));
}

bool complex_function(std::string_view name, QuadComplex z, QuadComplex& out) {
  auto is = [&](std::string_view other) { return name == other; };
  if (is("sin")) return out = sine(z), true;
  if (is("cos")) return out = cosine(z), true;
  if (is("tan")) return out = sine(z) / cosine(z), true;
  if (is("cot")) return out = cosine(z) / sine(z), true;
  if (is("sec")) return out = reciprocal(cosine(z)), true;
  if (is("csc")) return out = reciprocal(sine(z)), true;
  if (is("arcsin")) return out = arc_sine(z), true;
  if (is("arccos")) return out = arc_cosine(z), true;
  if (is("arctan")) return out = arc_tangent(z), true;
  if (is("arccot")) return out = QuadComplex{quad_pi() / 2, 0} - arc_tangent(z), true;
  if (is("arcsec")) return out = arc_cosine(reciprocal(z)), true;
  if (is("arccsc")) return out = arc_sine(reciprocal(z)), true;
  if (is("sinh")) return out = hyperbolic_sine(z), true;
  if (is("cosh")) return out = hyperbolic_cosine(z), true;
  if (is("tanh")) return out = hyperbolic_sine(z) / hyperbolic_cosine(z), true;
  if (is("coth")) return out = hyperbolic_cosine(z) / hyperbolic_sine(z), true;
  if (is("sech")) return out = reciprocal(hyperbolic_cosine(z)), true;
  if (is("csch")) return out = reciprocal(hyperbolic_sine(z)), true;
  if (is("arsinh") || is("arcsinh")) return out = complex_log(z + complex_sqrt(z * z + kOne)), true;
  if (is("arcosh") || is("arccosh"))
    return out = complex_log(z + complex_sqrt(z + kOne) * complex_sqrt(z - kOne)), true;
  if (is("artanh") || is("arctanh")) return out = half(complex_log((kOne + z) / (kOne - z))), true;
  if (is("exp")) return out = complex_exp(z), true;
  if (is("ln") || is("log")) return out = complex_log(z), true;
  if (is("lg")) return out = complex_log(z) / complex_log({10, 0}), true;
  if (is("sqrt")) return out = complex_sqrt(z), true;
  return false;
}

}  // namespace mantissa
