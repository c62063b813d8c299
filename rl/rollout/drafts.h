// Drafts: what a sequence may go on with, guessed from earlier responses to the same prompt: those of earlier rollouts,
// and samples that have finished in this one. The decode step computes guessed tokens beside the next one, as rows of
// their own, and draws at each position what it would have drawn there in its turn; guesses before the first wrong one
// save a step each. Where a row's bits do not depend on the batch (exact), tokens and log-probs are the same bits as
// without. This is speculative decoding (arXiv 2211.17192) that looks guesses up instead of asking a second model.
//
// How many guesses are worth their rows. A step of r rows whose sequences have K keys in all takes T(r, K) seconds; of
// k guesses a sequence the i-th helps with probability p_i, that of all up to it being right. So n sequences get
// n (1 + p_1 + ... + p_k) tokens in T(n (1 + k), K), and k is what makes most of them a second. T and p are measured as
// rollouts go (T where decode steps are recorded and replayed, and so take even times). The first step of a rollout has
// no guesses, and now and then one does without, or where they do not seem to pay, tries some.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "rl/types.h"

namespace mantissa {

/// T of the above: shared + row * r + key * K, by least squares over the last few dozen steps. A coefficient that they
/// say nothing of stays as it was.
class StepCost {
 public:
  void add(int64_t rows, int64_t keys, double seconds);
  /// Before a step was seen in units of a row, where 16 cost what rows share (about what a CPU has).
  double of(int64_t rows, int64_t keys) const;
  bool timed() const { return timed_; }

 private:
  static constexpr double kRowUnit = 64, kKeyUnit = 65536;  // in which rows and keys are numbers of one size
  using Vector = std::array<double, 3>;                     // for the three coefficients
  static Vector features(int64_t rows, int64_t keys);

  bool timed_ = false;
  Vector coefficients_ = {16, kRowUnit, 0};
  std::array<Vector, 3> products_{};  // of features, and of features and seconds: sums, the older the less they count
  Vector seconds_{};
};

class Drafts {
 public:
  /// Most guesses of a sequence in a step.
  static constexpr int64_t kMost = 16;

  /// Earlier responses to a prompt.
  struct Past;

  /// `rehearsed`: of a rehearsal (core/rehearsal.h), whose tokens are all 0. There are then as many guesses as may be,
  /// whatever earlier responses were, and all are right.
  explicit Drafts(bool rehearsed = false);
  ~Drafts();
  /// A new rollout. Of each prompt the last responses are kept, and of all prompts those asked for last, within bounds.
  void begin();
  /// Those to this prompt; good until the next rollout.
  Past& of(const Prompt& prompt);
  void add(const Prompt& prompt, std::span<const int32_t> response);
  /// Up to `most` tokens that followed the place in earlier texts which has most of the last tokens of prompt and
  /// response before it, two at least; of equal places the latest. None where no text has them.
  std::vector<int32_t> propose(Past& past, const Prompt& prompt, std::span<const int32_t> response, int64_t most);

  /// How many guesses of a sequence pay while `running` run that have so many keys in all, 0 to kMost.
  int64_t worth(int64_t running, int64_t keys) const;
  /// How many to make in the next step: in the first of a rollout none, then what pays; where steps are timed, now and
  /// then none, or one where none does.
  int64_t choose(int64_t running, int64_t keys);
  /// Of the guesses of a sequence in a step so many were right.
  void learn(int64_t guessed, int64_t right);
  /// What a step took that had so many rows, of sequences with so many keys in all.
  void learn_cost(int64_t rows, int64_t keys, double seconds) { cost_.add(rows, keys, seconds); }

 private:
  bool rehearsed_;
  std::unordered_map<uint64_t, Past> prompts_;  // by the hash of their tokens
  int64_t rollouts_ = 0, tokens_ = 0, choices_ = 0;
  StepCost cost_;
  struct Guesses {
    double made = 8, right = 6;  // the older the less they count; at first most of them are taken to be right
  };
  std::array<Guesses, size_t(kMost)> guesses_;  // by place in the draft, of those behind none that was wrong
};

}  // namespace mantissa
