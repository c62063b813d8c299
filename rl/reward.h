// Rewards: was the answer of a response right? One pure function, bounded in work, safe on any number of
// threads:
//
//   response -> (math_extract) final answer -> (math_parse) expression -> (math_compare) verdict with its
//   reason
//
// Invariant: an answer that could not be read never passes for a wrong one. Every grade carries a status, and
// the loop counts them apart.
#pragma once

#include <string>
#include <string_view>

#include "core/fields.h"

namespace mantissa {

struct RewardConfig {
  std::string kind = "math";  // math, exact, format
  bool boxed_only = false;    // answers count only inside \boxed{}
  void fields(Fields& f);
};

struct Grade {
  enum class Status {
    kParsed,    // both answers were read: the verdict is about their values
    kUnparsed,  // an answer was found, but it (or the gold) is no expression within bounds; only its text was
                // compared
    kNoAnswer,  // the response holds no final answer
  };
  bool correct = false;
  Status status = Status::kNoAnswer;
  std::string extracted;  // the final answer as written in the response, "" when there is none
  std::string reason;     // why, in a few words
};

/// "parsed", "unparsed", "no_answer": the names of the counters.
const char* status_name(Grade::Status status);

/// Grades a response against the gold answer. `gold` may be a bare answer or a text with its own \boxed{} or
/// ####.
///   math    the final answer equals the gold in value (see math_compare.h)
///   exact   the final answer, or the whole response where none is marked, is the gold's text, blanks around
///   it ignored format  a final answer is there, whatever it says
/// Never throws on any text. Thread-safe. Work is bounded by about the length of the response.
Grade grade(const RewardConfig& config, std::string_view response, std::string_view gold);

/// 1 for correct, 0 otherwise.
double reward_of(const Grade& grade);

}  // namespace mantissa
