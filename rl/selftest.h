// Self-test with optim.lr = 0: nothing is learned, so whatever moves is a fault. The loop runs as always (rollout,
// scoring, backward, optimizer); after each step this looks at two things:
//
//   selftest/weights_changed  1 when a bit of the weights (masters or copies) differs from the start, else 0
//   selftest/k3_kl_trend      slope of rollout_corr/k3_kl against the step, over its standard error: the t
//                             value of a least-squares line through the steps so far, as metrics.jsonl has
//                             them, those before a resume included. About -2 to 2 is noise; a mismatch that
//                             grows without learning goes beyond.
#pragma once

#include "rl/run.h"

namespace mantissa {

/// Slope of y over its index divided by the slope's standard error. 0 for fewer than 4 values, and where the values are
/// equal or not finite; infinite for an exact line.
double trend(std::span<const double> values);

class SelfTest {
 public:
  /// Reads all weights, and what the steps before a resume have measured, when the learning rate is 0; else does
  /// nothing, here and below.
  explicit SelfTest(const Run& run);
  /// After a step: adds the two metrics, and says so when weights changed.
  void check(const Run& run, Metrics& metrics);

 private:
  void add_k3(const Metrics& metrics);

  bool active_ = false;
  uint64_t weights_ = 0;
  std::vector<double> k3_;
};

}  // namespace mantissa
