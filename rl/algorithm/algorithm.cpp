#include "rl/algorithm/algorithm.h"

#include <algorithm>

#include "core/error.h"

namespace mantissa {
namespace {

bool one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

void AlgorithmConfig::fields(Fields& f) {
  f.choice("advantage", advantage, {"grpo", "drgrpo", "rloo", "reinforce_pp"}, "advantage of a sample from its reward");
  f.field(
      "dynamic_sampling", dynamic_sampling,
      "drop groups whose rewards are all equal, after overlong handling (but for soft_punish: before it), and sample "
      "more prompts in their place");
  f.field("max_gen_batches", max_gen_batches, "rollouts a step at most, with dynamic_sampling", at_least(1));
  f.choice("overlong", overlong, {"zero_reward", "mask", "keep", "soft_punish"},
           "truncated answers: at most reward 0, left out of the loss, as they are, or less reward near the limit");
  f.field("overlong_buffer", overlong_buffer, "of soft_punish: tokens before the limit where it begins", at_least(0));
  f.field("overlong_penalty", overlong_penalty, "of soft_punish: what it takes off at the limit", between(0, 1e6));
  f.choice("policy_loss", policy_loss, {"grpo", "gspo", "cispo", "pg", "dppo"}, "policy term");
  f.choice("loss_aggregation", loss_aggregation, {"token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"},
           "from token terms to the loss of a mini-batch");
  f.field("loss_norm_constant", loss_norm_constant, "of seq_mean_token_sum_norm; 0 = rollout.max_new_tokens",
          at_least(0));
  f.field("clip_low", clip_low,
          "the ratio is clipped below 1 - clip_low; dppo: bound on how far a probability may fall", between(0, 1));
  f.field("clip_high", clip_high,
          "the ratio is clipped above 1 + clip_high; dppo: bound on how far a probability may rise", between(0, 1e8));
  f.field("dual_clip", dual_clip, "bound on the ratio where the advantage is negative; 0 = off", between(0, 1e9));
  f.choice("correction", correction,
           {"none", "token_is", "token_tis", "token_mis", "seq_is", "seq_tis", "seq_mis", "geo_mis"},
           "weight for the rollout-training mismatch");
  f.choice("correction_ratio", correction_ratio, {"auto", "old_over_rollout", "current_over_rollout"},
           "ratio behind that weight; auto: current_over_rollout for pg, else old_over_rollout");
  f.field("correction_low", correction_low, "masking corrections drop ratios below", between(0, 1e8));
  f.field("correction_high", correction_high, "C: ratios above are truncated or masked", between(0, 1e8));
  f.field("kl_coef", kl_coef, "weight of the KL to the reference model; 0 = no reference model", between(0, 1e6));
  f.choice("kl_estimator", kl_estimator, {"k1", "k2", "k3"}, "estimator of that KL");
  f.field("entropy_coef", entropy_coef, "weight of the entropy bonus", between(0, 1e6));
}

void AlgorithmConfig::validate(int64_t n) const {
  check(n >= 2 || advantage == "reinforce_pp", "rollout.n: advantage ", advantage,
        " compares the samples of a prompt and needs at least 2, got ", n);
  check(!dynamic_sampling || n >= 2,
        "algorithm.dynamic_sampling: one sample has no spread, rollout.n must be at least 2, got ", n);
  check((overlong == "soft_punish") == (overlong_buffer > 0),
        "algorithm.overlong_buffer: must be above 0 with overlong soft_punish and belongs to nothing else, got ",
        overlong_buffer, " with ", overlong);
  check(overlong == "soft_punish" || overlong_penalty == 1,
        "algorithm.overlong_penalty: belongs to overlong soft_punish, got ", overlong_penalty, " with ", overlong);
  check(dual_clip == 0 || policy_loss == "grpo", "algorithm.dual_clip: belongs to policy_loss grpo, got ", dual_clip,
        " with ", policy_loss);
  check(dual_clip == 0 || dual_clip > 1 + clip_high,
        "algorithm.dual_clip: must be 0 or above 1 + clip_high = ", 1 + clip_high, ", got ", dual_clip);
  check(loss_norm_constant == 0 || loss_aggregation == "seq_mean_token_sum_norm",
        "algorithm.loss_norm_constant: belongs to loss_aggregation seq_mean_token_sum_norm, got ", loss_norm_constant,
        " with ", loss_aggregation);
  check(policy_loss == "pg" || correction_ratio != "current_over_rollout", "algorithm.correction_ratio: policy_loss ",
        policy_loss, " already holds current over old, so its weight must be old_over_rollout, got ", correction_ratio);
  check(
      policy_loss != "dppo" || correction == "none",
      "algorithm.correction: policy_loss dppo is measured against the rollout policy itself, so it must be none, got ",
      correction);
  check(!one_of(correction, {"token_tis", "token_mis", "seq_tis", "seq_mis", "geo_mis"}) ||
            correction_high > correction_low,
        "algorithm.correction_high: must be above correction_low = ", correction_low, ", got ", correction_high);
  check(correction_low == 0 || one_of(correction, {"token_mis", "seq_mis", "geo_mis"}),
        "algorithm.correction_low: belongs to token_mis, seq_mis and geo_mis, got ", correction_low, " with ",
        correction);
}

bool AlgorithmConfig::corrects_current() const {
  return correction_ratio == "auto" ? policy_loss == "pg" : correction_ratio == "current_over_rollout";
}

}  // namespace mantissa
