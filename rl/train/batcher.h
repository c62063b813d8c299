// Batcher: completions -> packed micro-batches. A sequence is prompt + response; micro-batches hold whole sequences up
// to a token budget, balanced by cost. The packing depends only on lengths, so a resumed run packs alike.
#pragma once

#include <span>
#include <vector>

#include "core/random.h"
#include "rl/train/device_batch.h"
#include "rl/types.h"

namespace mantissa {

/// One sequence to train on. Pointers stay valid while its group does.
struct TrainSequence {
  const Prompt* prompt = nullptr;
  const Completion* completion = nullptr;
  double advantage = 0.0;
  float loss_mask = 1.0f;  // 0: left out of the loss and of its denominators
};

/// Which of several processes packs, see core/comm.h.
struct Share {
  int rank = 0, ranks = 1;
};

/// A mini-batch: what one optimizer step sees, as packed micro-batches with the sums its loss divides by. Of several
/// ranks each has micro-batches of its own; the sums are those of all.
struct MiniBatch {
  std::vector<TrainBatch> micro;
  std::vector<DeviceBatch> device;  // the same on the device, once the trainer has sent them
  int64_t rounds = 0;               // most micro-batches of any rank: those with fewer join empty-handed
  int64_t sequences = 0;            // with loss_mask 1, and their scored tokens
  int64_t tokens = 0;
};

/// Order of sequences for one pass over a rollout: a shuffle that depends on the stream alone.
void shuffle(std::vector<TrainSequence>& sequences, RandomStream& random);

/// Splits into mini-batches of `mini_batch_size` sequences (the last may be smaller), each packed under `budget` tokens
/// a micro-batch. A sequence longer than the budget gets a micro-batch of its own. Ranks, which all pass the same
/// sequences, get shares of equal cost (longest first, to the rank with the least so far).
std::vector<MiniBatch> make_mini_batches(std::span<const TrainSequence> sequences, int64_t mini_batch_size,
                                         int64_t budget, Share share = {});

}  // namespace mantissa
