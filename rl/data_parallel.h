// Rollouts shared out over ranks. Every rank holds all prompts and takes the same decisions; a rank samples and grades
// its own groups (a group stays on one rank), then all ranks get all samples. What follows (advantages, order,
// mini-batches, metrics of the rollout) is the same computation on the same data everywhere, so nothing else has to be
// agreed on. Only packed micro-batches differ again (rl/train/batcher.h).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/comm.h"
#include "rl/types.h"

namespace mantissa {

/// The groups, of `count`, that this rank samples: every size()-th, beginning with its own number. A fixed rule, since
/// on a GPU a sample's bits depend on which others run beside it.
std::vector<size_t> own_groups(size_t count, const Comm& comm);

/// Sends the samples of this rank's groups to all and fills in those of the others, whose samples are ignored.
void share_samples(std::span<RolloutGroup> groups, Comm& comm);

/// Sums, over ranks, of the metrics whose names begin with `prefix`: counters of what each rank did itself.
void sum_metrics(Metrics& metrics, const std::string& prefix, Comm& comm);

/// Seconds that ranks spend on work of their own between two meetings, and so how long the slowest lets the others
/// wait. idle_fraction: waited seconds of all ranks as a share of size() * `step_seconds`.
class IdleTime {
 public:
  void add(double seconds) { seconds_.push_back(seconds); }
  double fraction(Comm& comm, double step_seconds);

 private:
  std::vector<double> seconds_;
};

}  // namespace mantissa
