// Scheduler: decides what the runner computes next. Holds token ids, page ids and queues, never a tensor.
//
// A sequence is one sample of one prompt. It moves
//
//   waiting --prefill--> ready --a free row--> running --stop or limit--> finished
//      ^                   |                      |
//      +---- preempted: pages given back, tokens and log-probs kept
//
// Prefill first: waiting prompts are computed while rows and pages allow, otherwise all running sequences decode one
// token. One prefill serves the n samples of a prompt: they share its pages by reference count. A sequence about to
// write into a shared page (the partly filled last page of the prompt) gets its own copy; the last holder keeps the
// original. Ready sequences hold shared pages only, so a group larger than the batch is still prefilled once.
//
// When pages run out the youngest running sequence is preempted: it waits at its place in the order of arrival and is
// prefilled again with prompt and generated tokens, which are never drawn again. The oldest sequence is never preempted
// and fits alone (checked by the engine), so every step makes progress.
//
// With drafts (rl/rollout/drafts.h) a decode step has rows for tokens that are only guessed, where rows are free and
// guesses pay. They take pages that are free, and nobody is preempted for them.
#pragma once

#include <deque>
#include <span>
#include <vector>

#include "core/kernels.h"
#include "rl/rollout/drafts.h"
#include "rl/rollout/page_pool.h"
#include "rl/text/stop.h"
#include "rl/types.h"

namespace mantissa {

/// Pages that hold the keys and values of `tokens` tokens.
inline int64_t pages_of(int64_t tokens) {
  return (tokens + kAttentionTile - 1) / kAttentionTile;
}

struct Sequence {
  const Prompt* prompt = nullptr;
  int request = 0;  // index of the request it answers, and which of its samples
  int index = 0;
  int sample = 0;                // key of the random numbers
  int64_t limit = 0;             // most tokens to generate
  Completion completion;         // generated so far
  TokenRoutes::Bytes routes;     // of the response's tokens so far, where they are recorded
  std::vector<int32_t> pages;    // page i holds keys and values of tokens [i * kAttentionTile, (i+1) * kAttentionTile)
  int64_t cached = 0;            // tokens whose keys and values are in the pages
  int64_t arrival = 0;           // lower is older
  int64_t admission = 0;         // changes whenever a prefill gives it new pages; no two sequences share one
  Drafts::Past* past = nullptr;  // of its prompt, once asked for
  std::vector<int32_t> draft;    // guesses of the planned step, behind the last token
  int64_t draft_length = Drafts::kMost / 2;  // worth making in a step, by how the last ones did

  int64_t length() const { return int64_t(prompt->ids.size() + completion.ids.size()); }
  int32_t token(int64_t i) const {
    const int64_t p = int64_t(prompt->ids.size());
    if (i < p) return prompt->ids[size_t(i)];
    return i < length() ? completion.ids[size_t(i - p)] : draft[size_t(i - length())];
  }
};

/// One unit of work for the runner. Results come back one token and log-prob per row.
struct Plan {
  enum class Kind : uint8_t { kDone, kPrefill, kDecode };
  /// Tokens [0, length) of rows[first] are computed into its pages; rows [first, first + count) draw from the last one.
  struct Prefill {
    int first, count;
    int64_t length;
  };

  Kind kind = Kind::kDone;
  std::vector<Sequence*> rows;    // kDecode: a sequence as often as it has tokens to compute, one after the other
  std::vector<int32_t> ahead;     // kDecode: row i computes the token so many behind the first that is not cached
  int64_t keys = 0;               // kDecode: tokens of all its sequences
  std::vector<Prefill> prefills;  // kPrefill
  std::vector<int32_t> copy_from,
      copy_to;  // kDecode: pages to copy before anything is written; targets are distinct
};

class Scheduler {
 public:
  struct Limits {
    int64_t max_batch = 1;  // rows of a decode step: running sequences, and guessed tokens
    int64_t pages = 0;
    int64_t prefill_tokens = 0;  // of one pass (a longer prompt runs alone)
    /// After preemption compute generated tokens one by one as they first were, instead of in the prefill: for equal
    /// results where prefill and decode round differently.
    bool replay = false;
    Drafts* drafts = nullptr;  // where guesses come from and finished responses go
  };

  /// `stop` must outlive the scheduler.
  Scheduler(const Limits& limits, const StopRule& stop);

  /// Queues n samples of a prompt (at least one id). The caller guarantees that prompt + limit - 1 tokens fit the pool.
  void add(const Prompt& prompt, int request, int n, int first_sample, int64_t limit, int64_t policy_version);
  /// The next work; kDone when all sequences are finished. Valid until the following call.
  const Plan& next();
  /// Results of the last plan, in the order of its rows. `routes`: those of each token that it computed, one after the
  /// other and of one size each (a prefill has more tokens than rows); empty where they are not recorded.
  void accept(std::span<const int32_t> tokens, std::span<const float> logprobs, std::span<const uint8_t> routes = {});

  /// Free pages that newcomers leave to so many that run: growth for a quarter page each, against preempting at once.
  static int64_t reserve_of(int64_t running) { return (running + 3) / 4; }

  std::deque<Sequence>& sequences() { return sequences_; }
  const PagePool& pool() const { return pool_; }
  int64_t preemptions() const { return preemptions_; }
  int64_t finished() const { return finished_; }  // sequences
  int64_t drafted() const { return drafted_; }    // tokens, and how many of them were right
  int64_t accepted() const { return accepted_; }

 private:
  struct Group {  // waiting sequences with the same tokens, consecutive in sequences_
    int64_t first, count;
  };

  bool plan_prefill();
  void activate_ready();
  void plan_decode();
  void make_draft(Sequence& s, int64_t most);
  bool take(Sequence& s, int32_t token, float logprob);
  bool take_rows(Sequence& s, std::span<const int32_t> tokens, std::span<const float> logprobs,
                 std::span<const uint8_t> routes);
  void keep_routes(Sequence& s, int64_t position, std::span<const uint8_t> routes, int64_t size);
  void keep_prefilled_routes(const Plan::Prefill& prefill, std::span<const uint8_t> routes);
  bool needs_page(const Sequence& s) const;
  void make_room();
  void preempt(Sequence& s);
  void release_pages(Sequence& s);
  int64_t prefill_length(const Sequence& s) const;
  int64_t reserve() const { return reserve_of(int64_t(running_.size())); }

  Limits limits_;
  const StopRule& stop_;
  PagePool pool_;
  std::deque<Sequence> sequences_;  // all, by arrival; addresses are stable
  std::deque<Group> waiting_;       // by arrival
  std::deque<Sequence*> ready_;     // prefilled, without a row
  std::vector<Sequence*> running_;  // rows of the decode batch; order changes as rows are freed
  Plan plan_;
  int64_t admissions_ = 0, preemptions_ = 0, finished_ = 0, drafted_ = 0, accepted_ = 0;
};

}  // namespace mantissa
