// Equality of two written answers, by value.
#pragma once

#include <string>
#include <string_view>

namespace mantissa {

struct MathVerdict {
  bool equal = false;
  bool parsed = false;  // both were read as expressions; false: only their texts were compared
  std::string reason;
};

MathVerdict math_equal(std::string_view answer, std::string_view gold);

}  // namespace mantissa
