// Linear layers, plain and with low-rank updates. T tokens, K inputs, N outputs, P parts of rank r.
#include "autograd/ops.h"
#include "autograd/support.h"

namespace mantissa::ops {
namespace {

Tensor linear_forward(Exec& exec, const Tensor& x, const Tensor& w, const Tensor& bias) {
  Tensor y = exec.empty({x.size(0), w.size(0)}, x.dtype());
  if (bias.defined())
    MANTISSA_RUN(exec, matmul_bias, y, x, w, bias);
  else
    MANTISSA_RUN(exec, matmul, y, x, w, Trans::kNT, false);
  return y;
}

void check_linear(const Var& x, const Var& w, const Var& bias) {
  check_rank("linear", "x", x.value(), 2);
  check_rank("linear", "w", w.value(), 2);
  check(x.value().size(1) == w.value().size(1), "[linear] x[T,K] and w[N,K] must agree in K: got ", x.shape(), " and ",
        w.shape());
  check_type("linear", "w", w.value(), x.dtype());
  if (bias.defined()) {
    check_shape("linear", "bias", bias.value(), {w.value().size(0)});
    check_type("linear", "bias", bias.value(), x.dtype());
  }
}

/// dw += dy^T . x and dbias += column sums, where wanted.
void weight_gradients(Tape& tape, const Tensor& dy, const Saved& x, const Slot& w, const Slot& bias) {
  Exec& exec = tape.exec();
  if (bias) {
    Tensor dbias = tape.open_sink(bias);
    MANTISSA_RUN(exec, bias_bwd, dbias, dy);
    tape.close_sink(bias, std::move(dbias));
  }
  if (w) {
    bool accumulate;
    Tensor dw = tape.open_sink(w, accumulate);
    MANTISSA_RUN(exec, matmul, dw, dy, x.get(), Trans::kTN, accumulate);
    tape.close_sink(w, std::move(dw));
  }
}

Var linear_op(Tape& tape, const Var& x, const Var& w, const Var& bias, bool recomputable) {
  check_linear(x, w, bias);
  Exec& exec = tape.exec();
  Tensor y = linear_forward(exec, x.value(), w.value(), bias.value());
  if (!tape.needs_grad({&x, &w, &bias})) return tape.constant("linear", std::move(y));

  const Saved xs = w.requires_grad() || recomputable ? tape.save(x) : Saved();
  const Saved ws = tape.save(w);
  auto gradient = [&tape, xs, ws, x_slot = x.slot(), w_slot = w.slot(), bias_slot = bias.slot()](auto douts) {
    Exec& exec = tape.exec();
    const Tensor& dy = douts[0];
    weight_gradients(tape, dy, xs, w_slot, bias_slot);
    if (x_slot) {
      Tensor dx = exec.empty(x_slot->shape, x_slot->dtype);
      MANTISSA_RUN(exec, matmul, dx, dy, ws.get(), Trans::kNN, false);
      tape.add_grad(x_slot, std::move(dx));
    }
  };
  Var out = tape.output("linear", std::move(y), std::move(gradient));
  if (recomputable)
    tape.set_recipe(out, Recompute::kMlp,
                    [&exec, xs, ws, bias = bias.value()] { return linear_forward(exec, xs.get(), ws.get(), bias); });
  return out;
}

// ---- low-rank updates -----------------------------------------------------------------------------------------------

/// The parts of an update and its sizes, without its values.
struct Update {
  std::vector<ColumnRange> parts;
  double scale;
  int64_t rank;

