// A user's own verifier as a Python function: reward.kind python. Worker processes import its file once and stay;
// answers go to them over pipes, many at a time, with the whole record they belong to.
//
//   def reward(response, record):           # record: the line of data.files, as a dict
//       return 1.0 if record["answer"] in response else 0.0      # a number, or (number, the answer that was read)
//
// With `reward.batch = True` behind it the function gets lists of both and returns a list.
//
// Invariant: an answer whose function raised, took longer than timeout_s, returned no finite number or took its worker
// with it never passes for a wrong one: it is an error or a timeout (Grade::Status), and a new worker takes over.
#pragma once

#include <span>
#include <vector>

#include "rl/reward/reward.h"

namespace mantissa {

/// Grades by the function that config.path names; an answer without a record has {"answer": gold}. The workers start at
/// the first call and stay until the program ends; they are the same for equal configs. Throws Error where Python or
/// the function cannot be had (no such file, it does not import, it has no such function), with what Python said.
/// Thread-safe; one call at a time runs.
std::vector<Grade> grade_by_python(const RewardConfig& config, std::span<const Answer> answers);
/// Starts the workers, so that what is wrong with them is said before anything else takes time.
void start_python_workers(const RewardConfig& config);

}  // namespace mantissa
