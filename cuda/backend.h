// The CUDA backend, seen from outside: whether it can run here, and registering it. Programs built with it run on
// machines without a GPU or a driver; what is missing is a sentence, not a failure to start.
#pragma once

#include <memory>
#include <string>

namespace mantissa {

class Comm;
class Mesh;

/// Why CUDA cannot be used here (no driver, no device, too old a driver or device); empty when it can.
std::string cuda_unavailable(int device = 0);

/// Registers the backend "cuda" on device `device` (as CUDA_VISIBLE_DEVICES numbers them). Throws Error with the reason
/// that cuda_unavailable() gives, where there is one.
void register_cuda_backend(int device = 0);

/// Devices that this process may use (CUDA_VISIBLE_DEVICES counts); 0 without a driver. Makes no context.
int cuda_device_count();

/// Ranks on this process's device, over NCCL (core/comm.h). Throws where the library is missing or differs.
std::unique_ptr<Comm> make_cuda_comm(std::unique_ptr<Mesh> mesh);

}  // namespace mantissa
