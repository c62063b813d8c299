#include "rl/train/expert_load.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace mantissa {
namespace {

constexpr const char* kRows = "moe/rows/";

}  // namespace

void add_expert_rows(std::map<std::string, double>& parts, std::span<const Tensor> offsets) {
  for (size_t layer = 0; layer < offsets.size(); ++layer) {
    if (!offsets[layer].defined()) continue;
    const std::vector<int32_t> bounds = to_host<int32_t>(offsets[layer]);
    for (size_t e = 0; e + 1 < bounds.size(); ++e)
      parts[str(kRows, layer, '/', e)] += double(bounds[e + 1] - bounds[e]);
  }
}

std::map<std::string, double> take_expert_load(std::map<std::string, double>& parts) {
  std::map<std::string, std::vector<double>> layers;
  for (auto it = parts.lower_bound(kRows); it != parts.end() && it->first.starts_with(kRows); it = parts.erase(it))
    layers[it->first.substr(0, it->first.rfind('/'))].push_back(it->second);
  if (layers.empty()) return {};
  double least = INFINITY, most = 0, entropy = 0;
  for (const auto& [name, rows] : layers) {
    double total = 0, sum = 0;
    for (const double n : rows) total += n;
    for (const double n : rows) {
      const double share = total > 0 ? n / total : 0;
      least = std::min(least, share * double(rows.size()));
      most = std::max(most, share * double(rows.size()));
      if (share > 0) sum -= share * std::log(share);
    }
    entropy += rows.size() > 1 ? sum / std::log(double(rows.size())) : 1;
  }
  return {{"moe/load_min", least}, {"moe/load_max", most}, {"moe/load_entropy", entropy / double(layers.size())}};
}

}  // namespace mantissa
