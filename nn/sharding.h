// What the processes of a run do with buffers of a ParamSet: sum gradients, make copies whole again. Collective: every
// process makes the same calls in the same order. With one process nothing moves. Units of experts that processes share
// out (nn/params.h) move among those that have the same ones.
//
// Gradients are summed unit by unit, from the last to the first, as backward finishes them. A device with a stream for
// collectives sums beside backward; what is summed, and so every bit, does not depend on when.
#pragma once

#include "core/comm.h"
#include "nn/params.h"

namespace mantissa {

/// The processes that have a unit and share its parts, this one among them.
Comm& comm_of(Comm& all, const ParamSet& params, int unit);

/// Collectives of one kind, of one unit after the other, beside what the device does. Small units wait until there is
/// some work together: to begin a collective costs the host more than a small model's unit costs the device.
class UnitCollectives {
 public:
  using Kind = Comm::Ticket (Comm::*)(Exec&, std::vector<Comm::Pair>, Order);
  /// `all`: the processes of the set.
  UnitCollectives(Exec& exec, Comm& all, Kind kind) : exec_(exec), all_(all), kind_(kind) {}

  /// A pair of a unit that `ranks` have. What is begun together depends on the units added alone, so it is the same on
  /// all processes.
  void add(Comm& ranks, const Tensor& out, const Tensor& in);
  /// Begins what waits.
  void begin();
  /// Begins what waits; later work on the exec's stream has the results of all.
  void finish();

 private:
  Exec& exec_;
  Comm& all_;
  const Kind kind_;
  Comm* ranks_ = nullptr;  // of what waits
  std::vector<Comm::Pair> waiting_;
  size_t bytes_ = 0;
  Comm::Ticket last_ = 0;
};

/// params.reduced = this process's parts of the sum of all processes' params.grad, in fp32. They may lie within grad,
/// whose other parts then mean nothing.
class GradientSum {
 public:
  GradientSum(Exec& exec, Comm& comm, const ParamSet& params);

  /// The gradients of `unit` and all units after it are whole on this process, zeros where none has come: what has not
  /// begun of them begins.
  /// Nothing may write them from here to finish(). Processes may come here at different units, in the order of units.
  void begin(int unit);
  /// Begins the rest; later work on the exec's stream has the sums. The next sum begins anew.
  void finish();

 private:
  Comm& comm_;
  const ParamSet& params_;
  int begun_ = -1;  // units from this one on are on their way; -1: none
  UnitCollectives sums_;
};

/// Makes units of copies the same on all processes, each of which has written its own part.
class WeightGather {
 public:
  WeightGather(Exec& exec, Comm& comm, const ParamSet& params);
  /// The parts of `unit` are written. `copy` is whole, else nothing is done.
  void begin(const ParamBuffer& copy, int unit);
  /// Later work on the exec's stream has all units.
  void finish() { gathers_.finish(); }

 private:
  Comm& comm_;
  const ParamSet& params_;
  UnitCollectives gathers_;
};

/// This process's parts of `copy`, which is whole or of parts, = its masters, rounded once.
void cast_masters(Exec& exec, const ParamSet& params, const ParamBuffer& copy);
/// `whole` = the weights that training computes with: those of a set in parts put together, or, where the type is
/// another, its masters rounded once and put together.
void gather_weights(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& whole);
/// `values` where the exec's kernels can reach them: a copy on its device if Placement::kHost keeps them elsewhere.
Tensor staged(Exec& exec, const ParamSet& params, const Tensor& values);
/// Writes what staged() gave back to `values`.
void put_back(const ParamSet& params, const Tensor& values, const Tensor& copy);
/// Puts units of buffers of parts together, one at a time: what it takes on the main process is host memory of the
/// largest unit, and on the device some pieces of it. A second copy of all of a large model may be more than there is.
class UnitGather {
 public:
  UnitGather(Exec& exec, Comm& comm, const ParamSet& params)
      : exec_(exec), comm_(comm), params_(params), whole_(params.layout.whole()) {}
  /// A unit of `buffer`, in the layout of all of it (ParamLayout::whole), on the main process, until the next call,
  /// undefined on the others; of a buffer that has all of it the unit itself, wherever it lies.
  Tensor operator()(const ParamBuffer& buffer, int unit);

 private:
  Exec& exec_;
  Comm& comm_;
  const ParamSet& params_;
  const ParamLayout whole_;
  std::shared_ptr<Storage> room_;
};
/// A buffer of parts put together in host memory on the main process, in the layout of all of it, undefined on the
/// others; one that has all of it is itself.
ParamBuffer gather_whole(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& parts);

}  // namespace mantissa
