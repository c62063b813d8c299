// The CPU backend: memory, and the table of reference kernels (core/cpu/kernels.h).
#pragma once

#include <memory>

#include "core/backend.h"

namespace mantissa {

std::unique_ptr<Backend> make_cpu_backend();

}  // namespace mantissa
