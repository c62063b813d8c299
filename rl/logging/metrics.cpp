#include "rl/logging/metrics.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/json.h"

namespace mantissa {

void LoggingConfig::fields(Fields& f) {
  f.field("samples", samples, not_decisive("completions written to samples.jsonl a step"), at_least(0));
  f.field("tensorboard", tensorboard, not_decisive("also write the metrics as event files, in output_dir/tensorboard"));
}

std::string to_json_line(const Metrics& metrics) {
  JsonObject line;
  for (const auto& [name, value] : metrics.values()) {
    const bool long_integer = std::abs(value) >= 1e9 && std::abs(value) < 0x1p53 && std::trunc(value) == value;
    long_integer ? line.add(name, int64_t(value)) : line.add(name, value);
  }
  return line.str();
}

Metrics parse_metrics(const std::string& json_line) {
  Metrics metrics;
  const auto line = nlohmann::ordered_json::parse(json_line);
  for (const auto& [name, value] : line.items())
    metrics.set(name, value.is_number() ? value.get<double>() : std::nan(""));
  return metrics;
}

double Timer::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

Timer::~Timer() {
  const double before = metrics_.get(name_);
  metrics_.set(name_, (std::isnan(before) ? 0.0 : before) + seconds());
}

}  // namespace mantissa
