// What the processes of a run do with buffers of a ParamSet: sum gradients, make copies whole again. Collective: every
// process makes the same calls in the same order. With one process nothing moves.
#pragma once

#include "core/comm.h"
#include "nn/params.h"

namespace mantissa {

/// params.reduced = this process's parts of the sum of all processes' params.grad, unit by unit, in fp32.
void reduce_gradients(Exec& exec, Comm& comm, const ParamSet& params);
/// `copy`, a whole buffer in which each process has written its own parts, becomes the same on all.
void gather_parts(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& copy);
/// `values` where the exec's kernels can reach them: a copy on its device if Placement::kHost keeps them elsewhere.
Tensor staged(Exec& exec, const ParamSet& params, const Tensor& values);
/// Writes what staged() gave back to `values`.
void put_back(const ParamSet& params, const Tensor& values, const Tensor& copy);
/// A buffer of parts put together in host memory on the main process, undefined on the others; a whole one is itself.
ParamBuffer gather_whole(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& parts);

}  // namespace mantissa
