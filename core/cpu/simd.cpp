#include "core/cpu/simd.h"

#include <iterator>

#include "core/error.h"
#include "hwy/targets.h"

namespace mantissa {
namespace {

struct Level {
  std::string_view name;
  int64_t target;  // of Highway; a lower bit is a better target
};
constexpr Level kLevels[] = {{"avx512", HWY_AVX3}, {"avx2", HWY_AVX2}, {"scalar", HWY_SCALAR}};

}  // namespace

std::string_view simd_level() {
  const int64_t supported = hwy::SupportedTargets();
  for (const Level& level : kLevels)
    if (supported & level.target) return level.name;
  return "scalar";
}

void limit_simd(const char* name) {
  const std::string_view wanted = name ? name : "";
  int64_t disabled = 0;
  if (!wanted.empty()) {
    const auto* level = kLevels;
    for (; level != std::end(kLevels) && level->name != wanted; ++level) disabled |= level->target;
    check(level != std::end(kLevels), "MANTISSA_SIMD must be one of avx512, avx2, scalar: got \"", wanted, "\"");
  }
  hwy::DisableTargets(disabled);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace mantissa
