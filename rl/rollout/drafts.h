// Drafts: what a sequence may go on with, guessed from earlier responses to the same prompt: those of earlier rollouts,
// and samples that have finished in this one. The decode step computes guessed tokens beside the next one, as rows of
// their own, and draws at each position what it would have drawn there in its turn; guesses before the first wrong one
// save a step each. Where a row's bits do not depend on the batch (exact), tokens and log-probs are the same bits as
// without. This is speculative decoding (arXiv 2211.17192) that looks guesses up instead of asking a second model.
//
// How many guesses are worth their rows. A step of n sequences takes T seconds and each guess c more; of k guesses a
// sequence the i-th helps with probability p_i, that of all up to it being right. So n (1 + p_1 + ... + p_k) tokens
// come in T + c n k seconds, and k is what makes most of them a second. c is much less than T / n where sequences are
// long: a guess reads the keys with the row before it. T, c and p are measured as rollouts go (times where decode steps
// are recorded and replayed, and so are even). T grows with the responses, so it is that of the last few steps without
// guesses, of which there is one now and then, and the first of each rollout; and where guesses do not seem to pay,
// some are made now and then.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "rl/types.h"

namespace mantissa {

/// T and c of the above.
class StepCost {
 public:
  void add(int64_t running, int64_t guesses, double seconds);
  /// T, of the last few steps without guesses; before there was one, in units of a row, where 16 cost what rows share
  /// (about what a CPU has).
  double step(int64_t running) const;
  /// c, of the last few steps with guesses, as far as they took longer than T; before there was one, what a row costs.
  double guess(int64_t running) const;
  bool timed() const { return steps_ > 0; }
  int64_t with_guesses() const { return with_guesses_; }

 private:
  double steps_ = 0, seconds_ = 0;          // sums, the older the less they count
  double guesses_ = 0, guess_seconds_ = 0;  // likewise
  int64_t with_guesses_ = 0;
};

class Drafts {
 public:
  /// Most guesses of a sequence in a step.
  static constexpr int64_t kMost = 16;

  /// Earlier responses to a prompt.
  struct Past;

  Drafts();
  ~Drafts();
  /// A new rollout. Of each prompt the last responses are kept, and of all prompts those asked for last, within bounds.
  void begin();
  /// Those to this prompt; good until the next rollout.
  Past& of(const Prompt& prompt);
  void add(const Prompt& prompt, std::span<const int32_t> response);
  /// Up to `most` tokens that followed the place in earlier texts which has most of the last tokens of prompt and
  /// response before it, two at least; of equal places the latest. None where no text has them.
  std::vector<int32_t> propose(Past& past, const Prompt& prompt, std::span<const int32_t> response, int64_t most);

  /// How many guesses of a sequence pay while `running` run, 0 to kMost.
  int64_t worth(int64_t running) const;
  /// How many to make in the next step: in the first of a rollout none, then what pays; where steps are timed, now and
  /// then none, or one where none does.
  int64_t choose(int64_t running);
  /// Of the guesses of a sequence in a step so many were right.
  void learn(int64_t guessed, int64_t right);
  /// What a step took, of so many sequences with so many guesses in all.
  void learn_cost(int64_t running, int64_t guesses, double seconds) { cost_.add(running, guesses, seconds); }

 private:
  std::unordered_map<uint64_t, Past> prompts_;  // by the hash of their tokens
  int64_t rollouts_ = 0, tokens_ = 0, choices_ = 0;
  StepCost cost_;
  struct Guesses {
    double made = 8, right = 6;  // the older the less they count; at first most of them are taken to be right
  };
  std::array<Guesses, size_t(kMost)> guesses_;  // by place in the draft, of those behind none that was wrong
};

}  // namespace mantissa
