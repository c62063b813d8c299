#include "nn/rope.h"

#include <cmath>
#include <numbers>

#include "core/parallel.h"

namespace mantissa {

std::vector<double> rope_frequencies(const RopeConfig& rope, int head_size) {
  std::vector<double> frequencies(size_t(head_size / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double plain = std::pow(rope.theta, -2.0 * double(i) / head_size);
    double& f = frequencies[i] = plain;
    if (rope.kind == RopeConfig::Kind::kDefault) continue;
    f = plain / rope.factor;
    if (rope.kind == RopeConfig::Kind::kLinear) continue;
    const double turns = double(rope.original_max_positions) * plain / (2 * std::numbers::pi);  // original/wavelength
    if (turns > rope.high_freq_factor)
      f = plain;
    else if (turns >= rope.low_freq_factor) {
      const double mix = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      f = (1 - mix) * plain / rope.factor + mix * plain;
    }
  }
  return frequencies;
}

Tensor rope_table(const ModelConfig& config, Backend& backend) {
  const std::vector<double> frequencies = rope_frequencies(config.rope, config.heads.size);
  const int64_t half = int64_t(frequencies.size());
  std::vector<float> values(size_t(config.max_positions * half * 2));
  parallel_for(config.max_positions, 64, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(p) * frequencies[size_t(i)];
        float* pair = values.data() + (p * half + i) * 2;
        pair[0] = float(std::cos(angle));
        pair[1] = float(std::sin(angle));
      }
  });
  return tensor_from<float>(backend, values, {config.max_positions, half, 2});
}

}  // namespace mantissa
