// What every metric of metrics.jsonl, sft.jsonl and eval.jsonl means, in one table. docs/tour.md shows it, and a test
// holds both, and what runs write, together.
#pragma once

#include <span>
#include <string_view>

namespace mantissa {

struct MetricInfo {
  /// The metric's name. A part in angle brackets stands for any text without a slash but <set>, which may hold some.
  std::string_view name;
  /// "tokens", "s", "nats" (a log-probability), ...; "1" for a plain number or a share.
  std::string_view unit;
  std::string_view meaning;
};

/// In the order of a step.
std::span<const MetricInfo> metric_table();
/// The row that a metric's name fits; null when there is none.
const MetricInfo* find_metric(std::string_view name);

}  // namespace mantissa
