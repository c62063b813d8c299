// What the CUDA sources share on the host: error checks, and the device behind an Exec: its stream, facts about it.
#pragma once

#include <cuda_runtime.h>

#include "core/backend.h"

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
  bool can_begin_early =
      false;  // kernels of this build wait for those ahead of them where they must (cuda/overlap.cuh)
};

/// The backend as kernels see it; CudaBackend (backend.cpp) is the one there is.
class Device : public Backend {
 public:
  cudaStream_t main_stream() const { return main_; }
  const DeviceFacts& facts() const { return facts_; }
  bool capturing() const { return capturing_; }

 protected:
  cudaStream_t main_ = nullptr;
  DeviceFacts facts_;
  bool capturing_ = false;
};

/// The stream kernels of this Exec go to: its own, or the backend's one main stream.
cudaStream_t stream(const Exec& exec);
const DeviceFacts& device_facts(const Exec& exec);
/// True while the main stream records a graph: nothing may be measured or read back.
bool capturing(const Exec& exec);

/// Whether this build's code for the current device knows how a kernel waits for those ahead of it: compiled for Hopper
/// or later, not made from what was compiled for older devices.
bool waits_for_kernels_ahead();
/// Empty when this build has code for the current device, else what it has code for.
std::string missing_device_code();

}  // namespace mantissa::cuda
