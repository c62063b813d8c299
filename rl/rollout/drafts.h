// Drafts: what a sequence may go on with, guessed from earlier responses to the same prompt: those of earlier rollouts,
// and samples that have finished in this one. The decode step computes guessed tokens beside the next one, as rows of
// their own, and draws at each position what it would have drawn there in its turn; guesses before the first wrong one
// save a step each. Where a row's bits do not depend on the batch (exact), tokens and log-probs are the same bits as
// without. This is speculative decoding (arXiv 2211.17192) that looks guesses up instead of asking a second model.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "rl/types.h"

namespace mantissa {

class Drafts {
 public:
  /// Rows that a decode step may have with guessed tokens among them: on a GPU so many cost little more than a few,
  /// since the weights have to be read in any case.
  static constexpr int64_t kRows = 64;
  /// Most guesses of a sequence in a step.
  static constexpr int64_t kMost = 8;

  /// A new rollout. Of each prompt the last responses are kept, and of all prompts those asked for last, within bounds.
  void begin();
  void add(const Prompt& prompt, std::span<const int32_t> response);
  /// Up to `most` tokens that followed the last ones of prompt and response in the latest text that had them; none
  /// where no text had.
  std::vector<int32_t> propose(const Prompt& prompt, std::span<const int32_t> response, int64_t most);

 private:
  struct Place {
    uint32_t text, next;  // the token that followed
  };
  struct Past {
    std::deque<std::vector<int32_t>> texts;         // the prompt's last tokens and a response, the oldest first
    size_t indexed = 0;                             // texts that are in `followers`
    std::unordered_map<uint64_t, Place> followers;  // of a few tokens, by their hash
    int64_t used = 0;                               // the rollout that last asked
  };
  Past& past_of(const Prompt& prompt);

  std::unordered_map<uint64_t, Past> prompts_;  // by the hash of their tokens
  int64_t rollouts_ = 0, tokens_ = 0;
};

}  // namespace mantissa
