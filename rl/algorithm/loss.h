// What goes in and out of a loss: tensors of a micro-batch, its share of the loss, and stats that add up over the
// micro-batches of a mini-batch.
//
// Shapes: S sequences, N scored tokens, packed; sequence i owns response_offsets[i] .. response_offsets[i+1].
#pragma once

#include <map>
#include <string>
#include <vector>

#include "autograd/tape.h"

namespace mantissa {

/// One micro-batch. All floating tensors have the type of logprobs (fp32; fp64 in gradient checks).
struct LossInputs {
  Var logprobs, entropy;                  // [N]
  Tensor old_logprobs, rollout_logprobs;  // [N]; not read by sft_loss
  Tensor reference_logprobs;              // [N], read only when kl_coef > 0
  Tensor advantages;                      // [S]; not read by sft_loss
  Tensor mask;                            // [S] 1, or 0 for sequences left out of the loss
  Tensor inverse_lengths;                 // [S] 1 / number of scored tokens
  Tensor response_offsets;                // [S+1] int32
  /// Sequences with mask 1 and their tokens in the whole mini-batch, over micro-batches and ranks. 0 where everything
  /// is masked: the loss is 0 then. Negative: not set, which is an error.
  double sequences = -1, tokens = -1;
  /// Those of the tokens that went through a forward pass: all but those of sequences that were left out for having
  /// neither loss nor gradient (rl/train/batcher.h). Stats that a forward gives are means over these.
  double forwarded = -1;
  /// Of seq_mean_token_sum_norm: loss_norm_constant, or rollout.max_new_tokens when that is 0.
  double norm_constant = 0;
};

/// A metric in parts: the micro-batches' sum / denominator add up to the mini-batch's value.
struct LossStat {
  std::string name;
  Tensor sum;  // [1], fp32 or fp64
  double denominator = 1;
};

struct LossOut {
  Var loss;  // [1]; this micro-batch's share: shares add up to the loss of the mini-batch
  std::vector<LossStat> stats;
};

/// Sums the stats of a mini-batch's micro-batches (reads them from the device: after backward, not before).
class LossStats {
 public:
  void add(const LossOut& out);
  /// Parts so far, by name; sums of them over ranks are the whole.
  std::map<std::string, double>& parts() { return parts_; }
  /// The metrics: the parts, with mean_square replaced by rollout_corr/rollout_is_std and
  /// rollout_corr/rollout_is_eff_sample_size = mean^2 / mean_square, the share of tokens that still count.
  std::map<std::string, double> metrics() const;

 private:
  std::map<std::string, double> parts_;
};

}  // namespace mantissa
