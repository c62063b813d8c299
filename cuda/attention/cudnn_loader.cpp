#include "cuda/attention/cudnn_loader.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstring>
#include <string>

#include "core/error.h"

namespace mantissa::cuda_kernels::cudnn_loader {
namespace {

int own_runtime;  // its address stands for the linked runtime

}  // namespace

void* open_library(const char* name, int flags) {
  if (std::strncmp(name, "libcudart.so", 12) != 0) return ::dlopen(name, flags);
  return str("libcudart.so.", CUDART_VERSION / 1000) == name ? &own_runtime : nullptr;
}

void* find_symbol(void* library, const char* name) {
  if (library != &own_runtime) return ::dlsym(library, name);
  struct Entry {
    const char* name;
    void* function;
  };
#define MANTISSA_RUNTIME(function)                \
  Entry {                                         \
    #function, reinterpret_cast<void*>(&function) \
  }
  static const Entry kEntries[] = {
      MANTISSA_RUNTIME(cudaGetDevice),
      MANTISSA_RUNTIME(cudaDeviceGetAttribute),
      MANTISSA_RUNTIME(cudaGetErrorString),
      MANTISSA_RUNTIME(cudaGetLastError),
      MANTISSA_RUNTIME(cudaMemcpyAsync),
      MANTISSA_RUNTIME(cudaMemsetAsync),
      MANTISSA_RUNTIME(cudaRuntimeGetVersion),
      MANTISSA_RUNTIME(cudaPointerGetAttributes),
      MANTISSA_RUNTIME(cudaStreamIsCapturing),
      MANTISSA_RUNTIME(cudaStreamSynchronize),
      MANTISSA_RUNTIME(cudaDeviceSynchronize),
      MANTISSA_RUNTIME(cudaThreadExchangeStreamCaptureMode),
      MANTISSA_RUNTIME(cudaUserObjectCreate),
      MANTISSA_RUNTIME(cudaUserObjectRelease),
      MANTISSA_RUNTIME(cudaGraphRetainUserObject),
#if CUDART_VERSION >= 13000
      MANTISSA_RUNTIME(cudaStreamGetCaptureInfo),
#else
      MANTISSA_RUNTIME(cudaStreamGetCaptureInfo_v2),
#endif
      Entry{CUDART_VERSION >= 13000 ? "cudaGetDeviceProperties" : "cudaGetDeviceProperties_v2",
            reinterpret_cast<void*>(static_cast<cudaError_t (*)(cudaDeviceProp*, int)>(&cudaGetDeviceProperties))},
  };
#undef MANTISSA_RUNTIME
  for (const Entry& entry : kEntries)
    if (std::strcmp(entry.name, name) == 0) return entry.function;
  return nullptr;  // the frontend throws, the own kernels run
}

}  // namespace mantissa::cuda_kernels::cudnn_loader
