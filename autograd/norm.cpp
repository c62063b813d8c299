// Root-mean-square norms: over rows (RMSNorm) and over each query and key head (Qwen3). T rows, C width, H/G/D heads.
#include "autograd/ops.h"
#include "autograd/support.h"

namespace mantissa::ops {

namespace {

void check_norm(const Var& x, const Var& w) {
  check(x.shape().rank() >= 1, "[rms_norm] x needs a last dimension: got shape ", x.shape());
  check_shape("rms_norm", "w", w.value(), {x.shape()[-1]});
}

/// What rms_norm makes of its kernel's results y and rstd.
Var record_norm(Tape& tape, const Var& x, const Var& w, double eps, Tensor y, const Tensor& rstd) {
  Exec& exec = tape.exec();
  if (!tape.needs_grad({&x, &w})) return tape.constant("rms_norm", std::move(y));

  const Saved xs = tape.save(x), ws = tape.save(w);
  Var out =
      tape.output("rms_norm", std::move(y), [&tape, xs, ws, rstd, x_slot = x.slot(), w_slot = w.slot()](auto douts) {
        const Tensor& x = xs.get();
        Tensor dx = tape.exec().empty(x.shape(), x.dtype());
        Tensor dw = tape.open_sink(w_slot);
        const Tensor before = tape.take_grad(x_slot);  // of a residual stream: what came past this norm
        MANTISSA_RUN(tape.exec(), rms_norm_bwd, dx, dw, douts[0], x, ws.get(), rstd, before);
        tape.close_sink(w_slot, std::move(dw));
        tape.add_grad(x_slot, std::move(dx));
      });
  tape.set_recipe(out, Recompute::kElementwise, [&exec, xs, ws, eps] {
    Tensor y = exec.empty(xs.get().shape(), ws.get().dtype());
    Tensor rstd = exec.empty({y.rows()}, accumulator_of(xs.get().dtype()));
    MANTISSA_RUN(exec, rms_norm_fwd, y, rstd, xs.get(), ws.get(), eps);
    return y;
  });
  return out;
}

}  // namespace

Var rms_norm(Tape& tape, const Var& x, const Var& w, double eps) {
  check_norm(x, w);
  Exec& exec = tape.exec();
  Tensor y = exec.empty(x.shape(), w.dtype());
  Tensor rstd = exec.empty({x.value().rows()}, accumulator_of(x.dtype()));
  MANTISSA_RUN(exec, rms_norm_fwd, y, rstd, x.value(), w.value(), eps);
  return record_norm(tape, x, w, eps, std::move(y), rstd);
}

std::pair<Var, Var> add_rms_norm(Tape& tape, const Var& a, const Var& b, const Var& w, double eps,
                                 const std::string& add_scope) {
  check_norm(a, w);
  check_shape("add_rms_norm", "b", b.value(), a.shape());
  check_type("add_rms_norm", "b", b.value(), w.dtype());
  Exec& exec = tape.exec();
  Tensor x = exec.empty(a.shape(), a.dtype()), y = exec.empty(a.shape(), w.dtype());
  Tensor rstd = exec.empty({a.value().rows()}, accumulator_of(a.dtype()));
  MANTISSA_RUN(exec, add_rms_norm_fwd, x, y, rstd, a.value(), b.value(), w.value(), eps);
  Var sum;
  {
    const Tape::ScopeAs scope(tape, add_scope);
    sum = record_add(tape, a, b, std::move(x));
  }
  return {sum, record_norm(tape, sum, w, eps, std::move(y), rstd)};
}

Var qk_norm(Tape& tape, const Var& qkv, const Var& qw, const Var& kw, Heads heads, double eps) {
  check_heads("qk_norm", qkv.value(), heads);
  check_shape("qk_norm", "query weight", qw.value(), {heads.size});
  check_shape("qk_norm", "key weight", kw.value(), {heads.size});
  check_type("qk_norm", "query weight", qw.value(), qkv.dtype());
  check_type("qk_norm", "key weight", kw.value(), qkv.dtype());
  Exec& exec = tape.exec();
  Tensor y = exec.empty(qkv.shape(), qkv.dtype());
  Tensor rstd = exec.empty({qkv.value().size(0), heads.query + heads.kv}, accumulator_of(qkv.dtype()));
  MANTISSA_RUN(exec, qk_norm_fwd, y, rstd, qkv.value(), qw.value(), kw.value(), heads, eps);
  if (!tape.needs_grad({&qkv, &qw, &kw})) return tape.constant("qk_norm", std::move(y));

  auto gradient = [&tape, heads, rstd, xs = tape.save(qkv), qws = tape.save(qw), kws = tape.save(kw),
                   x_slot = qkv.slot(), qw_slot = qw.slot(), kw_slot = kw.slot()](auto douts) {
    Tensor dx = tape.exec().empty(xs.get().shape(), xs.get().dtype());
    Tensor dqw = tape.open_sink(qw_slot), dkw = tape.open_sink(kw_slot);
    MANTISSA_RUN(tape.exec(), qk_norm_bwd, dx, dqw, dkw, douts[0], xs.get(), qws.get(), kws.get(), rstd, heads);
    tape.close_sink(qw_slot, std::move(dqw));
    tape.close_sink(kw_slot, std::move(dkw));
    tape.add_grad(x_slot, std::move(dx));
  };
  return tape.output("qk_norm", std::move(y), std::move(gradient));
}

}  // namespace mantissa::ops
