// The line that a step leaves on the console: the few metrics that say whether a run is well, and when it will be done.
#pragma once

#include <string>

#include "rl/types.h"

namespace mantissa {

struct Progress {
  bool sft = false;
  int64_t step = 0, steps = 0;  // completed, and of the whole run
  double seconds_per_step = 0;  // mean of this process
  std::string notes = {};       // what is wrong, in a word or several
};

/// "step 3/100 | score 0.500 | len 24.1 | mismatch 1.0e-06 | ... | eta 00:12:34"; mismatch is rollout_corr/k3_kl.
std::string console_line(const Metrics& metrics, const Progress& progress);

}  // namespace mantissa