  /// f(part, its first row of b, its first column of u).
  template <class F>
  void for_parts(F f) const {
    int64_t row = 0, column = 0;
    for (const ColumnRange& part : parts) {
      f(part, row, column);
      row += part.size();
      column += rank;
    }
  }
};

Update check_update(const Var& x, const Var& w, const LowRank& u) {
  check_rank("linear_low_rank", "b", u.b.value(), 2);
  const int64_t rank = u.b.value().size(1), parts = int64_t(u.parts.size());
  check_shape("linear_low_rank", "a", u.a.value(), {parts * rank, x.value().size(1)});
  int64_t outputs = 0, end = 0;
  for (const ColumnRange& part : u.parts) {
    check(part.begin >= end && part.size() > 0 && part.end <= w.value().size(0),
          "[linear_low_rank] parts must ascend within the outputs: got [", part.begin, ", ", part.end, ") of ",
          w.value().size(0), " after ", end);
    outputs += part.size();
    end = part.end;
  }
  check_shape("linear_low_rank", "b", u.b.value(), {outputs, rank});
  check_type("linear_low_rank", "a", u.a.value(), x.dtype());
  check_type("linear_low_rank", "b", u.b.value(), x.dtype());
  if (u.input.defined()) {
    check_shape("linear_low_rank", "input", u.input.value(), x.shape());
    check_type("linear_low_rank", "input", u.input.value(), x.dtype());
  }
  return {u.parts, u.scale, rank};
}

/// round(scale * left . right) in left's type.
Tensor scaled_product(Exec& exec, const Tensor& left, const Tensor& right, Trans trans, double scale) {
  Tensor out = exec.empty({left.size(0), trans == Trans::kNT ? right.size(0) : right.size(1)}, left.dtype());
  MANTISSA_RUN(exec, matmul_scaled, out, left, right, trans, scale);
  return out;
}

/// b as one matrix [outputs, P r] with zeros where a part has no say; b itself where one part has all outputs.
Tensor spread(Exec& exec, const Tensor& b, const Update& update, int64_t outputs) {
  if (b.size(0) == outputs && update.parts.size() == 1) return b;
  Tensor out = exec.zeros({outputs, int64_t(update.parts.size()) * update.rank}, b.dtype());
  update.for_parts([&](const ColumnRange& part, int64_t row, int64_t column) {
    Tensor rows = out.slice(part.begin, part.end);
    MANTISSA_RUN(exec, copy_columns, rows, column, b.slice(row, row + part.size()), 0, update.rank);
  });
  return out;
}

/// db_p = dy_p^T . u_p (+ db_p when accumulate), all parts by one product of which only their blocks are kept.
void low_rank_weight_gradient(Exec& exec, Tensor& db, const Tensor& dy, const Tensor& u, const Update& update,
                              bool accumulate) {
  if (db.size(0) == dy.size(1) && update.parts.size() == 1)
    return MANTISSA_RUN(exec, matmul, db, dy, u, Trans::kTN, accumulate);
  Tensor all = exec.empty({dy.size(1), u.size(1)}, db.dtype());
  MANTISSA_RUN(exec, matmul, all, dy, u, Trans::kTN, false);
  update.for_parts([&](const ColumnRange& part, int64_t row, int64_t column) {
    Tensor sum = db.slice(row, row + part.size()), own = accumulate ? exec.empty(sum.shape(), sum.dtype()) : sum;
    MANTISSA_RUN(exec, copy_columns, own, 0, all.slice(part.begin, part.end), column, update.rank);
    if (accumulate) MANTISSA_RUN(exec, binary, sum, sum, own, Binary::kAdd);
  });
}

Tensor product(Exec& exec, const Tensor& left, const Tensor& right) {
  Tensor out = exec.empty({left.size(0), right.size(1)}, left.dtype());
  MANTISSA_RUN(exec, matmul, out, left, right, Trans::kNN, false);
  return out;
}

}  // namespace

Var linear(Tape& tape, const Var& x, const Var& w, const Var& bias) {
  return linear_op(tape, x, w, bias, false);
}

Var linear_recomputable(Tape& tape, const Var& x, const Var& w, const Var& bias) {
  return linear_op(tape, x, w, bias, true);
}

Var linear_low_rank(Tape& tape, const Var& x, const Var& w, const Var& bias, const LowRank& low, bool recomputable) {
  check_linear(x, w, bias);
  const Update update = check_update(x, w, low);
  Exec& exec = tape.exec();
  const Var& input = low.input.defined() ? low.input : x;
  LowRankTerm term{exec.empty({x.value().size(0), low.a.value().size(0)}, x.dtype()),
                   low.input.defined() ? Tensor() : low.a.value(), low.b.value(), update.parts, update.scale};
  if (low.input.defined())
    MANTISSA_RUN(exec, matmul_scaled, term.u, input.value(), low.a.value(), Trans::kNT, update.scale);
  Tensor y = exec.empty({x.value().size(0), w.value().size(0)}, x.dtype());
  MANTISSA_RUN(exec, matmul_low_rank, y, x.value(), w.value(), bias.value(), term);
  if (!tape.needs_grad({&x, &w, &bias, &low.a, &low.b, &low.input})) return tape.constant("linear", std::move(y));

  const Saved xs = tape.save(x), inputs = tape.save(input), ws = tape.save(w), as = tape.save(low.a),
              bs = tape.save(low.b);
  const Slot own_input = low.input.slot();
  auto gradient = [&tape, xs, inputs, ws, as, bs, u = term.u, update, own_input, shared = !low.input.defined(),
                   x_slot = x.slot(), w_slot = w.slot(), bias_slot = bias.slot(), a_slot = low.a.slot(),
                   b_slot = low.b.slot()](auto douts) {
    Exec& exec = tape.exec();
    const Tensor& dy = douts[0];
    weight_gradients(tape, dy, xs, w_slot, bias_slot);
    bool accumulate;
    if (b_slot) {
      Tensor db = tape.open_sink(b_slot, accumulate);
      low_rank_weight_gradient(exec, db, dy, u, update, accumulate);
      tape.close_sink(b_slot, std::move(db));
    }
    const Tensor du = scaled_product(exec, dy, spread(exec, bs.get(), update, dy.size(1)), Trans::kNN, update.scale);
    if (a_slot) {
      Tensor da = tape.open_sink(a_slot, accumulate);
      MANTISSA_RUN(exec, matmul, da, du, inputs.get(), Trans::kTN, accumulate);
      tape.close_sink(a_slot, std::move(da));
    }
    if (own_input) tape.add_grad(own_input, product(exec, du, as.get()));
    if (!x_slot) return;
    if (!shared) return tape.add_grad(x_slot, product(exec, dy, ws.get()));
    Tensor dx = exec.empty({dy.size(0), ws.get().size(1)}, dy.dtype());
    MANTISSA_RUN(exec, matmul_two, dx, dy, ws.get(), du, as.get());
    tape.add_grad(x_slot, std::move(dx));
  };
  Var out = tape.output("linear", std::move(y), std::move(gradient));
  if (recomputable)
    tape.set_recipe(out, Recompute::kMlp, [&exec, xs, ws, bs, u = term.u, update, bias = bias.value()] {
      Tensor again = exec.empty({u.size(0), ws.get().size(0)}, u.dtype());
      LowRankTerm given{u, {}, bs.get(), update.parts, update.scale};
      MANTISSA_RUN(exec, matmul_low_rank, again, xs.get(), ws.get(), bias, given);
      return again;
    });
  return out;
}

}  // namespace mantissa::ops
