// Values of expression trees.
#pragma once

#include "rl/reward/math/expr.h"
#include "rl/reward/math/value.h"

namespace mantissa {

/// What the leaves stand for in one evaluation.
struct MathScope {
  // Variables take rational values that depend on their name and the point: positive ones at points below
  // kPositivePoints, of either sign from there on.
  int point = 0;
  bool percent_is_one = false;                   // "28%" read as 28
  bool degree_is_one = false;                    // "90^\circ" read as 90
  const std::vector<int>* plus_minus = nullptr;  // the \pm nodes and, bit by bit, which of them are negative
  uint32_t negative = 0;

  static constexpr int kPoints = 8, kPositivePoints = 4;
};

MathValue evaluate_math(const MathExpr& expr, int node, const MathScope& scope, MathBudget& budget);

}  // namespace mantissa
