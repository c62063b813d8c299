// The feed-forward part of a layer as a mixture of experts (Qwen3-MoE): a router sends each row to some of them.
#pragma once

#include "autograd/ops.h"
#include "nn/config.h"

namespace mantissa {

/// x[T,C] -> [T,C]: the router's K experts of each row, down(silu(gate x) * up x) each, added with their weights
/// (ops::route, ops::combine). router[E,C]; gate_up[E 2F,C], an expert's rows [gate | up]; down[E C,F]. `offsets`,
/// unless null, receives Routes::offsets.
Var mixture(Tape& tape, const Var& x, const Var& router, const Var& gate_up, const Var& down,
            const ExpertsConfig& experts, Tensor* offsets = nullptr);

}  // namespace mantissa
