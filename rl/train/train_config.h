// TrainConfig: how many steps a run takes, of what, and how its batches are computed. The section `train` of a config.
#pragma once

#include <string>
#include <vector>

#include "autograd/tape.h"
#include "core/fields.h"

namespace mantissa {

/// What train.stop can name: rl/health.h says what they mean.
inline constexpr const char* kStopConditions[] = {"rollout_overflow",   "equal_rewards",   "truncated",
                                                  "entropy_collapse",   "length_collapse", "mismatch",
                                                  "far_from_reference", "large_updates",   "reward_falling"};

/// What train.recompute can name beside auto, from most memory to least, which is from fastest to slowest.
struct RecomputeTier {
  const char* name;
  Recompute tier;
};
inline constexpr RecomputeTier kRecomputeTiers[] = {{"none", Recompute::kNone},
                                                    {"elementwise", Recompute::kElementwise},
                                                    {"mlp", Recompute::kMlp},
                                                    {"full", Recompute::kFull}};

struct TrainConfig {
  std::string mode = "grpo";      // grpo, sft
  int64_t steps = 100;            // training steps: rollouts (grpo) or batches (sft)
  int64_t prompts_per_step = 64;  // prompts of a rollout (grpo) or examples of a batch (sft)
  int64_t mini_batch_size = 128;  // sequences per optimizer step; in sft prompts_per_step where a config sets none
  int64_t epochs = 1;             // passes over a rollout
  int64_t micro_batch_tokens = 16384;
  std::string recompute = "none";  // of kRecomputeTiers, or auto: the first that fits (rl/estimate.h)
  int64_t head_chunk = 0;          // tokens whose logits exist at once; 0: chosen for the device
  bool deterministic = true;
  std::vector<std::string> stop;      // of kStopConditions: they end the run
  int64_t inject_overflow_step = -1;  // for tests: one weight is infinite during this step
  std::string inject_overflow_parameter = "layers.0.down.weight";
  void fields(Fields& f);

  bool chooses_recompute() const { return recompute == "auto"; }
  /// Of auto full, until it has been chosen.
  Recompute recompute_tier() const;
};

}  // namespace mantissa
