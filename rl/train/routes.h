// Routes of a mixture of experts in rollout and training: which experts a token goes to is a choice, and where the two
// compute a little differently (precision.match: fast, peer) it can fall out differently near a tie. The rollout
// records its routes (TokenRoutes); here they are compared with training's, and under moe.replay training takes them.
#pragma once

#include <span>
#include <string>

#include "core/fields.h"
#include "core/kernels.h"
#include "nn/config.h"
#include "rl/types.h"

namespace mantissa {

/// Section `moe` of a config.
struct MoeConfig {
  std::string replay = "none";  // none, rollout
  void fields(Fields& f);
  /// Whether training takes the rollout's routes: in the log-probs of the old policy and in every update, whose weights
  /// have moved since; not in those of a reference model. Throws Error for a model whose routes cannot be recorded;
  /// under exact, where rollout and training choose the same, a notice and false.
  bool resolve(const ModelConfig& model, Match match, const std::string& path) const;
};

/// given[L,T,K] (ops::RouteExchange) of a batch whose routes were recorded, on the host: kNotGiven for the last token
/// of a sequence, which no rollout computes. Throws Error where they are not as many as the batch's tokens ask for, or
/// name experts that there are not.
std::vector<uint8_t> given_routes(const TrainBatch& batch, const ModelConfig& model);

/// Pairs of a token and a layer, and how many have the same set of experts in rollout and training.
struct RouteCounts {
  int64_t pairs = 0, same = 0;
  /// Those of the scored tokens of a batch; same[L,T] is what ops::route left of a forward of it.
  void add(const TrainBatch& batch, const Tensor& same);
};

}  // namespace mantissa
