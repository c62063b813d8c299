// Equality of two written answers, by value: what a careful reader would accept as the same final answer.
//
//   numbers      exact rationals; irrational values to 24 digits; a decimal of six places or more equals what it rounds
//   expressions  equal at random rational points, exactly where both stay rational
//   labels       "x = 5", "5 = x", "-x = -5", "The answer is 5" equal 5: a name, f(x), |AB| or "area" only labels it
//   equations    the same up to a constant factor; inequalities up to a positive one, and equal to their interval
//   lists        "1, 2", "1 and 2", \pm, boxes: unordered; sets, and unions of them, also without repetition; points,
//                intervals: in order; "1, 2; 3, 4" are pairs
//   units        units with their powers, currencies and one plain noun of what is counted ("13 apples") may be missing
//                on either side, but not contradict; so may % and degrees. Scales multiply: "5 million", "two dozen".
//                Any other word behind a value ("at most", "halves") must be on both sides
//   choices      "(B) 24" answers B; as the gold it takes B, 24 and "(B) 24", but not "(A) 24"
//   words        compared without case, blanks and punctuation; letters alone and in pairs are variables
//
// What cannot be read (an unknown command, a mark over a number, words in brackets, "5 feet 6 inches") is equal only as
// text, and `parsed` is false then. So it is where values differ and a part of one is not computed: a word, a set or a
// matrix in a calculation, a \sum, a function of no known meaning, words behind one side alone.
#pragma once

#include <string>
#include <string_view>

namespace mantissa {

struct MathVerdict {
  bool equal = false;
  bool parsed = false;  // both were read, and their values decided; false: only their texts did
  std::string reason;
};

/// Never throws on any text; bounded work; thread-safe.
MathVerdict math_equal(std::string_view answer, std::string_view gold);

}  // namespace mantissa
