// What the cuDNN frontend opens and looks up goes through here: its CUDA runtime is the one linked into this program.
#pragma once

namespace mantissa::cuda_kernels::cudnn_loader {

/// As dlopen and dlsym.
void* open_library(const char* name, int flags);
void* find_symbol(void* library, const char* name);

}  // namespace mantissa::cuda_kernels::cudnn_loader
