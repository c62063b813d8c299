// The gradient of a norm that adds what its input has from elsewhere, against the two apart.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/simd_levels.h"
#include "tests/support/small_tensors.h"

namespace mantissa {
namespace {

TEST(NormGradient, AddsWhatCameBeforeToTheBitsOfAnAdditionAfter) {
  Exec exec(cpu());
  const auto check_types = [&](int64_t rows, int64_t width, Dtype dtype, Dtype wide) {
    const Shape shape{rows, width};
    const Dtype sums = accumulator_of(wide);
    const Tensor x = uniform(exec, shape, wide, 1, 2.0f), w = uniform(exec, {width}, dtype, 2),
                 dy = uniform(exec, shape, dtype, 3), before = uniform(exec, shape, wide, 4);
    const std::vector<char> given = bits(before);
    Tensor y = exec.empty(shape, dtype), rstd = exec.empty({rows}, sums);
    MANTISSA_RUN(exec, rms_norm_fwd, y, rstd, x, w, 1e-5);
    Tensor frozen, apart = exec.empty(shape, wide), dw_apart = exec.zeros({width}, sums);
    MANTISSA_RUN(exec, rms_norm_bwd, apart, dw_apart, dy, x, w, rstd, Tensor());
    MANTISSA_RUN(exec, binary, apart, before, apart, Binary::kAdd);
    Tensor dx = exec.empty(shape, wide), dw = exec.zeros({width}, sums), dx_alone = exec.empty(shape, wide);
    MANTISSA_RUN(exec, rms_norm_bwd, dx, dw, dy, x, w, rstd, before);
    MANTISSA_RUN(exec, rms_norm_bwd, dx_alone, frozen, dy, x, w, rstd, before);
    EXPECT_EQ(bits(dx), bits(apart));
    EXPECT_EQ(bits(dx_alone), bits(apart));
    EXPECT_EQ(bits(dw), bits(dw_apart));
    EXPECT_EQ(bits(before), given);
  };
  for (const char* level : SimdLevels()) {
    limit_simd(level);
    for (const int64_t rows : {1, 67})
      for (const int64_t width : {1, 7, 33, 128, 577}) {
        SCOPED_TRACE(str(level, ", ", rows, " rows of ", width));
        for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
          check_types(rows, width, dtype, dtype);
          check_types(rows, width, dtype, Dtype::kF32);
        }
        check_types(rows, width, Dtype::kF64, Dtype::kF64);
      }
  }
}

TEST(NormGradient, RoundsItsOwnPartBeforeItAdds) {
  // The norm gives 70000, infinite in fp16; with -60000 from before an unrounded one would come back into range.
  Exec exec(cpu());
  const int64_t width = 2;
  Tensor x = exec.empty({1, width}, Dtype::kF16), w = exec.empty({width}, Dtype::kF16);
  MANTISSA_RUN(exec, cast, x, vec({1, 1}).view({1, width}));
  MANTISSA_RUN(exec, cast, w, vec({2, 2}));
  Tensor dy = exec.empty({1, width}, Dtype::kF16), before = exec.empty({1, width}, Dtype::kF16);
  MANTISSA_RUN(exec, cast, dy, vec({35000, -35000}).view({1, width}));
  MANTISSA_RUN(exec, cast, before, vec({-60000, 1}).view({1, width}));
  Tensor y = exec.empty({1, width}, Dtype::kF16), rstd = exec.empty({1}, Dtype::kF32), none;
  Tensor dx = exec.empty({1, width}, Dtype::kF16);
  MANTISSA_RUN(exec, rms_norm_fwd, y, rstd, x, w, 1e-6);
  MANTISSA_RUN(exec, rms_norm_bwd, dx, none, dy, x, w, rstd, before);
  EXPECT_EQ(host(dx), (std::vector<float>{INFINITY, -INFINITY}));
}

}  // namespace
}  // namespace mantissa
