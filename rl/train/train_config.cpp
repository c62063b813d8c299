#include "rl/train/train_config.h"

namespace mantissa {

Recompute TrainConfig::recompute_tier() const {
  for (const RecomputeTier& t : kRecomputeTiers)
    if (recompute == t.name) return t.tier;
  return Recompute::kFull;
}

void TrainConfig::fields(Fields& f) {
  f.choice("mode", mode, {"grpo", "sft"}, "reinforcement learning, or supervised warm start");
  f.field("steps", steps, not_decisive("training steps: rollouts (grpo) or batches (sft)"), between(0, 1 << 30));
  f.field("prompts_per_step", prompts_per_step, "prompts of a rollout, or examples of a batch", between(1, 1 << 20));
  // Only what reads a config has a mode that is given, so that the size of one that is printed stays.
  if (mode == "sft" && f.given("mode")) mini_batch_size = prompts_per_step;
  f.field("mini_batch_size", mini_batch_size,
          "sequences per optimizer step; in sft train.prompts_per_step where it is not set", between(1, 1 << 30));
  f.field("epochs", epochs, "passes over each rollout", between(1, 1 << 20));
  f.field("micro_batch_tokens", micro_batch_tokens, "tokens packed into one forward and backward", at_least(1));
  f.choice(
      "recompute", recompute, {"none", "elementwise", "mlp", "full", "auto"},
      not_decisive("what backward makes again instead of keeping it, to the same bits; auto: the first of none, "
                   "elementwise, mlp and full whose updates fit into the device's memory by `trainer --estimate`"));
  f.field("head_chunk", head_chunk, "tokens whose logits exist at once; 0 chooses for the device", at_least(0));
  f.field("deterministic", deterministic, "same inputs, same bits");
  f.field("stop", stop,
          not_decisive(
              "conditions that save and end the run: rollout_overflow, equal_rewards, truncated, entropy_collapse, "
              "length_collapse, mismatch, far_from_reference, large_updates, reward_falling (each is warned of "
              "without it, too)"));
  f.field("inject_overflow_step", inject_overflow_step, "for tests: one weight is infinite during this step",
          at_least(-1));
  f.field("inject_overflow_parameter", inject_overflow_parameter,
          "of inject_overflow_step: the parameter whose first weight is infinite");
}

}  // namespace mantissa
