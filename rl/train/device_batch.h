// A packed micro-batch on the device. It is sent once and serves every pass over it: log-probs of the old and of the
// reference policy, then the update of each epoch.
//
// Shapes: T tokens, S sequences, N scored tokens (rl/types.h: TrainBatch).
#pragma once

#include <vector>

#include "core/tensor.h"
#include "nn/config.h"
#include "rl/algorithm/loss.h"
#include "rl/types.h"

namespace mantissa {

/// Sequences of a batch that go through the head and the loss together, and their scored tokens.
struct HeadPiece {
  int64_t first_sequence = 0, end_sequence = 0;
  int64_t first_token = 0, end_token = 0;
  Tensor response_offsets;  // [sequences + 1] int32, from 0
};

struct DeviceBatch {
  /// Sends what `batch` holds: one copy of all integers, one of all floats. A piece has at most `piece_tokens`, or one
  /// sequence that has more; all are one piece where that is 0.
  DeviceBatch(Backend& backend, const TrainBatch& batch, int64_t piece_tokens = 0);

  /// Fills token_keys from the batch that this was made of.
  void add_token_keys(Backend& backend, const TrainBatch& batch);
  /// Fills routes from the batch that this was made of, where they were recorded.
  void add_routes(Backend& backend, const TrainBatch& batch, const ModelConfig& model);
  /// What a loss reads of a piece: everything but logprobs, entropy and the numbers of the mini-batch.
  LossInputs loss_inputs(const HeadPiece& piece) const;

  Tensor ids, positions;      // [T] int32
  Tensor offsets;             // [S+1] int32
  Tensor scored, targets;     // [N] int32
  Tensor rollout_logprobs;    // [N] fp32, as all that follow
  Tensor old_logprobs;        // [N]; undefined until scored (Trainer::fill_old_logprobs)
  Tensor reference_logprobs;  // [N]; undefined where no KL term asks for them
  Tensor advantages, mask;    // [S]
  Tensor inverse_lengths;     // [S] 1 / number of scored tokens
  Tensor token_keys;          // [T,2] int32 prompt id and position, for dropout; undefined until asked for
  Tensor routes;              // [L,T,K] uint8 of the rollout (given_routes); undefined where it recorded none
  Tensor same_routes;         // [L,T] int32 of the forward behind old_logprobs (ops::route); undefined without one
  int64_t longest = 0;        // tokens of the longest sequence
  std::vector<HeadPiece> pieces;
};

}  // namespace mantissa
