#include "rl/algorithm/correction.h"

#include <limits>

#include "autograd/ops.h"

namespace mantissa {

Correction correction_weights(Tape& tape, const LossInputs& in, const AlgorithmConfig& config) {
  const std::string& name = config.correction;
  if (name == "none") return {};

  // No gradient: the inputs of everything below are constants.
  const Var numerator = config.corrects_current() ? ops::stop_gradient(in.logprobs) : Var(in.old_logprobs);
  Var log_ratio = ops::sub(tape, numerator, Var(in.rollout_logprobs));
  const bool per_token = name.starts_with("token"), geometric = name == "geo_mis";
  if (!per_token) log_ratio = ops::segment_sum(tape, log_ratio, in.response_offsets);
  if (geometric) log_ratio = ops::mul(tape, log_ratio, Var(in.inverse_lengths));
  const Var ratio = ops::exp(tape, ops::clamp(tape, log_ratio, -kMaxLogRatio, kMaxLogRatio));

  const double low = config.correction_low, high = config.correction_high;
  Correction out;
  if (name.ends_with("_tis")) {
    out.weight = ops::clamp(tape, ratio, 0, high);
  } else if (name.ends_with("_mis")) {
    out.kept = ops::within(tape, ratio, low, high);
    out.weight = geometric ? out.kept : ops::mul(tape, ratio, out.kept);
  } else {
    out.weight = ratio;
  }
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  out.high = ops::affine(tape, ops::within(tape, ratio, -kInfinity, high), -1, 1);
  out.low = ops::affine(tape, ops::within(tape, ratio, low, kInfinity), -1, 1);
  if (per_token) return out;

  for (Var* v : {&out.weight, &out.kept, &out.high, &out.low})
    if (v->defined()) *v = ops::segment_expand(tape, *v, in.response_offsets, in.logprobs.value().numel());
  return out;
}

}  // namespace mantissa
