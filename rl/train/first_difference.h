// Forensics of exact mode: where in the model rollout and training first give other bits for the same token.
#pragma once

#include <string>

#include "nn/model.h"
#include "rl/rollout/options.h"
#include "rl/train/logprobs.h"

namespace mantissa {

/// Runs sequence `sequence` of a packed micro-batch up to its scored token `token` (counted within the sequence) in
/// both forms with the weights of now: the whole micro-batch packed, as training does, and the sequence alone against a
/// paged cache, prompt first and then token by token, as a rollout does. Returns a clause for a message: the first op,
/// in the model's order, whose output differs for that token, with both values; or that none does, so that it was the
/// weights that changed since the rollout. Waits for the device after every op.
std::string first_difference(Exec& training, Exec& rollout, const Model& model, const TrainBatch& batch,
                             size_t sequence, int64_t token, const LogprobOptions& options,
                             const EnginePrecision& precision);

}  // namespace mantissa
