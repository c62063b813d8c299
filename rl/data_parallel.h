// Rollouts shared out over ranks. Every rank holds all prompts and takes the same decisions; a rank samples and grades
// some of the groups (a group stays on one rank), then all ranks get all samples. What follows (advantages, order,
// mini-batches, metrics of the rollout) is the same computation on the same data everywhere, so nothing else has to be
// agreed on. Only packed micro-batches differ again (rl/train/batcher.h).
#pragma once

#include <chrono>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "core/comm.h"
#include "rl/rollout/engine.h"
#include "rl/types.h"

namespace mantissa {

/// Samples `n` responses to the prompt of each group that falls to this rank. The other groups stay without. All ranks
/// call it, those without a group too: the engine may need them (Engine::gather_by_unit).
/// Where a sample's bits depend on those beside it, a fixed rule says which: every size()-th, beginning with the rank's
/// number. With an exact engine a rank takes the next group when it has room: as many samples at once as come to each
/// rank (and fit its batch), so that long answers of one rank leave the groups that are not begun to the others.
void sample_own(Engine& engine, std::span<RolloutGroup> groups, int n, const GenerateOptions& options, Comm& comm);

/// Sends the samples of the groups that have some here to all ranks, and fills in those of the other groups. Throws
/// where not exactly one rank has samples of a group.
void share_samples(std::span<RolloutGroup> groups, Comm& comm);

/// Adds counters of what each rank did itself, over ranks, to the metrics of the same names.
void add_counters(Metrics& metrics, const Metrics& own, Comm& comm);

/// Every rank's values, in order of ranks, on every rank.
template <class T>
void concatenate(std::vector<T>& values, Comm& comm) {
  if (comm.size() == 1) return;
  const std::string_view own(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  const std::vector<std::string> all = comm.gather(own);
  values.clear();
  for (const std::string& bytes : all) {
    const size_t begin = values.size();
    values.resize(begin + bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data() + begin, bytes.data(), bytes.size());
  }
}

/// Time that ranks spend on work of their own between two meetings, and so how long the slowest lets the others wait.
class IdleTime {
 public:
  void start() { start_ = Clock::now(); }
  /// Ends what start() began: from here on this rank may wait for others.
  void meet() { seconds_.push_back(std::chrono::duration<double>(Clock::now() - start_).count()); }
  /// Seconds waited by all ranks, as a share of size() * `step_seconds`; begins anew.
  double fraction(Comm& comm, double step_seconds);

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_;
  std::vector<double> seconds_;
};

}  // namespace mantissa
