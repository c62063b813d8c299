// Mixture of experts: T rows, E experts, K slots of a row, R = T K grouped rows, C width.
#include <numeric>

#include "autograd/ops.h"
#include "autograd/support.h"

namespace mantissa::ops {
namespace {

/// Where a row goes depends on the row alone under fast, too: its products are those of exact while this lives.
class ExactHere {
 public:
  explicit ExactHere(Exec& exec) : exec_(exec), match_(exec.match) {
    if (match_ == Match::kFast) exec.match = Match::kExact;
  }
  ~ExactHere() { exec_.match = match_; }
  ExactHere(const ExactHere&) = delete;
  ExactHere& operator=(const ExactHere&) = delete;

 private:
  Exec& exec_;
  const Match match_;
};

void check_exchange(const RouteExchange& other, const Shape& routes, int64_t count) {
  if (other.chosen.defined()) {
    check_shape("route", "chosen", other.chosen, routes);
    check_type("route", "chosen", other.chosen, Dtype::kI32);
  }
  if (other.given.defined()) {
    check_shape("route", "given", other.given, routes);
    check_type("route", "given", other.given, Dtype::kU8);
    check(count <= kNotGiven, "[route] given experts are bytes, for at most ", kNotGiven, " experts: got ", count);
  }
  if (other.same.defined()) check_index("route", "same", other.same, routes[0]);
  check(!other.replay || !other.chosen.defined(), "[route] a forward that replays routes chooses none to record");
  check(other.given.defined() || (!other.replay && !other.same.defined()),
        "[route] replay and comparison need given experts: got none");
}

void check_routes(const char* op, const Routes& routes) {
  check_rank(op, "routes.rows", routes.rows, 2);
  check_index(op, "routes.tokens", routes.tokens, routes.rows.numel());
}

}  // namespace

Routing route(Tape& tape, const Var& x, const Var& w, int64_t slots, bool normalise, const RouteExchange& other) {
  check_rank("route", "x", x.value(), 2);
  check_rank("route", "w", w.value(), 2);
  check_shape("route", "w", w.value(), {w.value().size(0), x.value().size(1)});
  check_type("route", "w", w.value(), x.dtype());
  const int64_t count = w.value().size(0), rows = x.value().size(0);
  check(slots >= 1 && slots <= count, "[route] a row goes to 1 to ", count, " experts: got ", slots);
  check(rows * slots <= INT32_MAX, "[route] at most 2^31 - 1 grouped rows: got ", rows * slots);
  check_exchange(other, {rows, slots}, count);
  Exec& exec = tape.exec();
  const Dtype wide = accumulator_of(x.dtype());
  Tensor logits = exec.empty({rows, count}, wide), weights = exec.empty({rows, slots}, wide);
  Routes routes{other.chosen.defined() ? other.chosen : exec.empty({rows, slots}, Dtype::kI32),
                exec.empty({count + 1}, Dtype::kI32), exec.empty({rows * slots}, Dtype::kI32),
                exec.empty({rows, slots}, Dtype::kI32)};
  if (rows == 0) {
    exec.backend().zero(routes.offsets.raw(), routes.offsets.bytes());
    return {tape.constant("route", std::move(weights)), std::move(routes)};
  }
  {
    const ExactHere exact(exec);
    MANTISSA_RUN(exec, matmul, logits, x.value(), w.value(), Trans::kNT, false);
  }
  MANTISSA_RUN(exec, route, weights, routes.experts, logits, normalise);
  if (other.same.defined()) {
    Tensor same = other.same;
    MANTISSA_RUN(exec, same_routes, same, routes.experts, other.given);
  }
  if (other.replay) {
    MANTISSA_RUN(exec, route_given, weights, routes.experts, logits, other.given, normalise);
  }
  MANTISSA_RUN(exec, group_rows, routes.offsets, routes.tokens, routes.rows, routes.experts);
  if (!tape.needs_grad({&x, &w})) return {tape.constant("route", std::move(weights)), std::move(routes)};

  auto gradient = [&tape, logits, weights, experts = routes.experts, normalise, wide, xs = tape.save(x),
                   ws = tape.save(w), x_slot = x.slot(), w_slot = w.slot()](auto douts) {
    Exec& exec = tape.exec();
    Tensor dlogits = exec.empty(logits.shape(), wide);
    MANTISSA_RUN(exec, route_bwd, dlogits, douts[0], logits, weights, experts, normalise);
    if (w_slot) {
      bool accumulate;
      Tensor dw = tape.open_sink(w_slot, accumulate);
      MANTISSA_RUN(exec, matmul, dw, dlogits, cast_to(exec, xs.get(), wide), Trans::kTN, accumulate);
      tape.close_sink(w_slot, std::move(dw));
    }
    if (x_slot) {
      Tensor dx = exec.empty(x_slot->shape, wide);
      MANTISSA_RUN(exec, matmul, dx, dlogits, cast_to(exec, ws.get(), wide), Trans::kNN, false);
      tape.add_grad(x_slot, cast_to(exec, dx, x_slot->dtype));
    }
  };
  return {tape.output("route", weights, std::move(gradient)), std::move(routes)};
}

Var group_rows(Tape& tape, const Var& x, const Routes& routes) {
  check_routes("group_rows", routes);
  check_shape("group_rows", "x", x.value(), {routes.rows.size(0), x.value().size(-1)});
  const auto forward = [&exec = tape.exec(), tokens = routes.tokens](const Tensor& x) {
    Tensor y = exec.empty({tokens.numel(), x.size(1)}, x.dtype());
    MANTISSA_RUN(exec, gather_rows, y, x, tokens);
    return y;
  };
  Tensor y = forward(x.value());
  if (!tape.needs_grad({&x})) return tape.constant("group_rows", std::move(y));

  Var out = tape.output("group_rows", std::move(y), [&tape, rows = routes.rows, slot = x.slot()](auto douts) {
    Tensor dx = tape.exec().empty(slot->shape, slot->dtype);
    MANTISSA_RUN(tape.exec(), combine_rows, dx, douts[0], Tensor(), rows);
    const Tape::Groups tokens(tape, {});  // dx has a row a token again
    tape.add_grad(slot, std::move(dx));
  });
  tape.set_recipe(out, Recompute::kElementwise, [forward, xs = tape.save(x)] { return forward(xs.get()); });
  return out;
}

Var grouped_linear(Tape& tape, const Var& x, const Var& w, const Routes& routes) {
  check_routes("grouped_linear", routes);
  check_rank("grouped_linear", "w", w.value(), 2);
  check_shape("grouped_linear", "x", x.value(), {routes.tokens.numel(), w.value().size(1)});
  check_type("grouped_linear", "w", w.value(), x.dtype());
  const int64_t count = routes.offsets.numel() - 1;
  check(w.value().size(0) % count == 0, "[grouped_linear] w[E N,K] must have as many rows for each of ", count,
        " experts: got shape ", w.shape());
  const auto forward = [&exec = tape.exec(), count, offsets = routes.offsets](const Tensor& x, const Tensor& w) {
    Tensor y = exec.empty({x.size(0), w.size(0) / count}, x.dtype());
    MANTISSA_RUN(exec, grouped_matmul, y, x, w, offsets, Trans::kNT, false);
    return y;
  };
  Tensor y = forward(x.value(), w.value());
  if (!tape.needs_grad({&x, &w})) return tape.constant("grouped_linear", std::move(y));

  const Saved xs = tape.save(x), ws = tape.save(w);
  auto gradient = [&tape, xs, ws, offsets = routes.offsets, x_slot = x.slot(), w_slot = w.slot()](auto douts) {
    Exec& exec = tape.exec();
    if (w_slot) {
      bool accumulate;
      Tensor dw = tape.open_sink(w_slot, accumulate);
      MANTISSA_RUN(exec, grouped_matmul, dw, douts[0], xs.get(), offsets, Trans::kTN, accumulate);
      tape.close_sink(w_slot, std::move(dw));
    }
    if (x_slot) {
      Tensor dx = exec.empty(x_slot->shape, x_slot->dtype);
      MANTISSA_RUN(exec, grouped_matmul, dx, douts[0], ws.get(), offsets, Trans::kNN, false);
      tape.add_grad(x_slot, std::move(dx));
    }
  };
  Var out = tape.output("grouped_linear", std::move(y), std::move(gradient));
  tape.set_recipe(out, Recompute::kMlp, [forward, xs, ws] { return forward(xs.get(), ws.get()); });
  return out;
}

Var exchange_rows(Tape& tape, const Var& x, Comm& ranks, const std::vector<int64_t>& received,
                  const std::vector<int64_t>& sent) {
  check_rank("exchange_rows", "x", x.value(), 2);
  const auto travel = [&exec = tape.exec(), &ranks](const Tensor& in, const std::vector<int64_t>& from,
                                                    const std::vector<int64_t>& to) {
    Tensor out = exec.empty({std::accumulate(from.begin(), from.end(), int64_t(0)), in.size(1)}, in.dtype());
    ranks.all_to_all(exec, out, from, in, to);
    return out;
  };
  Tensor out = travel(x.value(), received, sent);
  if (!tape.recording()) return tape.constant("exchange_rows", std::move(out));
  return tape.output("exchange_rows", std::move(out), [&tape, travel, received, sent, slot = x.slot()](auto douts) {
    tape.add_grad(slot, travel(douts[0], sent, received));
  });
}

Var combine(Tape& tape, const Var& y, const Var& weights, const Routes& routes) {
  check_routes("combine", routes);
  check_shape("combine", "y", y.value(), {routes.tokens.numel(), y.value().size(-1)});
  check_shape("combine", "weights", weights.value(), routes.rows.shape());
  check_type("combine", "weights", weights.value(), accumulator_of(y.dtype()));
  Exec& exec = tape.exec();
  Tensor out = exec.empty({routes.rows.size(0), y.value().size(1)}, y.dtype());
  MANTISSA_RUN(exec, combine_rows, out, y.value(), weights.value(), routes.rows);
  if (!tape.needs_grad({&y, &weights})) return tape.constant("combine", std::move(out));

  auto gradient = [&tape, rows = routes.rows, ys = tape.save(y), ws = tape.save(weights), y_slot = y.slot(),
                   w_slot = weights.slot()](auto douts) {
    Exec& exec = tape.exec();
    Tensor dy = exec.empty(ys.get().shape(), ys.get().dtype());
    Tensor dw = exec.empty(ws.get().shape(), ws.get().dtype());
    MANTISSA_RUN(exec, combine_rows_bwd, dy, dw, douts[0], ys.get(), ws.get(), rows);
    tape.add_grad(y_slot, std::move(dy));
    tape.add_grad(w_slot, std::move(dw));
  };
  return tape.output("combine", std::move(out), std::move(gradient));
}

}  // namespace mantissa::ops
