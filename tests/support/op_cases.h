// The table of op tests: one row an op and use. test_ops.cpp runs every row through the same checks: fp64 gradient
// check, each type on each backend against fp64, rows alone against rows in a batch.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace mantissa {

/// Rows [begin, end) of a case: integer inputs (ids, positions, ...) are functions of the absolute row, so that some
/// rows can run alone.
struct Rows {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

struct Operand {
  Shape shape;
  bool rows = false;  // its first dimension is the rows of the case
  double low = -1.0, high = 1.0;
  bool wide = false;  // fp32 when the case runs in a 16-bit type (a residual stream)
};

struct OpCase {
  std::string name;
  std::vector<int64_t> sizes;  // n
  std::function<int64_t(int64_t n)> row_count;
  std::function<std::vector<Operand>(int64_t n)> operands;  // all of them need gradients
  std::function<std::vector<Var>(Tape&, std::span<const Var>, Rows, int64_t n)> run;

  /// Bounds of the groups of rows that must give the same bits alone; default: every row is a group; a single group
  /// means that rows depend on each other.
  std::function<std::vector<int64_t>(int64_t n)> groups = nullptr;
  /// Error allowed beyond one rounding of the result, as a fraction of its largest entry: `accumulate` units of fp32,
  /// for sums in another order, and `inner` units of the compute type, where a rounded intermediate is part of the op.
  double accumulate = 64;
  double inner_forward = 0, inner_backward = 0;
  double inner_forward_elsewhere = 0;  // inner_forward on other backends than the CPU, at least
  /// Made of matrix products, whose bits may depend on the batch where a library computes them.
  bool products = false;
};

/// How GoogleTest prints a row.
inline void PrintTo(const OpCase& c, std::ostream* out) {
  *out << c.name;
}

const std::vector<OpCase>& op_cases();

}  // namespace mantissa
