// Elementwise ops, reductions and segments: the arithmetic of residual streams, SwiGLU and policy losses.
#include "autograd/ops.h"
#include "autograd/support.h"

namespace mantissa::ops {
namespace {

/// a op b in `dtype`; the inputs may have other types.
Tensor binary(Exec& exec, Binary op, const Tensor& a, const Tensor& b, Dtype dtype) {
  Tensor out = exec.empty(a.shape(), dtype);
  MANTISSA_RUN(exec, binary, out, a, b, op);
  return out;
}

Tensor unary(Exec& exec, Unary op, const Tensor& x, double p0 = 0.0, double p1 = 0.0) {
  Tensor out = exec.empty(x.shape(), x.dtype());
  MANTISSA_RUN(exec, unary, out, x, op, p0, p1);
  return out;
}

Tensor segment_sums(Exec& exec, const Tensor& x, const Tensor& offsets) {
  Tensor out = exec.empty({offsets.numel() - 1}, x.dtype());
  MANTISSA_RUN(exec, segment_sum, out, x, offsets);
  return out;
}

Tensor segment_copies(Exec& exec, const Tensor& x, const Tensor& offsets, int64_t count) {
  Tensor out = exec.empty({count}, x.dtype());
  MANTISSA_RUN(exec, segment_expand, out, x, offsets);
  return out;
}

/// Minimum and maximum: the gradient goes where the mask (1: a was taken) says.
Var select(Tape& tape, const char* op, Binary kind, const Var& a, const Var& b) {
  check_shape(op, "b", b.value(), a.shape());
  Exec& exec = tape.exec();
  Tensor y = binary(exec, kind, a.value(), b.value(), a.dtype());
  if (!tape.needs_grad({&a, &b})) return tape.constant(op, std::move(y));

  const bool min = kind == Binary::kMin;
  const Tensor mask =
      binary(exec, Binary::kLessEqual, min ? a.value() : b.value(), min ? b.value() : a.value(), a.dtype());
  return tape.output(op, std::move(y), [&tape, mask, a_slot = a.slot(), b_slot = b.slot()](auto douts) {
    Exec& exec = tape.exec();
    const Tensor da = binary(exec, Binary::kMul, douts[0], mask, mask.dtype());
    if (b_slot) tape.add_grad(b_slot, binary(exec, Binary::kSub, douts[0], da, b_slot->dtype));
    tape.add_grad(a_slot, da);
  });
}

}  // namespace

Var add(Tape& tape, const Var& a, const Var& b) {
  check_shape("add", "b", b.value(), a.shape());
  return record_add(tape, a, b, binary(tape.exec(), Binary::kAdd, a.value(), b.value(), a.dtype()));
}

Var record_add(Tape& tape, const Var& a, const Var& b, Tensor y) {
  if (!tape.needs_grad({&a, &b})) return tape.constant("add", std::move(y));

  return tape.output("add", std::move(y), [&tape, a_slot = a.slot(), b_slot = b.slot()](auto douts) {
    if (b_slot) tape.add_grad(b_slot, cast_to(tape.exec(), douts[0], b_slot->dtype));
    tape.add_grad(a_slot, douts[0]);
  });
}

Var sub(Tape& tape, const Var& a, const Var& b) {
  check_shape("sub", "b", b.value(), a.shape());
  Exec& exec = tape.exec();
  Tensor y = binary(exec, Binary::kSub, a.value(), b.value(), a.dtype());
  if (!tape.needs_grad({&a, &b})) return tape.constant("sub", std::move(y));

  return tape.output("sub", std::move(y), [&tape, a_slot = a.slot(), b_slot = b.slot()](auto douts) {
    Exec& exec = tape.exec();
    if (b_slot) tape.add_grad(b_slot, cast_to(exec, unary(exec, Unary::kAffine, douts[0], -1.0), b_slot->dtype));
    tape.add_grad(a_slot, douts[0]);
  });
}

Var mul(Tape& tape, const Var& a, const Var& b) {
  check_shape("mul", "b", b.value(), a.shape());
  Exec& exec = tape.exec();
  Tensor y = binary(exec, Binary::kMul, a.value(), b.value(), a.dtype());
  if (!tape.needs_grad({&a, &b})) return tape.constant("mul", std::move(y));

  const Saved as = b.requires_grad() ? tape.save(a) : Saved();
  const Saved bs = a.requires_grad() ? tape.save(b) : Saved();
  return tape.output("mul", std::move(y), [&tape, as, bs, a_slot = a.slot(), b_slot = b.slot()](auto douts) {
    Exec& exec = tape.exec();
    if (a_slot) tape.add_grad(a_slot, binary(exec, Binary::kMul, douts[0], bs.get(), a_slot->dtype));
    if (b_slot) tape.add_grad(b_slot, binary(exec, Binary::kMul, douts[0], as.get(), b_slot->dtype));
  });
}

Var minimum(Tape& tape, const Var& a, const Var& b) {
  return select(tape, "minimum", Binary::kMin, a, b);
}
Var maximum(Tape& tape, const Var& a, const Var& b) {
  return select(tape, "maximum", Binary::kMax, a, b);
}

Var affine(Tape& tape, const Var& x, double scale, double shift) {
  Tensor y = unary(tape.exec(), Unary::kAffine, x.value(), scale, shift);
  if (!tape.needs_grad({&x})) return tape.constant("affine", std::move(y));

  return tape.output("affine", std::move(y), [&tape, scale, slot = x.slot()](auto douts) {
    tape.add_grad(slot, unary(tape.exec(), Unary::kAffine, douts[0], scale));
  });
}

Var exp(Tape& tape, const Var& x) {
  Tensor y = unary(tape.exec(), Unary::kExp, x.value());
  if (!tape.needs_grad({&x})) return tape.constant("exp", std::move(y));

  return tape.output("exp", y, [&tape, y, slot = x.slot()](auto douts) {
    tape.add_grad(slot, binary(tape.exec(), Binary::kMul, douts[0], y, slot->dtype));
  });
}

Var clamp(Tape& tape, const Var& x, double low, double high) {
  check(low <= high, "[clamp] low must not exceed high: got ", low, " and ", high);
  Tensor y = unary(tape.exec(), Unary::kClamp, x.value(), low, high);
  if (!tape.needs_grad({&x})) return tape.constant("clamp", std::move(y));

  const Tensor mask = unary(tape.exec(), Unary::kWithinMask, x.value(), low, high);
  return tape.output("clamp", std::move(y), [&tape, mask, slot = x.slot()](auto douts) {
    tape.add_grad(slot, binary(tape.exec(), Binary::kMul, douts[0], mask, slot->dtype));
  });
}

Var within(Tape& tape, const Var& x, double low, double high) {
  return tape.constant("within", unary(tape.exec(), Unary::kWithinMask, x.value(), low, high));
}

Var less_equal(Tape& tape, const Var& a, const Var& b) {
  check_shape("less_equal", "b", b.value(), a.shape());
  return tape.constant("less_equal", binary(tape.exec(), Binary::kLessEqual, a.value(), b.value(), a.dtype()));
}

Var stop_gradient(const Var& x) {
  return Var(x.value());
}

Var cast(Tape& tape, const Var& x, Dtype dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = cast_to(tape.exec(), x.value(), dtype);
  if (!tape.needs_grad({&x})) return tape.constant("cast", std::move(y));

  return tape.output("cast", std::move(y), [&tape, slot = x.slot()](auto douts) {
    tape.add_grad(slot, cast_to(tape.exec(), douts[0], slot->dtype));
  });
}

Var dropout(Tape& tape, const Var& x, const DropoutKeys& keys, int place) {
  check_rank("dropout", "x", x.value(), 2);
  check_shape("dropout", "rows", keys.rows, {x.value().size(0), 2});
  check_type("dropout", "rows", keys.rows, Dtype::kI32);
  check(keys.p >= 0 && keys.p < 1, "[dropout] p must lie in [0, 1): got ", keys.p);
  Exec& exec = tape.exec();
  const auto masked = [&exec, keys, place](const Tensor& in) {
    Tensor out = exec.empty(in.shape(), in.dtype());
    MANTISSA_RUN(exec, dropout, out, in, keys.rows, keys.key, place, keys.p);
    return out;
  };
  if (!tape.needs_grad({&x})) return tape.constant("dropout", masked(x.value()));

  const Saved xs = tape.save(x);
  Var out = tape.output("dropout", masked(x.value()),
                        [&tape, masked, slot = x.slot()](auto douts) { tape.add_grad(slot, masked(douts[0])); });
  tape.set_recipe(out, Recompute::kElementwise, [masked, xs] { return masked(xs.get()); });
  return out;
}

Var swiglu(Tape& tape, const Var& gate_up) {
  check_rank("swiglu", "gate_up", gate_up.value(), 2);
  check(gate_up.value().size(1) % 2 == 0, "[swiglu] gate_up[T,2F] needs an even width: got shape ", gate_up.shape());
  const auto forward = [&exec = tape.exec()](const Tensor& gate_up) {
    Tensor y = exec.empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.dtype());
    MANTISSA_RUN(exec, swiglu_fwd, y, gate_up);
    return y;
  };
  Tensor y = forward(gate_up.value());
  if (!tape.needs_grad({&gate_up})) return tape.constant("swiglu", std::move(y));

