// A packed micro-batch on the device. It is sent once and serves every pass over it: log-probs of the old and of the
// reference policy, then the update of each epoch.
//
// Shapes: T tokens, S sequences, N scored tokens (rl/types.h: TrainBatch).
#pragma once

#include "core/tensor.h"
#include "rl/algorithm/loss.h"
#include "rl/types.h"

namespace mantissa {

struct DeviceBatch {
  /// Sends what `batch` holds: one copy of all integers, one of all floats.
  DeviceBatch(Backend& backend, const TrainBatch& batch);

  /// Fills token_keys from the batch that this was made of.
  void add_token_keys(Backend& backend, const TrainBatch& batch);
  /// What a loss reads of it: everything but logprobs, entropy and the numbers of the mini-batch.
  LossInputs loss_inputs() const;

  Tensor ids, positions;      // [T] int32
  Tensor offsets;             // [S+1] int32
  Tensor scored, targets;     // [N] int32
  Tensor response_offsets;    // [S+1] int32
  Tensor rollout_logprobs;    // [N] fp32, as all that follow
  Tensor old_logprobs;        // [N]; undefined until scored (Trainer::fill_old_logprobs)
  Tensor reference_logprobs;  // [N]; undefined where no KL term asks for them
  Tensor advantages, mask;    // [S]
  Tensor inverse_lengths;     // [S] 1 / number of scored tokens
  Tensor token_keys;          // [T,2] int32 prompt id and position, for dropout; undefined until asked for
  int64_t longest = 0;        // tokens of the longest sequence
};

}  // namespace mantissa
