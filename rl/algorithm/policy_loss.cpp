#include "rl/algorithm/policy_loss.h"

#include <algorithm>
#include <limits>

#include "autograd/ops.h"
#include "autograd/support.h"
#include "rl/algorithm/correction.h"

namespace mantissa {
namespace {

/// l of a token and where clips are active (constants; undefined: nowhere). All [N].
struct PolicyTerm {
  Var loss;
  Var clipped, clipped_lower;
};

/// a > b as a constant.
Var greater(Tape& tape, const Var& a, const Var& b) {
  return ops::affine(tape, ops::less_equal(tape, a, b), -1, 1);
}

Var expand(Tape& tape, const LossInputs& in, const Var& per_sequence) {
  return ops::segment_expand(tape, per_sequence, in.response_offsets, in.logprobs.value().numel());
}

Var token_ratio(Tape& tape, const LossInputs& in) {
  const Var log_ratio = ops::sub(tape, in.logprobs, Var(in.old_logprobs));
  return ops::exp(tape, ops::clamp(tape, log_ratio, -kMaxLogRatio, kMaxLogRatio));
}

/// The value is the sequence's ratio; the gradient flows through the token's own log-prob.
Var sequence_ratio(Tape& tape, const LossInputs& in) {
  const Var current = ops::stop_gradient(in.logprobs);
  const Var sums = ops::segment_sum(tape, ops::sub(tape, current, Var(in.old_logprobs)), in.response_offsets);
  const Var means = expand(tape, in, ops::mul(tape, sums, Var(in.inverse_lengths)));
  const Var log_ratio = ops::add(tape, ops::sub(tape, in.logprobs, current), means);
  return ops::exp(tape, ops::clamp(tape, log_ratio, -kMaxLogRatio, kMaxLogRatio));
}

/// max(-A r, -A clip(r)), at most dual_clip |A|. For A >= 0 the maximum is at or below 0, so that bound binds for A < 0
/// only.
PolicyTerm clipped_term(Tape& tape, const Var& ratio, const Var& advantages, const AlgorithmConfig& config) {
  const Var minus_a = ops::affine(tape, advantages, -1);
  const Var free = ops::mul(tape, ratio, minus_a);
  const Var clip = ops::mul(tape, ops::clamp(tape, ratio, 1 - config.clip_low, 1 + config.clip_high), minus_a);
  PolicyTerm term{ops::maximum(tape, free, clip), greater(tape, clip, free), {}};
  if (config.dual_clip > 0) {
    const Var bound = ops::affine(tape, ops::maximum(tape, advantages, minus_a), config.dual_clip);
    term.clipped_lower = greater(tape, term.loss, bound);
    term.loss = ops::minimum(tape, term.loss, bound);
  }
  return term;
}

/// The token's weight is 1 for A = 0 as well: there is no loss there.
PolicyTerm dppo_term(Tape& tape, const LossInputs& in, const Var& advantages, const AlgorithmConfig& config) {
  const Var mu(in.rollout_logprobs), current = ops::stop_gradient(in.logprobs);
  const Var difference = ops::sub(tape, ops::exp(tape, current), ops::exp(tape, mu));
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Var positive = ops::affine(tape, ops::within(tape, advantages, -kInfinity, 0), -1, 1);
  const Var negative = ops::affine(tape, ops::within(tape, advantages, 0, kInfinity), -1, 1);
  const Var above = ops::affine(tape, ops::within(tape, difference, -kInfinity, config.clip_high), -1, 1);
  const Var below = ops::affine(tape, ops::within(tape, difference, -config.clip_low, kInfinity), -1, 1);
  const Var dropped = ops::add(tape, ops::mul(tape, positive, above), ops::mul(tape, negative, below));
  const Var log_ratio = ops::clamp(tape, ops::sub(tape, in.logprobs, mu), -kMaxLogRatio, kMaxLogRatio);
  const Var loss = ops::mul(tape, ops::exp(tape, log_ratio), ops::affine(tape, advantages, -1));
  return {ops::mul(tape, loss, ops::affine(tape, dropped, -1, 1)), dropped, {}};
}

PolicyTerm policy_term(Tape& tape, const LossInputs& in, const Var& advantages, const AlgorithmConfig& config) {
  if (config.policy_loss == "grpo") return clipped_term(tape, token_ratio(tape, in), advantages, config);
  if (config.policy_loss == "dppo") return dppo_term(tape, in, advantages, config);
  if (config.policy_loss == "gspo") return clipped_term(tape, sequence_ratio(tape, in), advantages, config);

  const Var term = ops::mul(tape, in.logprobs, ops::affine(tape, advantages, -1));
  if (config.policy_loss == "pg") return {term, {}, {}};
  check(config.policy_loss == "cispo", "[policy_loss] unknown policy loss ", config.policy_loss);
  const double low = 1 - config.clip_low, high = 1 + config.clip_high;
  const Var ratio = ops::stop_gradient(token_ratio(tape, in));
  const Var outside = ops::affine(tape, ops::within(tape, ratio, low, high), -1, 1);
  return {ops::mul(tape, term, ops::clamp(tape, ratio, low, high)), outside, {}};
}

Var kl_term(Tape& tape, const LossInputs& in, const std::string& estimator) {
  const Var log_ratio = ops::sub(tape, in.logprobs, Var(in.reference_logprobs));
  const Var d = ops::clamp(tape, log_ratio, -kMaxLogRatio, kMaxLogRatio);
  if (estimator == "k1") return d;
  if (estimator == "k2") return ops::affine(tape, ops::mul(tape, d, d), 0.5);
  check(estimator == "k3", "[policy_loss] unknown KL estimator ", estimator);
  return ops::add(tape, ops::exp(tape, ops::affine(tape, d, -1)), ops::affine(tape, d, 1, -1));
}

/// 1 / count; 0 where everything is masked and there is nothing to divide.
double inverse(double count) {
  return count > 0 ? 1 / count : 0;
}

/// c of the loss [N].
Var coefficients(Tape& tape, const LossInputs& in, const AlgorithmConfig& config) {
  const Var mask(in.mask);
  if (config.loss_aggregation == "token_mean") return expand(tape, in, ops::affine(tape, mask, inverse(in.tokens)));
  if (config.loss_aggregation == "seq_mean_token_mean")
    return expand(tape, in, ops::affine(tape, ops::mul(tape, mask, Var(in.inverse_lengths)), inverse(in.sequences)));
  check(config.loss_aggregation == "seq_mean_token_sum_norm", "[policy_loss] unknown aggregation ",
        config.loss_aggregation);
  check(in.norm_constant > 0, "[policy_loss] the norm constant must be positive: got ", in.norm_constant);
  return expand(tape, in, ops::affine(tape, mask, inverse(in.norm_constant * in.sequences)));
}

/// Means over the forwarded tokens with mask 1, gathered as stats.
class TokenStats {
 public:
  TokenStats(Tape& tape, const LossInputs& in) : tape_(tape), in_(in), mask_(expand(tape, in, Var(in.mask))) {}

