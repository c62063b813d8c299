// Numbers as answers write them: thousands separators, decimals, repeating decimals, exponents.
#pragma once

#include <string>
#include <string_view>

namespace mantissa {

struct WrittenNumber {
  std::string digits;  // digits with at most one point; an exponent "e-3"; a repeating part in parentheses "1.(6)"
  size_t length = 0;   // bytes of the text it takes
};

/// Where a number stands decides what may separate its digits.
struct NumberPlace {
  bool in_brackets = false;  // "(1,234)" is a point
  bool in_fraction = false;  // the arguments of "\frac 3 800" are never joined by a blank
};

/// Whether `text` begins with a digit, or a point and a digit.
bool starts_number(std::string_view text);

/// The number that `text` begins with. Throws MathSyntaxError where its decimals repeat in a way that cannot be read.
WrittenNumber read_number(std::string_view text, NumberPlace place);

}  // namespace mantissa
