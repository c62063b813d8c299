// Rewards: was the answer of a response right? One pure function, bounded in work, safe on any number of threads:
//
//   response -> (math/extract) final answer -> (math/parse) expression -> (math/compare) verdict with its reason
//
// or, for a user's own verifier, by a program (command.h) or a Python function (python.h).
//
// Invariant: an answer that could not be read, or whose verifier timed out or failed, never passes for a wrong one.
// Every grade carries a status; the loop counts them apart, and trains on no answer whose grade failed (grading.h).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/fields.h"
#include "rl/types.h"

namespace mantissa {

/// Larger rewards overflow the floats of advantages.
inline constexpr double kMaxReward = 1e37;

struct RewardConfig {
  std::string kind = "math";    // math, exact, format, command, code, python
  std::string format = "free";  // or the form a whole response must have: sanity, octothinker
  bool boxed_only = false;      // answers count only inside \boxed{}
  std::string command = {};     // of kinds command and code
  int64_t batch = 1;            // of kind command: answers that one process grades
  std::string path = {};        // of kind python: FILE.py[:FUNCTION]
  std::string python = "python3";
  int64_t workers = 0;  // of kind python; 0: one a core
  double timeout_s = 10;
  int64_t memory_mb = 1024;
  int64_t max_failed_steps = 3;  // steps in a row on which every grade may fail; 0: any number
  /// Where the standard error of a user's verifier goes; empty: to ours. No key: a run keeps it in its directory.
  std::string log_file = {};
  void fields(Fields& f);
  /// The keys that are set and belong to other kinds, which validate() refuses: "reward.batch".
  std::vector<std::string> misplaced() const;
  /// Throws Error where a key is missing that the kind needs, or is set that belongs to other kinds.
  void validate() const;
};

/// A response with what it is graded by: the gold answer, and the whole record as JSON (empty: there is none).
struct Answer {
  std::string_view response, gold, record = {};
};

struct Grade {
  using Status = GradeStatus;
  bool correct = false;
  double reward = 0;  // 1 for correct, 0 otherwise; a program gives its own
  Status status = Status::kNoAnswer;
  std::string extracted = {};  // the final answer as written in the response, "" when there is none
  std::string reason = {};     // why, in a few words
};

inline constexpr Grade::Status kGradeStatuses[] = {Grade::Status::kParsed, Grade::Status::kUnparsed,
                                                   Grade::Status::kNoAnswer, Grade::Status::kTimeout,
                                                   Grade::Status::kError};

/// "parsed", "unparsed", "no_answer", "timeout", "error": the names of the counters.
const char* status_name(Grade::Status status);

/// What the user should know before a run: what the sandbox of kind code cannot have here; "" for nothing.
std::string reward_notice(const RewardConfig& config);

/// Whether grades depend on the gold, so that an empty one can only be a mistake.
bool reads_gold(const RewardConfig& config);
/// Throws Error where they do and the gold is blank; `where` names its line.
void check_gold(const RewardConfig& config, std::string_view gold, const std::string& where);

/// Grades a response against the gold answer. `gold` may be a bare answer or a text with its own \boxed{} or ####.
///
///   math     the final answer equals the gold in value (see math/compare.h)
///   exact    the final answer, or the whole response where none is marked, is the gold's text but for blanks around it
///   format   a final answer is there, whatever it says
///   command  `command` reads {"response": ..., "gold": ..., "record": {...}} as one line of JSON, the record being the
///            line of data.files, and prints a number, the reward, followed by a blank or the end of its line; 0.5 and
///            more counts as correct. What follows on the line is kept as the extracted answer. Another exit code than
///            0 is an error, not a wrong answer, and so is a number beyond kMaxReward
///   code     the last fenced block of the response (```) is Python, the gold its tests: correct where all pass, see
///            code.h; one that takes too long or too much memory is wrong, while tests that do, or end their process,
///            are a timeout or an error. With a `command` of your own, block, line feed and gold go to it instead, for
///            another language; exit code 0 is correct then, so that code which ends before its tests passes, and its
///            timeout is no wrong answer
///
/// The forms, where kinds math and exact look for an answer (another response has none, whatever it says):
///
///   free         anywhere, as math/extract.h says
///   sanity       exactly one </think>; in a box behind it
///   octothinker  "</think> <answer>" and then "</answer>"; in a box between them
///
/// Never throws on any text. Thread-safe. Work is bounded by about the length of the response, and by timeout_s and
/// memory_mb for a program. Kind python is not among these: grade_answers (grading.h) has it.
Grade grade(const RewardConfig& config, std::string_view response, std::string_view gold, std::string_view record = {});
/// Kind command, all answers by one process: it reads a line for each, and has to print as many lines in their order;
/// it may take timeout_s for each. Where it fails, all of them are errors.
std::vector<Grade> grade_by_command(const RewardConfig& config, std::span<const Answer> answers);

/// What a program or function gave as a grade: an error where the reward is not finite or beyond kMaxReward, which
/// quotes it as `written` and says `by` what it was given.
Grade grade_of(double reward, std::string_view written, std::string_view extracted, std::string_view by);

}  // namespace mantissa
