// Conveyor: host memory on its way through a device in pieces, beside the kernels that work on it. A piece has a slot,
// one of a few in turn, with device memory that the caller gives it. Backend::conveyor makes one.
//
//   fetch(slot)   host to device, after the slot's last store
//   use(slot)     kernels that run from here on find there what was fetched
//   store(slot)   device to host, after the kernels so far
//
// Either direction has a queue of its own, so one piece is fetched and another is stored while a third is worked on.
// Host memory that Backend::allocate_host gave moves at the full speed of the link.
#pragma once

#include <span>

#include "core/tensor.h"

namespace mantissa {

class Conveyor {
 public:
  /// Two tensors of equal type and size.
  struct Copy {
    Tensor device, host;
  };

  virtual ~Conveyor() = default;
  Conveyor(const Conveyor&) = delete;
  Conveyor& operator=(const Conveyor&) = delete;

  virtual void fetch(int slot, std::span<const Copy> copies) = 0;
  virtual void use(int slot) = 0;
  virtual void store(int slot, std::span<const Copy> copies) = 0;
  /// Later work on the exec's stream, and whoever waits for it, finds everything stored. Last call.
  virtual void finish() = 0;

 protected:
  Conveyor() = default;
};

}  // namespace mantissa
