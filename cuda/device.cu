#include "cuda/device.h"

namespace mantissa::cuda {
namespace {

__global__ void nothing() {}

const Device& device_of(const Exec& exec) {
  return static_cast<const Device&>(exec.backend());
}

}  // namespace

void fail_call(cudaError_t error, const char* call, const char* file, int line) {
  fail("[cuda] ", call, " at ", file, ":", line, " failed: ", cudaGetErrorString(error), " (", cudaGetErrorName(error),
       ")");
}

cudaStream_t stream(const Exec& exec) {
  return exec.stream ? static_cast<cudaStream_t>(exec.stream) : device_of(exec).main_stream();
}
const DeviceFacts& device_facts(const Exec& exec) {
  return device_of(exec).facts();
}
bool capturing(const Exec& exec) {
  return device_of(exec).capturing();
}

bool waits_for_kernels_ahead() {
  cudaFuncAttributes attributes;
  MANTISSA_CUDA(cudaFuncGetAttributes(&attributes, nothing));
  return attributes.ptxVersion >= 90;
}

std::string missing_device_code() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, nothing);
  (void)cudaGetLastError();
  if (error == cudaSuccess) return {};
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    return "this program was built for " MANTISSA_CUDA_ARCHITECTURES
           " and has no code for the device (CMake option MANTISSA_CUDA_ARCHITECTURES)";
  return cudaGetErrorString(error);
}

}  // namespace mantissa::cuda
