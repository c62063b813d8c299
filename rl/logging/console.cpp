#include "rl/logging/console.h"

#include <cmath>
#include <cstdio>

namespace mantissa {
namespace {

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

/// A number by its name and printf format; "-" for what the step did not have.
std::string part(const char* name, const char* format, double value) {
  return std::string(" | ") + name + (std::isfinite(value) ? formatted(format, value) : "-");
}

}  // namespace

std::string console_line(const Metrics& m, const Progress& p) {
  const auto left = (long long)(p.seconds_per_step * double(p.steps - p.step));
  std::string line = formatted("step %lld/%lld", (long long)p.step, (long long)p.steps);
  if (p.sft) {
    line += part("loss ", "%.4f", m.get("sft/loss")) + part("grad ", "%.3f", m.get("sft/grad_norm")) +
            part("lr ", "%.2e", m.get("sft/lr"));
  } else {
    line += part("score ", "%.3f", m.get("critic/score/mean")) + part("len ", "%.1f", m.get("response_length/mean")) +
            part("mismatch ", "%.1e", m.get("rollout_corr/k3_kl")) + part("clip ", "%.3f", m.get("actor/pg_clipfrac")) +
            part("grad ", "%.3f", m.get("actor/grad_norm"));
  }
  line += part("scale ", "%.9g", m.get("scaler/scale")) + (m.get("scaler/skipped") > 0 ? " SKIPPED" : "") +
          part("", "%.2f s", m.get("timing_s/step")) + part("", "%.0f tok/s", m.get("perf/throughput"));
  if (!p.notes.empty()) line += " | " + p.notes;
  return line + formatted(" | eta %02lld:%02lld:%02lld", left / 3600, left / 60 % 60, left % 60);
}

}  // namespace mantissa
