// What the CUDA sources share on the host: error checks, the stream of an Exec, facts about the device.
#pragma once

#include <cuda_runtime.h>

#include "core/kernels.h"

namespace mantissa::cuda {

/// Throws Error naming the call and where it stands.
[[noreturn]] void fail_call(cudaError_t error, const char* call, const char* file, int line);

#define MANTISSA_CUDA(call)                                                    \
  do {                                                                         \
    if (const cudaError_t error_ = (call); error_ != cudaSuccess) [[unlikely]] \
      ::mantissa::cuda::fail_call(error_, #call, __FILE__, __LINE__);          \
  } while (false)

/// After every launch: a kernel that cannot start is named here, not at some later call.
#define MANTISSA_LAUNCH_CHECK() MANTISSA_CUDA(cudaGetLastError())

/// What kernels may want to know of the device they run on.
struct DeviceFacts {
  int sms = 0;
  size_t shared_per_block = 0;  // with opt-in
  int major = 0, minor = 0;
};

/// The stream kernels of this Exec go to: its own, or the backend's one main stream.
cudaStream_t stream(const Exec& exec);
const DeviceFacts& device_facts(const Exec& exec);
/// True while the main stream records a graph: nothing may be measured or read back.
bool capturing(const Exec& exec);

}  // namespace mantissa::cuda
