#include "rl/logging/metric_table.h"

namespace mantissa {
namespace {

// mu: log-prob of a token at its sampling; old: by the training path before the step's first update; x = old - mu.
constexpr MetricInfo kTable[] = {
    {"step", "steps", "training steps completed, this one included"},

    {"rollout/digest", "1", "48 bits of a hash of all sampled ids and log-prob bits: equal for the same rollouts"},
    {"rollout/overflowed", "1", "share of samples whose log-probs are not all finite: the forward pass overflowed"},
    {"draft/proposed", "tokens",
     "tokens that drafts guessed and the rollout computed ahead (rollout.draft; not the same from run to run, since it goes by what was sampled here before and by what steps took)"},
    {"draft/accepted", "tokens", "those that were drawn: each saved a decode step of its sequence"},
    {"critic/score/mean", "reward",
     "mean reward of the step's samples by their text, truncated ones included, but for those whose grade failed"},
    {"critic/score/max", "reward", "highest of them"},
    {"critic/score/min", "reward", "lowest of them"},
    {"critic/rewards/mean", "reward",
     "mean of the same samples after overlong handling (truncated ones earn at most 0 under algorithm.overlong: zero_reward): what advantages are made of"},
    {"critic/rewards/max", "reward", "highest of them"},
    {"critic/rewards/min", "reward", "lowest of them"},
    {"critic/overlong_penalty/mean", "reward", "mean of what overlong handling took off"},
    {"critic/advantages/mean", "advantage", "mean advantage of the samples that are trained on"},
    {"critic/advantages/max", "advantage", "highest of them"},
    {"critic/advantages/min", "advantage", "lowest of them"},
    {"reward/<name>/mean", "reward",
     "mean of one of several rewards by itself, before its weight (reward.NAME), over the answers that it graded"},
    {"reward/zero_spread_groups", "groups", "groups whose samples all earned the same: nothing to learn from"},
    {"verifier/parsed", "grades",
     "grades of answers that were read and compared; a response has one of each reward that grades its row"},
    {"verifier/unparsed", "grades", "grades of answers that were found but could not be read; compared as text"},
    {"verifier/no_answer", "grades", "grades of responses without an answer"},
    {"verifier/timeout", "grades",
     "grades whose verifier ran into the time limit: such answers are left out of advantages and loss; of kind code without a command of your own an answer that does is parsed and wrong"},
    {"verifier/error", "grades",
     "grades that failed, and sums of several rewards beyond 1e37: such answers are left out too"},
    {"response_length/mean", "tokens", "mean length of a response, its stop token included"},
    {"response_length/max", "tokens", "longest"},
    {"response_length/min", "tokens", "shortest"},
    {"response_length/clip_ratio", "1", "share of responses that hit rollout.max_new_tokens"},
    {"prompt_length/mean", "tokens", "mean length of a prompt"},
    {"prompt_length/max", "tokens", "longest"},
    {"prompt_length/min", "tokens", "shortest"},
    {"train/num_gen_batches", "rollouts", "rollouts of this step (dynamic sampling)"},
    {"train/masked_groups", "groups",
     "groups left out though their rewards differ, since all their answers are truncated and masked (dynamic sampling "
     "under overlong: mask)"},
    {"train/kept_groups", "groups", "groups that are trained on (dynamic sampling)"},
    {"train/surplus_groups", "groups", "groups with a spread beyond prompts_per_step, left out (dynamic sampling)"},

    {"rollout_corr/kl", "nats",
     "mean of -x a forwarded token (see training/idle_sequences) of the sequences whose log-probs are all finite: the k1 "
     "estimate of KL(rollout, training)"},
    {"rollout_corr/k3_kl", "nats", "mean of exp x - x - 1 a token: the k3 estimate of the same"},
    {"rollout_corr/abs_logprob_diff", "nats", "mean abs(x) a token"},
    {"rollout_corr/seq_k3_kl", "nats", "k3 summed over a sequence, mean over sequences"},
    {"rollout_corr/seq_k3_kl_stderr", "nats", "its standard error"},
    {"rollout_corr/log_ratio_slope", "nats per 1000 tokens", "slope of a sequence's sum of x against its length"},
    {"rollout_corr/training_ppl", "1", "perplexity of responses under training, mean over sequences"},
    {"rollout_corr/rollout_ppl", "1", "perplexity of responses under rollout, mean over sequences"},
    {"rollout_corr/log_ppl_diff", "nats", "difference of the logarithms of both, mean over sequences"},
    {"rollout_corr/log_ppl_abs_diff", "nats", "its absolute value, mean over sequences"},
    {"rollout_corr/ppl_ratio", "1", "training perplexity over rollout perplexity, mean over sequences"},
    {"rollout_corr/chi2_token", "1", "chi-squared divergence a token: mean of exp 2x, less 1"},
    {"rollout_corr/chi2_seq", "1", "the same with the sum of x of each sequence"},
    {"training/rollout_probs_diff_max", "probability", "largest abs(exp old - exp mu)"},
    {"training/rollout_probs_diff_mean", "probability", "its mean"},
    {"training/rollout_probs_diff_std", "probability", "its standard deviation"},
    {"training/rollout_actor_probs_pearson_corr", "1", "correlation of exp old and exp mu; 1 where all are equal"},

    {"moe/load_min", "1", "an expert's share of its layer's rows times the number of experts: the least of any expert"},
    {"moe/load_max", "1",
     "the most; 1 when all are used alike, both over the forwards of an update, mean over updates"},
    {"moe/load_entropy", "1", "entropy of the shares over that of equal ones, mean over layers"},

    {"moe/route_agreement", "1",
     "share of pairs of a response token and a layer with experts in which training's router chooses the same set of experts as the rollout's did, for the row that predicts the token (under moe.replay too, which does not take that choice); over the tokens that rollout_corr/* compares; under match: exact, where it is 1 by construction, with exact.check: all alone"},

    {"exact/checked_tokens", "tokens",
     "tokens whose log-prob by the training path was compared with mu (match: exact)"},
    {"exact/differing_tokens", "tokens", "those of them whose bits differ"},

    {"lora/base_drift", "1",
     "how far adding and subtracting the update has moved the weights beneath it: norm of the difference over theirs (lora.rollout: merged_in_place)"},

    {"rollout_corr/rollout_is_mean", "1",
     "mean weight of algorithm.correction over forwarded tokens (1: nothing is corrected)"},
    {"rollout_corr/rollout_is_std", "1", "its standard deviation"},
    {"rollout_corr/rollout_is_eff_sample_size", "1", "mean^2 / mean of squares: the share of tokens that still count"},
    {"rollout_corr/kept_fraction", "1", "share of tokens whose weight is not 0"},
    {"rollout_corr/rollout_is_ratio_fraction_high", "1", "share of tokens with a ratio above correction_high"},
    {"rollout_corr/rollout_is_ratio_fraction_low", "1", "share of tokens with a ratio below correction_low"},

    {"actor/pg_loss", "loss",
     "the policy loss, its denominators those of all sequences; this and the next: means over the step's updates"},
    {"actor/kl_loss", "loss",
     "divergence from the reference model in the loss, as algorithm.loss_aggregation sums it up, without its coefficient (algorithm.kl_coef > 0)"},
    {"actor/reference_kl", "nats",
     "mean divergence from the reference model a token (algorithm.kl_estimator), under every aggregation"},
    {"actor/kl_coef", "1", "its coefficient"},
    {"actor/entropy", "nats", "mean entropy of the policy a forwarded token"},
    {"actor/ppo_kl", "nats", "mean of old less current log-prob a forwarded token"},
    {"actor/pg_clipfrac", "1", "share of forwarded tokens whose clip is active"},
    {"actor/pg_clipfrac_lower", "1", "share of forwarded tokens whose dual clip is active"},
    {"actor/grad_norm", "1", "norm of the unscaled gradient before clipping"},
    {"actor/lr", "1", "learning rate of the last update"},
    {"sft/loss", "nats", "mean negative log-likelihood of a response token (warm start)"},
    {"sft/entropy", "nats", "mean entropy a token"},
    {"sft/grad_norm", "1", "norm of the unscaled gradient before clipping"},
    {"sft/lr", "1", "learning rate of the last update"},
    {"scaler/scale", "1", "loss scale of the last update"},
    {"scaler/skipped", "updates", "updates of this step that overflowed and were left out"},
    {"scaler/skipped_total", "updates", "the same over the run"},
    {"training/idle_sequences", "sequences",
     "sequences left out of all passes, as advantage 0 or mask 0 leaves them neither loss nor gradient"},
    {"training/empty_mini_batches", "updates", "updates not taken because every token was masked"},
    {"training/policy_version", "updates", "updates taken since the run began"},
    {"selftest/weights_changed", "1", "1 when a weight differs from the start (optim.lr = 0)"},
    {"selftest/k3_kl_trend", "1", "t value of the slope of rollout_corr/k3_kl against the step (optim.lr = 0)"},

    {"timing_s/gen", "s", "rollout"},
    {"timing_s/reward", "s", "grading"},
    {"timing_s/adv", "s", "advantages"},
    {"timing_s/old_log_prob", "s",
     "log-probs by the training path before the first update; with one epoch the first mini-batch has them from its update"},
    {"timing_s/ref", "s", "log-probs of the reference model"},
    {"timing_s/update_actor", "s", "forward, backward and optimizer"},
    {"timing_s/step", "s", "the whole step"},
    {"timing_s/testing", "s", "evaluation"},
    {"perf/total_num_tokens", "tokens",
     "prompts and responses of the batch, those of training/idle_sequences included"},
    {"perf/throughput", "tokens/s", "the same over the seconds of the step"},
    {"perf/max_memory_allocated_gb", "GB", "most device memory in use so far (10^9 bytes), on any rank"},
    {"perf/idle_fraction", "1",
     "share of the ranks' time spent waiting for slower ones in rollout, reward and scoring"},

    {"val-core/<set>/acc/mean@<n>", "1",
     "share of correct answers, n samples a problem; truncated ones count by their text"},
    {"val-core/<set>/acc/pass@<n>", "1", "share of problems with a correct answer among n samples"},
    {"val-core/<set>/acc/maj@<n>", "1", "share of problems whose most frequent answer is correct"},
    {"val-aux/<set>/acc/<measure>@<n>/low", "1", "lower end of the measure's 95 % interval"},
    {"val-aux/<set>/acc/<measure>@<n>/high", "1", "upper end"},
    {"val-aux/<set>/reward/mean", "reward", "mean reward"},
    {"val-aux/<set>/response_length/mean", "tokens", "mean length of a response"},
    {"val-aux/<set>/response_length/clip_ratio", "1", "share of responses that hit rollout.max_new_tokens"},
};

/// Whether `name` is what `pattern` says; a placeholder stands for at least one character.
bool fits(std::string_view pattern, std::string_view name) {
  const size_t open = pattern.find('<'), close = pattern.find('>');
  if (open == std::string_view::npos) return pattern == name;
  if (name.substr(0, open) != pattern.substr(0, open)) return false;
  const bool slashes = pattern.substr(open, close + 1 - open) == "<set>";
  for (size_t end = open + 1; end <= name.size() && (slashes || name[end - 1] != '/'); ++end)
    if (fits(pattern.substr(close + 1), name.substr(end))) return true;
  return false;
}

}  // namespace

std::span<const MetricInfo> metric_table() {
  return kTable;
}

const MetricInfo* find_metric(std::string_view name) {
  for (const MetricInfo& info : kTable)
    if (fits(info.name, name)) return &info;
  return nullptr;
}

}  // namespace mantissa
