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
    Tensor dw = tape.open_sink(w);
    MANTISSA_RUN(exec, matmul, dw, dy, x.get(), Trans::kTN, true);
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
  std::vector<LowRank::Part> parts;
  double scale;
  int64_t rank;

  /// f(part, its first row of b).
  template <class F>
  void for_parts(F f) const {
    int64_t row = 0;
    for (size_t i = 0; i < parts.size(); row += parts[i++].size()) f(i, row);
  }
};

Update check_update(const Var& x, const Var& w, const LowRank& u) {
  check_rank("linear_low_rank", "b", u.b.value(), 2);
  const int64_t rank = u.b.value().size(1), parts = int64_t(u.parts.size());
  check_shape("linear_low_rank", "a", u.a.value(), {parts * rank, x.value().size(1)});
  int64_t outputs = 0, end = 0;
  for (const LowRank::Part& part : u.parts) {
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

/// Columns [begin, end) of x: x itself where they are all.
Tensor columns(Exec& exec, const Tensor& x, int64_t begin, int64_t end) {
  if (begin == 0 && end == x.size(1)) return x;
  Tensor out = exec.empty({x.size(0), end - begin}, x.dtype());
  MANTISSA_RUN(exec, copy_columns, out, 0, x, begin, end - begin);
  return out;
}

Tensor part_of(Exec& exec, const Tensor& u, size_t part, int64_t rank) {
  return columns(exec, u, int64_t(part) * rank, int64_t(part + 1) * rank);
}

/// round(scale * sums) in `dtype`.
Tensor scaled(Exec& exec, const Tensor& sums, double scale, Dtype dtype) {
  Tensor out = exec.empty(sums.shape(), dtype);
  MANTISSA_RUN(exec, unary, out, sums, Unary::kAffine, scale, 0.0);
  return out;
}

Tensor low_rank_inputs(Exec& exec, const Tensor& x, const Tensor& a, double scale) {
  Tensor sums = exec.empty({x.size(0), a.size(0)}, accumulator_of(x.dtype()));
  MANTISSA_RUN(exec, matmul, sums, x, a, Trans::kNT, false);
  return scaled(exec, sums, scale, x.dtype());
}

/// The sums live in the accumulator's type from the first product to the second, so that both are one chain.
Tensor low_rank_forward(Exec& exec, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& u,
                        const Tensor& b, const Update& update) {
  const Dtype accumulator = accumulator_of(x.dtype());
  const int64_t tokens = x.size(0), outputs = w.size(0);
  const Tensor wide_bias = bias.defined() ? cast_to(exec, bias, accumulator) : bias;
  Tensor y = exec.empty({tokens, outputs}, x.dtype());
  const auto block = [&](int64_t begin, int64_t end, const Tensor& inputs, const Tensor& rows) {
    if (begin == end) return;
    const bool in_place = end - begin == outputs && accumulator == y.dtype();
    Tensor sums = in_place ? y : exec.empty({tokens, end - begin}, accumulator);
    if (bias.defined())
      MANTISSA_RUN(exec, matmul_bias, sums, x, w.slice(begin, end), wide_bias.slice(begin, end));
    else
      MANTISSA_RUN(exec, matmul, sums, x, w.slice(begin, end), Trans::kNT, false);
    if (inputs.defined()) MANTISSA_RUN(exec, matmul, sums, inputs, rows, Trans::kNT, true);
    if (!in_place) MANTISSA_RUN(exec, copy_columns, y, begin, sums, 0, end - begin);
  };
  int64_t done = 0;
  update.for_parts([&](size_t i, int64_t row) {
    const LowRank::Part& part = update.parts[i];
    block(done, part.begin, {}, {});
    block(part.begin, part.end, part_of(exec, u, i, update.rank), b.slice(row, row + part.size()));
    done = part.end;
  });
  block(done, outputs, {}, {});
  return y;
}

/// db_p += dy_p^T . u_p into `db` where defined; du = round(s dy_p . b_p) of all parts.
Tensor low_rank_backward(Exec& exec, const Tensor& dy, const Tensor& u, const Tensor& b, const Update& update,
                         const Tensor& db) {
  Tensor sums = exec.empty(u.shape(), accumulator_of(dy.dtype()));
  update.for_parts([&](size_t i, int64_t row) {
    const LowRank::Part& part = update.parts[i];
    const Tensor dy_part = columns(exec, dy, part.begin, part.end);
    if (db.defined()) {
      Tensor db_part = db.slice(row, row + part.size());
      MANTISSA_RUN(exec, matmul, db_part, dy_part, part_of(exec, u, i, update.rank), Trans::kTN, true);
    }
    const bool one = update.parts.size() == 1;
    Tensor du = one ? sums : exec.empty({dy.size(0), update.rank}, sums.dtype());
    MANTISSA_RUN(exec, matmul, du, dy_part, b.slice(row, row + part.size()), Trans::kNN, false);
    if (!one) MANTISSA_RUN(exec, copy_columns, sums, int64_t(i) * update.rank, du, 0, update.rank);
  });
  return scaled(exec, sums, update.scale, dy.dtype());
}

/// round(sum of left_i . right_i).
Tensor sum_of_products(Exec& exec, std::initializer_list<std::pair<Tensor, Tensor>> pairs) {
  const Tensor& first = pairs.begin()->first;
  Tensor sums = exec.empty({first.size(0), pairs.begin()->second.size(1)}, accumulator_of(first.dtype()));
  bool accumulate = false;
  for (const auto& [left, right] : pairs)
    MANTISSA_RUN(exec, matmul, sums, left, right, Trans::kNN, std::exchange(accumulate, true));
  return cast_to(exec, sums, first.dtype());
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
  const Tensor u = low_rank_inputs(exec, input.value(), low.a.value(), update.scale);
  Tensor y = low_rank_forward(exec, x.value(), w.value(), bias.value(), u, low.b.value(), update);
  if (!tape.needs_grad({&x, &w, &bias, &low.a, &low.b, &low.input})) return tape.constant("linear", std::move(y));

  const Saved xs = tape.save(x), inputs = tape.save(input), ws = tape.save(w), as = tape.save(low.a),
              bs = tape.save(low.b);
  const Slot own_input = low.input.slot();
  auto gradient = [&tape, xs, inputs, ws, as, bs, u, update, own_input, shared = !low.input.defined(),
                   x_slot = x.slot(), w_slot = w.slot(), bias_slot = bias.slot(), a_slot = low.a.slot(),
                   b_slot = low.b.slot()](auto douts) {
    Exec& exec = tape.exec();
    const Tensor& dy = douts[0];
    weight_gradients(tape, dy, xs, w_slot, bias_slot);
    Tensor db = tape.open_sink(b_slot);
    const Tensor du = low_rank_backward(exec, dy, u, bs.get(), update, db);
    tape.close_sink(b_slot, std::move(db));
    if (a_slot) {
      Tensor da = tape.open_sink(a_slot);
      MANTISSA_RUN(exec, matmul, da, du, inputs.get(), Trans::kTN, true);
      tape.close_sink(a_slot, std::move(da));
    }
    if (own_input) tape.add_grad(own_input, sum_of_products(exec, {{du, as.get()}}));
    if (x_slot && shared) tape.add_grad(x_slot, sum_of_products(exec, {{dy, ws.get()}, {du, as.get()}}));
    if (x_slot && !shared) tape.add_grad(x_slot, sum_of_products(exec, {{dy, ws.get()}}));
  };
  Var out = tape.output("linear", std::move(y), std::move(gradient));
  if (recomputable)
    tape.set_recipe(out, Recompute::kMlp, [&exec, xs, ws, bs, u, update, bias = bias.value()] {
      return low_rank_forward(exec, xs.get(), ws.get(), bias, u, bs.get(), update);
    });
  return out;
}

}  // namespace mantissa::ops
