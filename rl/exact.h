// Exact mode in the loop: rollout and training give a token the same log-prob, bit for bit, so mu stands for pi_old in
// every mini-batch and epoch and the scoring pass is left out. What is left out is checked instead:
//
//   the first update's own forward is compared with mu in full, before its optimizer step: it costs nothing. Where it
//   forwards nothing (no sequence has an advantage; momentum moves the weights all the same), the first mini-batch that
//   forwards something is re-scored in its place;
//   one micro-batch of the others, drawn by the seed, is re-scored before the first update (exact.check: all: each)
//
// A token that differs ends the run with an error that gives its position, both values and the first op whose outputs
// differ; under precision.on_difference: warn it is reported instead. rollout_corr/* are computed from the log-probs
// that were forwarded again, never from mu itself.
#pragma once

#include <functional>
#include <string>

#include "core/fields.h"
#include "core/kernels.h"
#include "rl/train/mismatch.h"
#include "rl/train/trainer.h"

namespace mantissa {

/// Section `exact` of a config.
struct ExactConfig {
  std::string check = "sample";  // sample, all
  void fields(Fields& f);
};

/// Tokens whose log-prob by the training path was compared with mu.
struct ExactCounts {
  int64_t checked = 0, differing = 0;
};

class ExactCheck {
 public:
  struct Options {
    bool all = false;   // of exact.check
    bool stop = true;   // of precision.on_difference
    uint64_t seed = 0;  // of the run; the draw depends on it and on the step
    int64_t step = 0;   // counted from 1, for messages
    /// A clause that says where in the model a token's two forms part (see first_difference); may be empty.
    std::function<std::string(const TrainBatch& batch, size_t sequence, int64_t token)> locate;
  };

  ExactCheck(Trainer& trainer, std::vector<MiniBatch>& batches, Options options)
      : trainer_(trainer), batches_(batches), options_(std::move(options)) {}

  /// Makes mu the old log-probs of every micro-batch, and re-scores those that are to be checked. Throws Error for a
  /// token that differs, as check_forward does.
  void prepare();
  /// Compares the forward of the first update with mu, both on the device: call before its optimizer step, in one wait
  /// for all micro-batches. One that overflowed is left out,
  /// since its step will be skipped: then call it again with the log-probs that were scored in its place. The first
  /// call that finds something to compare counts.
  void check_forward(const MiniBatch& mini);

  const ExactCounts& counts() const { return counts_; }
  /// mu and the log-probs that were compared with it.
  const LogprobSides& sides() const { return sides_; }

 private:
  /// Log-probs of a micro-batch by the training path.
  struct Scored {
    const TrainBatch& batch;
    Tensor logprobs, mu;  // [N] on the device
  };

  std::vector<Difference> compare(std::span<const Scored> scored) const;
  void take(const Scored& scored, const Difference& difference, const char* where);
  [[nodiscard]] std::string describe(const Scored& scored, const Difference& difference, float logprob,
                                     const char* where) const;

  Trainer& trainer_;
  std::vector<MiniBatch>& batches_;
  Options options_;
  bool forward_checked_ = false;
  ExactCounts counts_;
  LogprobSides sides_;
};

/// 48 bits that change when an id or a bit of a log-prob does, of all responses in order and of those before them
/// (`digest`): as an integer it survives a double and JSON.
uint64_t rollout_digest(std::span<const RolloutGroup> groups, uint64_t digest = 0);

}  // namespace mantissa
