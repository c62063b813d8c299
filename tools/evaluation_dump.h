// The dump of an evaluation: one line a problem, written when its samples are graded. By it an evaluation that was
// killed carries on: the problems whose lines are there are not sampled again, unless an answer could not be graded.
// Then the last line of a problem counts.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "core/file.h"
#include "rl/evaluate.h"
#include "tools/common.h"

namespace mantissa {

using Results = std::map<int64_t, ProblemResult>;  // by row

/// Hash of what decides the samples and grades of a set, as 16 hexadecimal digits.
std::string settings_of(const ModelFlags& flags, RolloutConfig rollout, RewardConfig reward,
                        const std::vector<Prompt>& prompts, int64_t seed);

class EvaluationDump {
 public:
  /// Opens `path` for writing. `resume` keeps and reads the whole lines of an earlier evaluation; without it a file
  /// that holds anything is an error.
  EvaluationDump(const std::string& path, bool resume);

  /// What is known of a set; an error when other settings made it.
  Results take(const std::string& set, const std::string& settings) const;
  void write(const std::string& set, const std::string& settings, const RolloutGroup& group,
             const ProblemResult& result);
  const std::string& path() const { return path_; }

 private:
  struct Set {
    Results results;
    std::string settings, where;  // of its last line
  };
  void read();

  std::string path_;
  std::optional<GrowingFile> file_;
  std::map<std::string, Set> sets_;
};

}  // namespace mantissa
