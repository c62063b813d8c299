// Kernels that begin while the one ahead of them on the stream still runs (Hopper; elsewhere they wait as others do).
// What they do before await_previous() must read nothing that the one ahead writes, and write nothing at all.
#pragma once

#include "cuda/common.cuh"

namespace mantissa::cuda {

/// Waits for the kernels ahead: what they wrote can be read from here on. At once where nobody was let in early.
__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel may begin when every block has said so or ended.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// A launch of a kernel that calls await_previous(), its grid in clusters of so many blocks.
template <class... Parameters, class... Arguments>
void launch_early_in_clusters(const Exec& exec, void (*kernel)(Parameters...), dim3 grid, dim3 cluster, int threads,
                              size_t shared, const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream(exec);
  config.attrs = attributes;
  if (device_facts(exec).can_begin_early) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster.x * cluster.y * cluster.z > 1) {
    cudaLaunchAttribute& together = attributes[config.numAttrs++];
    together.id = cudaLaunchAttributeClusterDimension;
    together.val.clusterDim.x = cluster.x;
    together.val.clusterDim.y = cluster.y;
    together.val.clusterDim.z = cluster.z;
  }
  MANTISSA_CUDA(cudaLaunchKernelEx(&config, kernel, arguments...));
}
/// The same without clusters.
template <class... Parameters, class... Arguments>
void launch_early(const Exec& exec, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                  const Arguments&... arguments) {
  launch_early_in_clusters(exec, kernel, grid, dim3(1), threads, shared, arguments...);
}

}  // namespace mantissa::cuda
