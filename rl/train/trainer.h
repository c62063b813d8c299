// Trainer: log-probs of packed batches by the training path, and optimizer steps. It knows no algorithm: the loss is a
// function it is given. One update =
//
//   for each micro-batch of this rank: forward (tape on) -> some sequences at a time: log-probs -> loss -> back to the
//   hidden states -> backward of the rest (scaled; fp32 gradients add up; in the last one the ranks begin to sum each
//   layer's when it is whole) -> optimizer: finite? unscale, clip, step : skip  ->  on a skip, replay to name the
//   first non-finite tensor
#pragma once

#include <functional>
#include <map>
#include <string>

#include "core/comm.h"
#include "nn/model.h"
#include "nn/optimizer.h"
#include "rl/algorithm/loss.h"
#include "rl/train/batcher.h"
#include "rl/train/logprobs.h"

namespace mantissa {

struct TrainerOptions {
  LogprobOptions logprobs;
  Recompute recompute = Recompute::kNone;
  double dropout = 0.0;  // of what an adapter reads, in updates; its masks depend on seed, update, layer and token
  uint64_t seed = 0;
  bool replay_routes = false;  // moe.replay: log-probs and updates take the rollout's routes
  bool overlap = true;         // gradients are summed over ranks beside the last backward, else after it: the same bits
};

struct UpdateReport {
  bool empty = false;  // every token was masked: nothing to learn from, no step was taken
  StepReport step;
  double loss = 0.0;
  std::map<std::string, double> stats;  // LossStats::metrics of the mini-batch
  std::string overflow;                 // the first non-finite tensor of a skipped step
};

/// Where the old_logprobs of an update come from: from fill_old_logprobs, or from the forward of the update itself,
/// which fills them in. Both are the same for the first update after a rollout, and the second saves a pass.
enum class OldLogprobs { kScored, kOwnForward };

class Trainer {
 public:
  /// The loss of some sequences of a mini-batch: shares add up.
  using Loss = std::function<LossOut(Tape&, const LossInputs&)>;

  /// Of several ranks each has its own micro-batches of a mini-batch; gradients and reports are those of all.
  Trainer(Exec& exec, Comm& comm, Model& model, Optimizer& optimizer, const TrainerOptions& options);

  /// Fills old_logprobs of every micro-batch with the current weights' log-probs of the scored tokens.
  void fill_old_logprobs(MiniBatch& batch);
  /// The current weights' log-probs [N] of one micro-batch, on the device, beside what it holds.
  Tensor logprobs(MiniBatch& batch, size_t micro);
  /// Takes part in logprobs() of other ranks, where weights in parts or shared experts make them need this one.
  void join_logprobs();
  /// Fills reference_logprobs with those of Model::reference.
  void fill_reference_logprobs(MiniBatch& batch);
  /// One optimizer step; none where every token of the mini-batch is masked (weight decay and Adam's momentum would
  /// move the weights without any evidence). A mini-batch without micro-batches has a gradient of zero, and its step
  /// moves weights by momentum and decay alone. Throws when too many steps in a row overflow (nn/optimizer.h).
  /// `before_step` sees the mini-batch when its old_logprobs are known, on the device alone, and the weights have not
  /// moved; it may throw. Without it old_logprobs come to the host as well.
  UpdateReport update(MiniBatch& batch, const Loss& loss, OldLogprobs old = OldLogprobs::kScored,
                      const std::function<void(const MiniBatch&)>& before_step = {});
  const TrainerOptions& options() const { return options_; }
  /// From the next update on. Every tier gives the same bits.
  void set_recompute(Recompute tier) { options_.recompute = tier; }
  Exec& exec() const { return exec_; }
  /// For tests: during the next update the first weight of this parameter is infinite.
  void inject_overflow(const std::string& parameter);

 private:
  using WholeFrom = std::function<void(int unit)>;  // as in ForwardContext
  /// A pass over micro-batches, which ranks may make together.
  struct Pass {
    bool reference = false, backward = false;
    WholeFrom whole_from = {};  // of the last backward
  };
  void pass(MiniBatch& mini, const Pass& how, const std::function<void(size_t, const WholeFrom&)>& micro_batch);
  ParamWindows* windows(bool reference) const { return (reference ? reference_windows_ : windows_).get(); }
  /// Whether ranks need each other in every pass.
  bool together() const { return windows_ || model_.decoder->shares_experts(); }
  std::vector<DeviceBatch>& send(MiniBatch& batch);
  void read_back(MiniBatch& batch, Tensor DeviceBatch::*on_device, std::vector<float> TrainBatch::*on_host);
  void fill(MiniBatch& batch, bool reference, Tensor DeviceBatch::*on_device, std::vector<float> TrainBatch::*on_host);
  /// Forward and backward.
  std::vector<LossOut> run_micro_batch(Tape& tape, const MiniBatch& mini, DeviceBatch& batch, const Loss& loss,
                                       OldLogprobs old, const WholeFrom& whole_from = {});
  LogprobOptions options_for(DeviceBatch& batch, bool measured);
  std::string find_overflow(MiniBatch& batch, const Loss& loss, OldLogprobs old, double loss_scale);

  void sum_over_ranks(UpdateReport& report, LossStats& stats);
  std::string first_of_ranks(const std::string& found);

  Exec& exec_;
  Comm& comm_;
  Model& model_;
  Optimizer& optimizer_;
  TrainerOptions options_;
  std::unique_ptr<ParamWindows> windows_, reference_windows_;  // null: weights are whole
  std::string inject_;
  std::vector<Tensor> expert_offsets_;  // of the micro-batch under way
  Tensor dropout_key_;                  // of the update that runs
};

}  // namespace mantissa
