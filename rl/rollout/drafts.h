// Drafts: what a sequence may go on with, guessed from earlier responses to the same prompt: those of earlier rollouts,
// and samples that have finished in this one. The decode step computes guessed tokens beside the next one, as rows of
// their own, and draws at each position what it would have drawn there in its turn; guesses before the first wrong one
// save a step each. Where a row's bits do not depend on the batch (exact), tokens and log-probs are the same bits as
// without. This is speculative decoding (arXiv 2211.17192) that looks guesses up instead of asking a second model.
//
// How many guesses are worth their rows. A step of r rows takes a + b r seconds, of which a is for the weights and the
// launches, which rows share. With n sequences a token by itself costs a / n + b, and a guess that is right with
// probability p saves p of one for a row, b. So it pays where p (f / n + 1) > 1, f = a / b: the number of rows that
// cost as much as what they share. Both p and f are measured as rollouts go (f where decode steps are recorded and
// replayed, whose times are even).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "rl/types.h"

namespace mantissa {

/// f of the above, by least squares over the last few hundred steps.
class StepCost {
 public:
  void add(int64_t rows, double seconds);
  /// From kLeast to kMost; kLeast until steps of different sizes have been timed. It is about what a CPU has: times
  /// that say less, for a device reads its weights once for many rows, are those of other work on it.
  double shared_rows() const;

  static constexpr double kLeast = 16, kMost = 4096;

 private:
  double steps_ = 0, rows_ = 0, seconds_ = 0, rows_rows_ = 0, rows_seconds_ = 0;  // sums, the older the less they count
};

class Drafts {
 public:
  /// Most guesses of a sequence in a step.
  static constexpr int64_t kMost = 16;

  /// A new rollout. Of each prompt the last responses are kept, and of all prompts those asked for last, within bounds.
  void begin();
  void add(const Prompt& prompt, std::span<const int32_t> response);
  /// Up to `most` tokens that followed the place in earlier texts which has most of the last tokens of prompt and
  /// response before it, two at least; of equal places the latest. None where no text has them.
  std::vector<int32_t> propose(const Prompt& prompt, std::span<const int32_t> response, int64_t most);

  /// How many guesses of a sequence pay while `running` run, 0 to kMost.
  int64_t worth(int64_t running) const;
  /// Of the guesses of a sequence in a step so many were right.
  void learn(int64_t guessed, int64_t right);
  /// What a step took.
  void learn_cost(int64_t rows, double seconds) { cost_.add(rows, seconds); }

 private:
  struct Past {
    std::deque<std::vector<int32_t>> texts;  // the prompt's last tokens and a response, the oldest first
    size_t indexed = 0;                      // texts that are in what follows
    std::vector<int32_t> tokens;             // of texts, one after the other, each with a kEnd behind it
    std::vector<int32_t> earlier;            // of each token: the last one before it with the same hash; none: -1
    std::vector<int32_t> latest;             // by the hash of a token and the one before it
    int64_t used = 0;                        // the rollout that last asked
  };
  Past& past_of(const Prompt& prompt);
  static void index(Past& past);

  std::unordered_map<uint64_t, Past> prompts_;  // by the hash of their tokens
  int64_t rollouts_ = 0, tokens_ = 0;
  StepCost cost_;
  struct Guesses {
    double made = 8, right = 6;  // the older the less they count; at first most of them are taken to be right
  };
  std::array<Guesses, size_t(kMost)> guesses_;  // by place in the draft, of those behind none that was wrong
};

}  // namespace mantissa
