#include "nn/moe.h"

namespace mantissa {

Var mixture(Tape& tape, const Var& x, const Var& router, const Var& gate_up, const Var& down,
            const ExpertsConfig& experts, Tensor* offsets) {
  const ops::Routing routing = ops::route(tape, x, router, experts.per_token, experts.normalise);
  const ops::Routes& routes = routing.routes;
  if (offsets) *offsets = routes.offsets;
  Var out;
  {
    const Tape::Groups groups(tape, routes.offsets);
    const Var hidden = ops::grouped_linear(tape, ops::group_rows(tape, x, routes), gate_up, routes);
    out = ops::grouped_linear(tape, ops::swiglu(tape, hidden), down, routes);
  }
  return ops::combine(tape, out, routing.weights, routes);
}

}  // namespace mantissa
