// The feed-forward part of a layer as a mixture of experts (Qwen3-MoE): a router sends each row to some of them.
//
// Experts over ranks. Of N ranks each has the experts [r E / N, (r + 1) E / N). A row is copied to the ranks of its
// experts, multiplied there, and comes back as it left, one row for each of its slots:
//
//   at home     route over all experts -> rows by expert, and so by rank -> counts to all ranks -> exchange
//   there       the rows that came, by rank and expert -> by expert and rank -> gate_up, swiglu, down -> by rank and
//               expert again -> exchange
//   at home     combine, in slot order
//
// A row's way through its experts does not depend on what travels beside it wherever a product's bits do not (the CPU;
// Match::kExact), so N does not change a log-prob there. How many rows a rank sends to each is read on the host, once a
// layer: such a pass cannot be part of a graph. All N ranks make as many passes, forward and backward; one that has no
// row joins with none (Decoder::join).
#pragma once

#include "autograd/ops.h"
#include "core/comm.h"
#include "nn/config.h"

namespace mantissa {

/// x[T,C] -> [T,C]: the router's K experts of each row, down(silu(gate x) * up x) each, added with their weights
/// (ops::route, ops::combine). router[E,C]; gate_up[E 2F,C], an expert's rows [gate | up]; down[E C,F]: those of this
/// rank's experts where several `ranks` share them out. `offsets`, unless null, receives Routes::offsets; `other` as in
/// ops::route.
Var mixture(Tape& tape, const Var& x, const Var& router, const Var& gate_up, const Var& down,
            const ExpertsConfig& experts, Tensor* offsets = nullptr, Comm& ranks = single_comm(),
            const ops::RouteExchange& other = {});

}  // namespace mantissa
