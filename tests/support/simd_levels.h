// Runs a test body once for each vector instruction set of this machine: for (const char* level : SimdLevels()) ...
#pragma once

#include <string>
#include <vector>

#include "core/cpu/simd.h"

namespace mantissa {

/// The levels to try, best first; setting one is the body's first act (limit_simd(level)). The limit of before, from
/// MANTISSA_SIMD, comes back when the object dies.
class SimdLevels {
 public:
  SimdLevels() : before_(simd_level()) {
    for (const char* level : {"avx512", "avx2", "scalar"}) {
      limit_simd(level);
      if (simd_level() == level) levels_.push_back(level);
    }
  }
  ~SimdLevels() { limit_simd(before_.c_str()); }
  SimdLevels(const SimdLevels&) = delete;
  SimdLevels& operator=(const SimdLevels&) = delete;

  auto begin() const { return levels_.begin(); }
  auto end() const { return levels_.end(); }

 private:
  std::string before_;
  std::vector<const char*> levels_;
};

}  // namespace mantissa
