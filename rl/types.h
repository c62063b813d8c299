// The records that stages hand to each other, in the order of the loop:
//
//   Prompt -> (engine) Completion -> (reward) RolloutGroup -> (advantage) same -> (batcher) TrainBatch -> trainer
//
// Example: prompt ids [5 9 2], two samples "7 <eos>" and "8": completions ids [7 0] finish kStop, [8] finish kLength;
// rollout_logprobs have 2 and 1 entries; the packed batch is ids [5 9 2 7 0 | 5 9 2 8], offsets [0 5 9]; scored
// positions (those whose next token is a response token) are 2 3 and 7, with targets 7 0 and 8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace mantissa {

struct Prompt {
  int64_t id = 0;  // row in the data file: key of the random numbers and of dumps
  std::vector<int32_t> ids;
  std::string text;                   // the prompt as tokenized
  std::string answer;                 // gold answer for the reward
  std::string data_source;            // what kind of row it is, by which rewards choose; may be empty
  std::string where;                  // file:line of the data, for messages
  std::string record;                 // the line of the data file, for rewards that read more of it
  std::string solution;               // response to imitate (sft), may be empty
  std::vector<int32_t> solution_ids;  // its tokens and the stop token
};

/// How a response ended: it sampled a stop token (which belongs to it), hit the limit, or completed a stop string.
enum class Finish : uint8_t { kStop, kLength, kStopString };

/// Which experts a rollout's tokens went to: token by token and layer by layer (of those that have experts) K bytes,
/// each below kNotGiven, in the order of their slots. A token that preemption made the rollout compute again keeps its
/// first routes, which are those that its successor was drawn by. Copies share the bytes. Null: nothing was recorded.
struct TokenRoutes {
  using Bytes = std::vector<uint8_t>;
  std::shared_ptr<const Bytes> prompt;    // one for all samples of a prompt
  std::shared_ptr<const Bytes> response;  // of all its tokens but the last, which no rollout computes
  bool recorded() const { return prompt && response; }
};

struct Completion {
  std::vector<int32_t> ids;
  std::vector<float> rollout_logprobs = {};  // mu: log-softmax(logits/T) of the sampled token before top-k/top-p
  Finish finish = Finish::kLength;
  int64_t policy_version = 0;  // optimizer steps taken by the weights that sampled it
  std::string text = {};       // decoded, stop token removed
  TokenRoutes routes = {};     // of a mixture of experts, where asked for (GenerateOptions::record_routes)
};

/// What became of a grade.
enum class GradeStatus : uint8_t {
  kParsed,    // both answers were read: the verdict is about their values
  kUnparsed,  // an answer was found, but it (or the gold) is no expression within bounds: only its text was compared
  kNoAnswer,  // the response holds no final answer
  kTimeout,   // the verifier took longer than timeout_s; of kind code without a command of your own, not by the answer
  kError,     // it could not be run, failed, or gave no number
};

/// Whether there is no grade: its reward of 0 says nothing of the answer, which has no part in advantages and loss.
inline bool is_failure(GradeStatus status) {
  return status == GradeStatus::kTimeout || status == GradeStatus::kError;
}

struct RolloutSample {
  Completion completion;
  double reward = 0.0;          // the sum, where there are several; after overlong handling
  double score = 0.0;           // the same before overlong handling
  std::vector<double> rewards;  // each named one by itself, in the order of names; NaN where it gave the row no grade
  bool correct = false;         // whether its answer is right (grading.h says by which of several rewards)
  double advantage = 0.0;
  std::string extracted;                         // the answer the reward read, for dumps
  std::string reason;                            // why it earned that, in a few words
  GradeStatus status = GradeStatus::kNoAnswer;   // of the reward: a failure where the sum is not known
  GradeStatus verdict = GradeStatus::kNoAnswer;  // of `correct`: a failure where nobody knows whether it is
};

struct RolloutGroup {
  Prompt prompt;
  std::vector<RolloutSample> samples;
};

/// One packed micro-batch, on the host. T tokens, S sequences, N scored tokens.
struct TrainBatch {
  std::vector<int32_t> ids;               // [T]
  std::vector<int32_t> positions;         // [T]
  std::vector<int32_t> offsets;           // [S+1]
  std::vector<int32_t> scored;            // [N] rows of ids whose next token is a response token
  std::vector<int32_t> targets;           // [N] that next token
  std::vector<int32_t> response_offsets;  // [S+1] bounds of each sequence's scored tokens in [N]
  std::vector<float> rollout_logprobs;    // [N] mu
  std::vector<float> old_logprobs;        // [N] pi_old; empty until scored
  std::vector<float> reference_logprobs;  // [N] the reference model's; empty where no KL term asks for them
  std::vector<float> advantages;          // [S]
  std::vector<int64_t> prompts;           // [S] Prompt::id, for messages
  std::vector<int32_t> samples;           // [S] which sample of its prompt
  std::vector<TokenRoutes> routes;        // [S] as far as they were recorded
  std::vector<float> loss_mask;           // [S] 0 for sequences left out of the loss (see loss_mask), else 1

  /// Tokens of the longest sequence.
  int64_t longest() const {
    int64_t most = 0;
    for (size_t s = 0; s + 1 < offsets.size(); ++s) most = std::max<int64_t>(most, offsets[s + 1] - offsets[s]);
    return most;
  }
};

/// Named numbers of one step, in the order they were set. Names are those users of verl know (docs/tour.md lists them).
class Metrics {
 public:
  void set(const std::string& name, double value) {
    for (auto& [known, old] : values_)
      if (known == name) {
        old = value;
        return;
      }
    values_.emplace_back(name, value);
  }
  /// NaN when not set.
  double get(const std::string& name) const {
    for (const auto& [known, value] : values_)
      if (known == name) return value;
    return std::numeric_limits<double>::quiet_NaN();
  }
  const std::vector<std::pair<std::string, double>>& values() const { return values_; }

 private:
  std::vector<std::pair<std::string, double>> values_;
};

}  // namespace mantissa
