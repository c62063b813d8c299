#include "rl/selftest.h"

#include <cmath>
#include <cstring>

#include "core/hash.h"
#include "rl/logging/log.h"

namespace mantissa {
namespace {

/// -0 and 0 are the same weight: a step of learning rate 0 subtracts 0, which may turn one into the other.
template <class Bits>
void drop_sign_of_zero(std::vector<std::byte>& host) {
  for (size_t i = 0; i + sizeof(Bits) <= host.size(); i += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, host.data() + i, sizeof bits);
    if (Bits(bits << 1) == 0) std::memset(host.data() + i, 0, sizeof bits);
  }
}

uint64_t hash_of(const ParamSet& params) {
  uint64_t hash = 0;
  for (const ParamBuffer* buffer : {&params.compute, &params.rollout, &params.master}) {
    if (!buffer->defined()) continue;
    const Tensor& flat = buffer->flat();
    std::vector<std::byte> host(size_t(flat.bytes()));
    flat.backend().copy_to_host(host.data(), flat.raw(), flat.bytes());
    is_16bit(flat.dtype()) ? drop_sign_of_zero<uint16_t>(host) : drop_sign_of_zero<uint32_t>(host);
    hash = std::rotl(hash, 1) ^ hash64(host);
  }
  return hash;
}

}  // namespace

double trend(std::span<const double> values) {
  const double n = double(values.size());
  if (values.size() < 4) return 0;
  double mean = 0;
  for (const double y : values) mean += y / n;
  double xx = 0, xy = 0, yy = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double dx = double(i) - (n - 1) / 2, dy = values[i] - mean;
    xx += dx * dx, xy += dx * dy, yy += dy * dy;
  }
  if (!std::isfinite(yy) || yy == 0) return 0;
  const double slope = xy / xx, residual = std::max(0.0, yy - slope * xy);
  return slope / std::sqrt(residual / (n - 2) / xx);
}

SelfTest::SelfTest(const Run& run) : active_(run.config.optim.lr == 0) {
  if (!active_) return;
  weights_ = hash_of(run.model->trained());
  if (run.directory) run.directory->each_step([this](const Metrics& metrics) { add_k3(metrics); });
  log_info("optim.lr is 0: self-test, nothing may change (selftest/* in the metrics)");
}

/// Of a warm start, or of a rollout without a spread, there is none.
void SelfTest::add_k3(const Metrics& metrics) {
  if (const double k3 = metrics.get("rollout_corr/k3_kl"); !std::isnan(k3)) k3_.push_back(k3);
}

void SelfTest::check(const Run& run, Metrics& metrics) {
  if (!active_) return;
  const bool here = hash_of(run.model->trained()) != weights_;  // each rank has parts of its own
  const bool changed = run.comm.reduce({double(here)}, Reduce::kMax)[0] > 0;
  if (changed) log_warning(str("step ", run.step, ": self-test: weights changed though optim.lr is 0"));
  metrics.set("selftest/weights_changed", changed);
  const size_t before = k3_.size();
  add_k3(parse_metrics(to_json_line(metrics)));  // to the digits that a resumed run finds
  if (k3_.size() == before) return;
  metrics.set("selftest/k3_kl_trend", trend(k3_));
}

}  // namespace mantissa