  const Saved xs = tape.save(gate_up);
  Var out = tape.output("swiglu", std::move(y), [&tape, xs, slot = gate_up.slot()](auto douts) {
    Tensor dx = tape.exec().empty(slot->shape, slot->dtype);
    MANTISSA_RUN(tape.exec(), swiglu_bwd, dx, douts[0], xs.get());
    tape.add_grad(slot, std::move(dx));
  });
  tape.set_recipe(out, Recompute::kElementwise, [forward, xs] { return forward(xs.get()); });
  return out;
}

Var sum(Tape& tape, const Var& x) {
  check(x.value().numel() <= INT32_MAX, "[sum] at most 2^31 - 1 elements: got shape ", x.shape());
  Exec& exec = tape.exec();
  Tensor y = exec.empty({1}, accumulator_of(x.dtype()));
  MANTISSA_RUN(exec, sum, y, x.value());
  if (!tape.needs_grad({&x})) return tape.constant("sum", std::move(y));

  return tape.output("sum", std::move(y), [&tape, slot = x.slot()](auto douts) {
    Exec& exec = tape.exec();
    const int32_t bounds[] = {0, int32_t(slot->shape.numel())};
    const Tensor offsets = tensor_from<int32_t>(exec.backend(), bounds, {2});
    const Tensor dy = cast_to(exec, douts[0], slot->dtype);
    tape.add_grad(slot, segment_copies(exec, dy, offsets, bounds[1]).view(slot->shape));
  });
}

Var segment_sum(Tape& tape, const Var& x, const Tensor& offsets) {
  check_rank("segment_sum", "x", x.value(), 1);
  check_offsets("segment_sum", offsets);
  Tensor y = segment_sums(tape.exec(), x.value(), offsets);
  if (!tape.needs_grad({&x})) return tape.constant("segment_sum", std::move(y));

  return tape.output("segment_sum", std::move(y), [&tape, offsets, slot = x.slot()](auto douts) {
    tape.add_grad(slot, segment_copies(tape.exec(), douts[0], offsets, slot->shape[0]));
  });
}

Var segment_expand(Tape& tape, const Var& x, const Tensor& offsets, int64_t tokens) {
  const int64_t segments = check_offsets("segment_expand", offsets);
  check_shape("segment_expand", "x", x.value(), {segments});
  Tensor y = segment_copies(tape.exec(), x.value(), offsets, tokens);
  if (!tape.needs_grad({&x})) return tape.constant("segment_expand", std::move(y));

  return tape.output("segment_expand", std::move(y), [&tape, offsets, slot = x.slot()](auto douts) {
    tape.add_grad(slot, segment_sums(tape.exec(), douts[0], offsets));
  });
}

}  // namespace mantissa::ops
