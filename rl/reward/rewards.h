// Section `reward` of a config: one reward, or several by name whose weighted sum is what a response earns.
//
//   reward: {kind: math}                                    one
//
//   reward:                                                 several
//     answer: {kind: math, data_source: [gsm8k, math]}
//     tests: {kind: code, data_source: leetcode}
//     layout: {kind: format, weight: 0.1}
//
// A row of the data says what it is by its key data_source. A reward with a list of sources grades the rows of these
// alone, one without a list grades all. Each of several is logged as reward/<name>/mean, the mean over those responses
// that it graded. Which of them say whether a response is correct: grading.h.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "rl/reward/reward.h"
#include "rl/types.h"

namespace mantissa {

struct NamedReward {
  RewardConfig reward;
  double weight = 1;
  std::vector<std::string> data_source;  // of the rows that it grades; empty: all

  bool grades(const Prompt& prompt) const { return grades(prompt.data_source); }
  bool grades(const std::string& source) const;
};

struct RewardsConfig {
  RewardConfig one;                               // where none has a name
  std::map<std::string, NamedReward> named = {};  // in the order of their names, which are letters, digits, _ and -

  /// Reads the keys of NAME where there are some, else those of one reward.
  void fields(Fields& f);
  void validate() const;
  /// RewardConfig::misplaced of all, those of NAME as "reward.NAME.batch".
  std::vector<std::string> misplaced() const;
  /// The first reward_notice of its rewards.
  std::string notice() const;
  /// Calls f(reward) for each of them.
  template <class F>
  void each(F&& f) const {
    if (named.empty()) f(one);
    for (const auto& [name, r] : named) f(r.reward);
  }
  /// RewardConfig::log_file of all.
  void set_log_file(const std::string& path);
  /// Throws Error where a reward that grades such a row needs a gold answer and it is blank; `where` names its line.
  void check_gold(const std::string& data_source, std::string_view gold, const std::string& where) const;
  /// Throws Error where no reward grades such a row; `where` names its line.
  void check_source(const std::string& data_source, const std::string& where) const;
  /// Gives a notice where a value of reward.NAME.data_source is none of `sources`, those of all rows.
  void note_sources(const std::set<std::string>& sources) const;
};

}  // namespace mantissa
