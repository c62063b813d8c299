#include "cuda/common.cuh"
namespace mantissa::cuda_kernels {
void register_elementwise(Kernels&) {}
}  // namespace mantissa::cuda_kernels
