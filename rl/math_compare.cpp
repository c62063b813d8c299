#include "rl/math_compare.h"

#include <gmpxx.h>

namespace mantissa {
namespace {

constexpr size_t kMaxDigits = 500;

/// "-1,234.50" or "3/4" as an exact rational.
bool read_rational(std::string_view text, mpq_class& value) {
  std::string digits, denominator;
  int decimals = -1;
  bool negative = false;
  size_t i = 0;
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) negative = text[i++] == '-';
  for (; i < text.size() && text[i] != '/'; ++i) {
    if (text[i] >= '0' && text[i] <= '9') {
      digits += text[i];
      if (decimals >= 0) ++decimals;
    } else if (text[i] == '.' && decimals < 0) {
      decimals = 0;
    } else if (text[i] != ',' && text[i] != '$') {
      return false;
    }
  }
  if (i < text.size()) denominator = text.substr(i + 1);
  if (digits.empty() || digits.size() + denominator.size() > kMaxDigits) return false;
  mpz_class below = 1;
  for (char c : denominator)
    if (c < '0' || c > '9') return false;
  if (i < text.size() && (denominator.empty() || below.set_str(denominator, 10) != 0 || below == 0)) return false;
  mpz_class scale;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10, static_cast<unsigned long>(decimals > 0 ? decimals : 0));
  value = mpq_class(mpz_class(digits, 10), below * scale);
  value.canonicalize();
  if (negative) value = -value;
  return true;
}

}  // namespace

MathVerdict math_equal(std::string_view answer, std::string_view gold) {
  mpq_class a, b;
  if (read_rational(answer, a) && read_rational(gold, b)) return {a == b, true, a == b ? "same number" : "numbers differ"};
  if (answer == gold) return {true, true, "same text"};
  return {false, false, "not numbers, texts differ"};
}

}  // namespace mantissa
