#include "rl/algorithm/loss.h"

#include <algorithm>
#include <cmath>

namespace mantissa {
namespace {

constexpr const char* kMean = "rollout_corr/rollout_is_mean";
constexpr const char* kMeanSquare = "rollout_corr/rollout_is_mean_square";

}  // namespace

void LossStats::add(const LossOut& out) {
  for (const LossStat& stat : out.stats) parts_[stat.name] += to_host_float(stat.sum)[0] / stat.denominator;
}

std::map<std::string, double> LossStats::metrics() const {
  std::map<std::string, double> metrics = parts_;
  const auto square = metrics.find(kMeanSquare);
  if (square == metrics.end()) return metrics;
  const double mean = metrics.at(kMean), mean_square = square->second;
  metrics.erase(square);
  metrics["rollout_corr/rollout_is_std"] = std::sqrt(std::max(0.0, mean_square - mean * mean));
  metrics["rollout_corr/rollout_is_eff_sample_size"] = mean_square > 0 ? mean * mean / mean_square : 0.0;
  return metrics;
}

}  // namespace mantissa
