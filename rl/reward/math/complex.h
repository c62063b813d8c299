// Complex numbers of 113 bits: arithmetic and the elementary functions on principal branches.
#pragma once

#include <string_view>

namespace mantissa {

// IEEE binary128: long double where it has those bits, the compiler's own type elsewhere.
#if __LDBL_MANT_DIG__ == 113
using Quad = long double;
#else
using Quad = __float128;
#endif

struct QuadComplex {
  Quad re = 0, im = 0;
};

QuadComplex operator+(QuadComplex a, QuadComplex b);
QuadComplex operator-(QuadComplex a, QuadComplex b);
QuadComplex operator*(QuadComplex a, QuadComplex b);
QuadComplex operator/(QuadComplex a, QuadComplex b);
Quad magnitude(QuadComplex z);
bool is_finite(QuadComplex z);

Quad quad_pi();
Quad quad_floor(Quad x);
/// log(Gamma(x)), x > 0.
Quad quad_log_gamma(Quad x);

QuadComplex complex_exp(QuadComplex z);
QuadComplex complex_log(QuadComplex z);
QuadComplex complex_sqrt(QuadComplex z);
QuadComplex complex_pow(QuadComplex z, QuadComplex w);
/// sin, cos, ..., arcsin, ..., sinh, ..., arsinh, ... by name; false for another name.
bool complex_function(std::string_view name, QuadComplex z, QuadComplex& out);

}  // namespace mantissa
