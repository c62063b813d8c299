// What a comparison looks at: a node of an expression with the signs its \pm have, and what its form alone tells.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rl/reward/math/expr.h"

namespace mantissa {

struct MathItem {
  MathExpr* expr;
  int node;  // < 0: none
  std::vector<int> plus_minus = {};
  uint32_t negative = 0;  // bit by bit, which of plus_minus are negative
  bool lenient = false;   // the answer's side: "m + n = 17" may label 17

  const MathNode& operator*() const { return (*expr)[node]; }
  MathItem at(int other) const {
    MathItem item = *this;
    item.node = other;
    return item;
  }
  /// Variables, unknown functions and words.
  bool has_variable() const;
  /// Variables and words.
  bool has_symbol() const;
  /// What only names a value: x, x_1, f(x), P(3), |AB|, AB/BC, (p, q), "area".
  bool is_label() const;
  /// One variable or f(x).
  bool names_variable() const;
  /// A row or column of a matrix, which a point may stand for.
  bool is_column() const;
  /// Tuple, set, union, matrix, list.
  bool is_container() const;
};

/// The \pm nodes below `node`.
void find_plus_minus(const MathExpr& expr, int node, std::vector<int>& out);
/// What the value counts: its units and nouns, else "%" or "degree" where it has those; "" for none.
std::string unit_of(const MathItem& item);
/// The parts of a union, nested ones too.
std::vector<MathItem> union_parts(const MathItem& item);
/// x >= 5 as [5, inf), -2 < x <= 7 as (-2, 7]: adds nodes to the expression; none where it is no interval. What is no
/// relation stays as it is.
MathItem as_interval(const MathItem& item);
/// The relation's sign read from the right: '<' for '>'; see MathNode::Op::kRelation.
char flipped(char relation);

}  // namespace mantissa
