#include "cuda/common.cuh"
namespace mantissa::cuda_kernels {
void register_optim(Kernels&) {}
}  // namespace mantissa::cuda_kernels
