// Host memory as the device likes it, and its way through (core/conveyor.h): copies on a stream a direction.
#pragma once

#include "core/backend.h"
#include "core/conveyor.h"

namespace mantissa::cuda {

/// Zeroed memory of the CPU's backend, pinned. Where the system does not let it be pinned a notice says so.
std::shared_ptr<Storage> allocate_pinned(size_t bytes);

/// Copies begin after what the exec's stream holds now.
std::unique_ptr<Conveyor> make_conveyor(Exec& exec, int slots);

}  // namespace mantissa::cuda
