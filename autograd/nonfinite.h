// Forensics: which tensor was the first to overflow.
#pragma once

#include <cstdint>
#include <string>

#include "autograd/tape.h"

namespace mantissa {

/// The first non-finite element an observer saw.
struct NonFiniteReport {
  bool found = false;
  std::string scope;      // "layers.3.mlp"
  std::string op;         // "swiglu"
  bool backward = false;  // in a gradient that the op handed back, else in its output
  Dtype dtype = Dtype::kF32;
  Shape shape;
  int64_t expert = -1;  // whose row it is; -1: rows are not those of experts
  int64_t index = -1;   // flat position in that tensor
  double value = 0.0;   // inf, -inf or nan

  /// "layers.3.mlp swiglu backward: inf at element 17 of fp16 [4,96]"; where rows are those of experts it begins with
  /// "expert 5 of layers.3.mlp"; "all tensors are finite" when nothing was found.
  std::string text() const;
};

/// Flat position of the first element that is not finite; -1: all are. Waits for the device.
int64_t position_of_nonfinite(Exec& exec, const Tensor& values);

/// An observer for Tape::set_observer that fills `report` (which must outlive it) with the first non-finite tensor and
/// looks no further. Waits for the device after every op: for the replay of a step that overflowed, not for every step.
Observer find_first_nonfinite(Exec& exec, NonFiniteReport& report);

}  // namespace mantissa
