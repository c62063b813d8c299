// How metrics are written and timed: a flat JSON object a record, and a timer that adds seconds to a metric.
#pragma once

#include <chrono>
#include <string>

#include "core/fields.h"
#include "rl/types.h"

namespace mantissa {

/// What else is written, and where to: section `logging` of a config.
struct LoggingConfig {
  int64_t samples = 4;  // completions written to samples.jsonl a step
  bool tensorboard = false;
  void fields(Fields& f);
};

/// {"step": 3, "critic/score/mean": 0.5, ...}, what is not finite as null (core/json.h), integers with all digits.
std::string to_json_line(const Metrics& metrics);

/// What to_json_line has written: numbers of nine digits, null as NaN.
Metrics parse_metrics(const std::string& json_line);

/// Adds the seconds of its life to a metric: Timer timer(metrics, "timing_s/gen").
class Timer {
 public:
  Timer(Metrics& metrics, std::string name)
      : metrics_(metrics), name_(std::move(name)), start_(std::chrono::steady_clock::now()) {}
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  double seconds() const;

 private:
  Metrics& metrics_;
  std::string name_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace mantissa
