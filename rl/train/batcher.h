// Batcher: completions -> packed micro-batches. A sequence is prompt + response; micro-batches hold whole sequences up
// to a token budget, balanced by cost. The packing depends only on lengths, so a resumed run packs the same way.
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
  int32_t sample = 0;  // which one of its prompt
  double advantage = 0.0;
  float loss_mask = 1.0f;  // 0: left out of the loss and of its denominators
};

/// Which of several processes packs, see core/comm.h.
struct Share {
  int rank = 0, ranks = 1;
};

/// A mini-batch: what one optimizer step sees, as packed micro-batches with the sums its loss divides by. There may be
/// no micro-batch at all, when none of its sequences has a loss: the step is taken all the same. Of several ranks each
/// has micro-batches of its own; the sums are those of all.
struct MiniBatch {
  std::vector<TrainBatch> micro;
  std::vector<DeviceBatch> device;  // the same on the device, once the trainer has sent them
  int64_t rounds = 0;               // most micro-batches of any rank: those with fewer join empty-handed
  int64_t sequences = 0;            // with loss_mask 1, and their scored tokens
  int64_t tokens = 0;
  int64_t forwarded = 0;  // those tokens that are packed
  int64_t idle = 0;       // sequences that are not packed
};

/// Which sequences are packed. kWithLoss leaves out those whose loss and gradient are zero by advantage 0 or mask 0;
/// they stay in `sequences` and `tokens`, so that the update is the same up to the order of its sums.
enum class Packed { kAll, kWithLoss };

/// Order of sequences for one pass over a rollout: a shuffle that depends on the stream alone.
void shuffle(std::vector<TrainSequence>& sequences, RandomStream& random);

/// Splits into mini-batches of `mini_batch_size` sequences (the last may be smaller), each packed under `budget` tokens
/// a micro-batch. A sequence longer than the budget gets a micro-batch of its own. Ranks, which all pass the same
/// sequences, get shares of equal cost (longest first, to the rank with the least so far).
std::vector<MiniBatch> make_mini_batches(std::span<const TrainSequence> sequences, int64_t mini_batch_size,
                                         int64_t budget, Share share = {}, Packed packed = Packed::kAll);

}  // namespace mantissa
