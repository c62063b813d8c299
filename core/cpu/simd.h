// Which vector instructions the CPU kernels use: the best the machine has, or less when asked.
#pragma once

#include <string_view>

namespace mantissa {

/// "avx512", "avx2" or "scalar": what the kernels run with now.
std::string_view simd_level();
/// Uses nothing better than `level` (one of those names; null or "" takes the limit away). The environment variable
/// MANTISSA_SIMD calls it at start; results do not depend on it. Throws on another name. Not to be called while kernels
/// run on another thread.
void limit_simd(const char* level);

}  // namespace mantissa
