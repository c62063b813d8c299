// Whether the build fits the device.
#include "cuda/common.cuh"

namespace mantissa::cuda_kernels {
namespace {

__global__ void nothing() {}

}  // namespace

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

}  // namespace mantissa::cuda_kernels
