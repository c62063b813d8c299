#include "rl/logging/console.h"

#include <cstdio>

namespace mantissa {
namespace {

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

}  // namespace

std::string console_line(const Metrics& m, const Progress& p) {
  const auto left = (long long)(p.seconds_per_step * double(p.steps - p.step));
  std::string line = formatted("step %lld/%lld", (long long)p.step, (long long)p.steps);
  line += p.sft ? formatted(" | loss %.4f | grad %.3f | lr %.2e", m.get("sft/loss"), m.get("sft/grad_norm"),
                            m.get("sft/lr"))
                : formatted(" | score %.3f | len %.1f | kl %.1e | clip %.3f | grad %.3f", m.get("critic/score/mean"),
                            m.get("response_length/mean"), m.get("rollout_corr/k3_kl"), m.get("actor/pg_clipfrac"),
                            m.get("actor/grad_norm"));
  line += formatted(" | scale %g%s | %.2f s | %.0f tok/s", m.get("scaler/scale"),
                    m.get("scaler/skipped") > 0 ? " SKIPPED" : "", m.get("timing_s/step"), m.get("perf/throughput"));
  return line + formatted(" | eta %02lld:%02lld:%02lld", left / 3600, left / 60 % 60, left % 60);
}

}  // namespace mantissa
