#include "core/low_rank.h"

namespace mantissa {
namespace {

Tensor cast_to(Exec& exec, const Tensor& x, Dtype dtype) {
  if (!x.defined() || x.dtype() == dtype) return x;
  Tensor out = exec.empty(x.shape(), dtype);
  MANTISSA_RUN(exec, cast, out, x);
  return out;
}

/// Columns [begin, end) of x: x itself where they are all.
Tensor columns(Exec& exec, const Tensor& x, int64_t begin, int64_t end) {
  if (begin == 0 && end == x.size(1)) return x;
  Tensor out = exec.empty({x.size(0), end - begin}, x.dtype());
  MANTISSA_RUN(exec, copy_columns, out, 0, x, begin, end - begin);
  return out;
}

}  // namespace

void low_rank_by_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias,
                        LowRankTerm& term) {
  const Dtype accumulator = accumulator_of(a.dtype());
  const int64_t outputs = b.size(0), rank = term.up.size(1);
  const Tensor wide_bias = cast_to(exec, bias, accumulator);
  if (term.down.defined()) MANTISSA_RUN(exec, matmul_scaled, term.u, a, term.down, Trans::kNT, term.scale);
  const auto block = [&](int64_t begin, int64_t end, const Tensor& inputs, const Tensor& rows) {
    if (begin == end) return;
    const bool in_place = end - begin == outputs && accumulator == c.dtype();
    Tensor sums = in_place ? c : exec.empty({a.size(0), end - begin}, accumulator);
    if (bias.defined())
      MANTISSA_RUN(exec, matmul_bias, sums, a, b.slice(begin, end), wide_bias.slice(begin, end));
    else
      MANTISSA_RUN(exec, matmul, sums, a, b.slice(begin, end), Trans::kNT, false);
    if (inputs.defined()) MANTISSA_RUN(exec, matmul, sums, inputs, rows, Trans::kNT, true);
    if (!in_place) MANTISSA_RUN(exec, copy_columns, c, begin, sums, 0, end - begin);
  };
  int64_t done = 0, row = 0, column = 0;
  for (const ColumnRange& part : term.parts) {
    block(done, part.begin, {}, {});
    block(part.begin, part.end, columns(exec, term.u, column, column + rank), term.up.slice(row, row + part.size()));
    done = part.end;
    row += part.size();
    column += rank;
  }
  block(done, outputs, {}, {});
}

void scaled_by_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, double scale) {
  Tensor sums = exec.empty(c.shape(), accumulator_of(a.dtype()));
  MANTISSA_RUN(exec, matmul, sums, a, b, trans, false);
  MANTISSA_RUN(exec, unary, c, sums, Unary::kAffine, scale, 0.0);
}

void two_by_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& u, const Tensor& v) {
  const Dtype accumulator = accumulator_of(a.dtype());
  Tensor sums = accumulator == c.dtype() ? c : exec.empty(c.shape(), accumulator);
  MANTISSA_RUN(exec, matmul, sums, a, b, Trans::kNN, false);
  MANTISSA_RUN(exec, matmul, sums, u, v, Trans::kNN, true);
  if (accumulator != c.dtype()) MANTISSA_RUN(exec, cast, c, sums);
}

}  // namespace mantissa
