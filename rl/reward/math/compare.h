// Equality of two written answers, by value: what a careful reader would accept as the same final answer.
//
//   numbers      exact rationals; irrational values to 24 digits; a decimal of six places or more equals what it rounds
//   expressions  equal at random rational points, exactly where both stay rational
//   labels       "x = 5" equals 5: a name, f(x), |AB| or "area" on the left only labels the value
//   equations    the same up to a constant factor; inequalities up to a positive one, and equal to their interval
//   lists        "1, 2", "1 and 2", \pm, boxes: unordered; sets also without repetition; points, intervals: in order
//   units        may be missing on either side, but not contradict; so may % and degrees
//   choices      "(B) 24" answers B
//   words        compared without case, blanks and punctuation
#pragma once

#include <string>
#include <string_view>

namespace mantissa {

struct MathVerdict {
  bool equal = false;
  bool parsed = false;  // both were read and compared as expressions; false: only their texts were
  std::string reason;
};

/// Never throws on any text; bounded work; thread-safe.
MathVerdict math_equal(std::string_view answer, std::string_view gold);

}  // namespace mantissa
