// The console's line of a step.
#include "rl/logging/console.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mantissa {
namespace {

TEST(Console, ALossScaleIsPrintedAsTheIntegerThatItIs) {
  Metrics metrics;
  for (const auto& [scale, text] : {std::pair{1048576.0, "| scale 1048576 |"},
                                    {16777216.0, "| scale 16777216 |"},
                                    {0.5, "| scale 0.5 |"},
                                    {NAN, "| scale - |"}}) {
    metrics.set("scaler/scale", scale);
    EXPECT_NE(console_line(metrics, {}).find(text), std::string::npos) << console_line(metrics, {});
  }
}

}  // namespace
}  // namespace mantissa
