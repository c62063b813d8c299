// The CUDA backend, seen from outside: whether it can run here, and registering it. Programs built with it
// run on machines without a GPU or a driver; what is missing is a sentence, not a failure to start.
#pragma once

#include <string>

namespace mantissa {

/// Why CUDA cannot be used here (no driver, no device, too old a driver or device); empty when it can.
std::string cuda_unavailable(int device = 0);

/// Registers the backend "cuda" on device `device` (as CUDA_VISIBLE_DEVICES numbers them). Throws with the
/// reason where cuda_unavailable() has one.
void register_cuda_backend(int device = 0);

}  // namespace mantissa