  const Var& mask() const { return mask_; }
  /// `x` undefined: the constant `otherwise`.
  void mean(const char* name, const Var& x, double otherwise = 0) {
    const Var masked =
        x.defined() ? ops::mul(tape_, mask_, ops::stop_gradient(x)) : ops::affine(tape_, mask_, otherwise);
    stats.push_back({name, ops::sum(tape_, masked).value(), std::max(in_.forwarded, 1.0)});
  }

  std::vector<LossStat> stats;

 private:
  Tape& tape_;
  const LossInputs& in_;
  Var mask_;
};

/// Shapes and types of what both losses read; and of `more`, [N] each.
void check_inputs(const char* loss, const LossInputs& in, std::initializer_list<const Tensor*> more) {
  const Tensor& logprobs = in.logprobs.value();
  ops::check_rank(loss, "logprobs", logprobs, 1);
  const int64_t sequences = ops::check_offsets(loss, in.response_offsets);
  const auto same_type = [&](const char* name, const Tensor& t, int64_t n) {
    ops::check_shape(loss, name, t, {n});
    ops::check_type(loss, name, t, logprobs.dtype());
  };
  same_type("entropy", in.entropy.value(), logprobs.numel());
  same_type("mask", in.mask, sequences);
  for (const Tensor* t : more) same_type("each tensor of log-probs", *t, logprobs.numel());
  check(in.tokens >= 0, "[", loss, "] the tokens of the mini-batch must be set: got ", in.tokens);
  check(in.forwarded >= 0, "[", loss, "] the forwarded tokens of the mini-batch must be set: got ", in.forwarded);
}

}  // namespace

LossOut policy_loss(Tape& tape, const LossInputs& in, const AlgorithmConfig& config) {
  check_inputs("policy_loss", in, {&in.old_logprobs, &in.rollout_logprobs});
  ops::check_shape("policy_loss", "advantages", in.advantages, in.mask.shape());
  ops::check_shape("policy_loss", "inverse_lengths", in.inverse_lengths, in.mask.shape());
  check(in.sequences >= 0, "[policy_loss] the sequences of the mini-batch must be set: got ", in.sequences);

  TokenStats tokens(tape, in);
  const Var c = coefficients(tape, in, config);
  const PolicyTerm term = policy_term(tape, in, expand(tape, in, Var(in.advantages)), config);
  const Correction correction = correction_weights(tape, in, config);
  const Var& w = correction.weight;

  Var loss = ops::sum(tape, ops::mul(tape, w.defined() ? ops::mul(tape, term.loss, w) : term.loss, c));
  tokens.stats.push_back({"actor/pg_loss", loss.value()});
  if (config.kl_coef > 0) {
    ops::check_shape("policy_loss", "reference_logprobs", in.reference_logprobs, in.logprobs.shape());
    const Var kl = kl_term(tape, in, config.kl_estimator);
    const Var kl_loss = ops::sum(tape, ops::mul(tape, kl, c));
    loss = ops::add(tape, loss, ops::affine(tape, kl_loss, config.kl_coef));
    tokens.stats.push_back({"actor/kl_loss", kl_loss.value()});
    tokens.mean("actor/reference_kl", kl);
  }
  if (config.entropy_coef > 0) {
    const Var entropy = ops::sum(tape, ops::mul(tape, in.entropy, c));
    loss = ops::add(tape, loss, ops::affine(tape, entropy, -config.entropy_coef));
  }

  tokens.mean("actor/entropy", in.entropy);
  tokens.mean("actor/ppo_kl", ops::sub(tape, Var(in.old_logprobs), ops::stop_gradient(in.logprobs)));
  tokens.mean("actor/pg_clipfrac", term.clipped);
  tokens.mean("actor/pg_clipfrac_lower", term.clipped_lower);
  tokens.mean("rollout_corr/rollout_is_mean", w, 1);
  tokens.mean("rollout_corr/rollout_is_mean_square", w.defined() ? ops::mul(tape, w, w) : w, 1);
  tokens.mean("rollout_corr/kept_fraction", correction.kept, 1);
  tokens.mean("rollout_corr/rollout_is_ratio_fraction_high", correction.high);
  tokens.mean("rollout_corr/rollout_is_ratio_fraction_low", correction.low);
  return {loss, std::move(tokens.stats)};
}

LossOut sft_loss(Tape& tape, const LossInputs& in) {
  check_inputs("sft_loss", in, {});
  TokenStats tokens(tape, in);
  const Var loss = ops::affine(tape, ops::sum(tape, ops::mul(tape, in.logprobs, tokens.mask())), -inverse(in.tokens));
  tokens.stats.push_back({"sft/loss", loss.value()});
  tokens.mean("sft/entropy", in.entropy);
  return {loss, std::move(tokens.stats)};
}

}  // namespace mantissa
