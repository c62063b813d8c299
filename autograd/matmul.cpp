// Linear layers. T tokens, K inputs, N outputs.
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

Var linear_op(Tape& tape, const Var& x, const Var& w, const Var& bias, bool recomputable) {
  check_rank("linear", "x", x.value(), 2);
  check_rank("linear", "w", w.value(), 2);
  check(x.value().size(1) == w.value().size(1), "[linear] x[T,K] and w[N,K] must agree in K: got ", x.shape(), " and ",
        w.shape());
  check_type("linear", "w", w.value(), x.dtype());
  if (bias.defined()) {
    check_shape("linear", "bias", bias.value(), {w.value().size(0)});
    check_type("linear", "bias", bias.value(), x.dtype());
  }
  Exec& exec = tape.exec();
  Tensor y = linear_forward(exec, x.value(), w.value(), bias.value());
  if (!tape.needs_grad({&x, &w, &bias})) return tape.constant("linear", std::move(y));

  const Saved xs = w.requires_grad() || recomputable ? tape.save(x) : Saved();
  const Saved ws = tape.save(w);
  auto gradient = [&tape, xs, ws, x_slot = x.slot(), w_slot = w.slot(), bias_slot = bias.slot()](auto douts) {
    Exec& exec = tape.exec();
    const Tensor& dy = douts[0];
    if (bias_slot) {
      Tensor dbias = tape.open_sink(bias_slot);
      MANTISSA_RUN(exec, bias_bwd, dbias, dy);
      tape.close_sink(bias_slot, std::move(dbias));
    }
    if (w_slot) {
      Tensor dw = tape.open_sink(w_slot);
      MANTISSA_RUN(exec, matmul, dw, dy, xs.get(), Trans::kTN, true);
      tape.close_sink(w_slot, std::move(dw));
    }
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

}  // namespace

Var linear(Tape& tape, const Var& x, const Var& w, const Var& bias) {
  return linear_op(tape, x, w, bias, false);
}

Var linear_recomputable(Tape& tape, const Var& x, const Var& w, const Var& bias) {
  return linear_op(tape, x, w, bias, true);
}

}  // namespace mantissa::ops
