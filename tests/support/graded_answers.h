// What tests of kinds of answers share: random choices, and pairs of answers that must be graded as equal or as
// different, whichever of the two is the gold one.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "rl/reward/reward.h"

namespace mantissa {

inline std::mt19937& generator() {
  static std::mt19937 random(11);
  return random;
}
inline long random_between(long low, long high) {
  return std::uniform_int_distribution<long>(low, high)(generator());
}
template <class T>
const T& one_of(const std::vector<T>& choices) {
  return choices[size_t(random_between(0, long(choices.size()) - 1))];
}
inline std::string text(long value) {
  return std::to_string(value);
}

inline void expect_equal(const std::string& answer, const std::string& gold) {
  const Grade there = grade({}, "\\boxed{" + answer + "}", gold), back = grade({}, "\\boxed{" + gold + "}", answer);
  EXPECT_TRUE(there.correct) << answer << " | " << gold << ": " << there.reason;
  EXPECT_TRUE(back.correct) << gold << " | " << answer << ": " << back.reason;
}
inline void expect_different(const std::string& answer, const std::string& gold) {
  EXPECT_FALSE(grade({}, "\\boxed{" + answer + "}", gold).correct) << answer << " | " << gold;
  EXPECT_FALSE(grade({}, "\\boxed{" + gold + "}", answer).correct) << gold << " | " << answer;
}

}  // namespace mantissa
