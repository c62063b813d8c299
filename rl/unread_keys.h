// Keys that a run does not read. Nothing that was set is ignored in silence: a value other than the default is either
// refused, where it asks for something that such a run does not have, or named in a notice, where it only shapes what
// another key switches off, so that one override can do that (algorithm.correction=none over a config that sets
// correction_high).
//
// Left alone is precision.rollout where it is precision.train: a config becomes its BF16 twin by overriding both.
#pragma once

#include <string>
#include <vector>

#include "rl/config.h"
#include "rl/config_keys.h"

namespace mantissa {

/// Where a run computes: what became of precision.match, how many ranks share it, whether they are CPUs.
struct RunPlace {
  Match match = Match::kFast;
  int ranks = 1;
  bool cpu = false;
};

/// Throws Error for the first key that asks for what the run does not have: the key, its default, why, the value.
void refuse_unread_keys(const RunConfig& config);
/// Notices of the other keys that are set and not read, a line for each cause, and of a learning rate that the warm-up
/// is too long to reach.
std::vector<std::string> unread_keys(const RunConfig& config, const RunPlace& place);

/// config_keys, but those that are refused have their defaults, those that an adapter's directory replaces, and numbers
/// of a loss scale that there is not: what a run is like, also where a version that refused less let them stand.
std::vector<ConfigKey> effective_keys(const RunConfig& config);

}  // namespace mantissa
