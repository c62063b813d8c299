#include "rl/train/expert_load.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/registry.h"

namespace mantissa {
namespace {

Tensor offsets(std::vector<int32_t> values) {
  const int64_t n = int64_t(values.size());
  return tensor_from<int32_t>(cpu(), values, {n});
}

TEST(ExpertLoad, OfTwoForwardsByWorkedNumbers) {
  std::map<std::string, double> parts = {{"actor/pg_loss", 0.5}};
  // Layer 0 has no experts; layer 1 has 4 with 4, 4, 0 and 8 of 16 rows; layer 2 has 4 with 4 rows each.
  add_expert_rows(parts, std::vector<Tensor>{Tensor(), offsets({0, 1, 4, 4, 8}), offsets({0, 2, 4, 6, 8})});
  add_expert_rows(parts, std::vector<Tensor>{Tensor(), offsets({0, 3, 4, 4, 8}), offsets({0, 2, 4, 6, 8})});
  EXPECT_EQ(parts.at("moe/rows/1/3"), 8);
  const std::map<std::string, double> load = take_expert_load(parts);
  EXPECT_EQ(load.at("moe/load_min"), 0);
  EXPECT_EQ(load.at("moe/load_max"), 2);
  const double first = (2 * 0.25 * std::log(4) + 0.5 * std::log(2)) / std::log(4);
  EXPECT_NEAR(load.at("moe/load_entropy"), (first + 1) / 2, 1e-12);
  EXPECT_EQ(parts, (std::map<std::string, double>{{"actor/pg_loss", 0.5}}));
  EXPECT_TRUE(take_expert_load(parts).empty());
}

}  // namespace
}  // namespace mantissa
