#include "nn/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace mantissa {

void OptimConfig::fields(Fields& f) {
  f.field("lr", lr, "peak learning rate; 0 runs the whole step without moving the weights", between(0, 1));
  f.choice("schedule", schedule, {"constant", "linear", "cosine"}, "learning rate after the warm-up");
  f.field("warmup_steps", warmup_steps, "optimizer steps of linear warm-up", between(0, 1e9));
  f.field("min_lr_ratio", min_lr_ratio, "linear and cosine end at lr times this", between(0, 1));
  f.field("beta1", beta1, "AdamW: decay of the first moment", between(0, 0.9999999));
  f.field("beta2", beta2, "AdamW: decay of the second moment", between(0, 0.9999999));
  f.field("eps", eps, "AdamW: added to the root of the second moment", between(1e-30, 1));
  f.field("weight_decay", weight_decay, "AdamW: decoupled, on matrices only", between(0, 1e3));
  f.field("grad_clip", grad_clip, "largest global 2-norm of the unscaled gradient; 0 = off", between(0, 1e30));
}

void ScalerConfig::fields(Fields& f) {
  f.choice("mode", mode, {"auto", "dynamic", "static", "off"},
           "loss scale; auto: dynamic for fp16, off for bf16 and fp32");
  f.field("init_scale", init_scale, "first (or static) loss scale", between(1, 1 << 24));
  f.field("growth_factor", growth_factor, "times this after growth_interval clean steps", between(1, 1024));
  f.field("backoff_factor", backoff_factor, "times this on overflow", between(1.0 / 1024, 1));
  f.field("growth_interval", growth_interval, "clean steps before the scale grows", between(1, 1e9));
  f.field("min_scale", min_scale, "the scale does not fall below it", between(1.0 / (1 << 24), 1 << 24));
  f.field("max_skips_in_row", max_skips_in_row, "one more skipped step in a row stops the run", between(1, 1e6));
}

ScalerStart resolve_scaler(const ScalerConfig& config, Dtype compute) {
  const bool automatic = config.mode == "auto";
  check(automatic || config.mode == "dynamic" || config.mode == "static" || config.mode == "off",
        "[scaler] mode must be auto, dynamic, static or off, got \"", config.mode, "\"");
  ScalerStart start{{}, 1.0f};
  start.rule.dynamic = config.mode == "dynamic" || (automatic && compute == Dtype::kF16);
  start.rule.growth_factor = float(config.growth_factor);
  start.rule.backoff_factor = float(config.backoff_factor);
  start.rule.growth_interval = int(config.growth_interval);
  start.rule.min_scale = float(config.min_scale);
  if (start.rule.dynamic || config.mode == "static") start.scale = float(config.init_scale);
  check(start.scale >= start.rule.min_scale || !start.rule.dynamic, "[scaler] init_scale must be at least min_scale ",
        config.min_scale, ", got ", config.init_scale);
  return start;
}

double learning_rate(const OptimConfig& config, int64_t step, int64_t total) {
  if (step < config.warmup_steps) return config.lr * double(step + 1) / double(config.warmup_steps);
  if (config.schedule == "constant") return config.lr;
  const double span = double(std::max<int64_t>(total - config.warmup_steps, 1));
  const double progress = std::clamp(double(step - config.warmup_steps) / span, 0.0, 1.0);
  const double rest = 1.0 - config.min_lr_ratio;
  if (config.schedule == "linear") return config.lr * (1.0 - rest * progress);
  check(config.schedule == "cosine", "[optim] schedule must be constant, linear or cosine, got \"", config.schedule,
        "\"");
  return config.lr * (config.min_lr_ratio + rest * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

void refresh_copies(Exec& exec, Weights& weights) {
  for (const ParamBuffer* copy : {&weights.compute, &weights.rollout}) {
    if (!copy->defined() || copy->flat().same_as(weights.master.flat())) continue;
    Tensor flat = copy->flat();
    MANTISSA_RUN(exec, cast, flat, weights.master.flat());
  }
}

Optimizer::Optimizer(Exec& exec, Weights& weights, const OptimConfig& optim, const ScalerConfig& scaler,
                     int64_t total_steps)
    : exec_(exec), weights_(weights), optim_(optim), scaler_(scaler), total_steps_(total_steps) {
  if (!weights_.master.defined()) {
    if (!is_16bit(weights_.compute.dtype())) {
      weights_.master = weights_.compute;
    } else {
      weights_.master = ParamBuffer(exec_, weights_.layout, Dtype::kF32);
      Tensor flat = weights_.master.flat();
      MANTISSA_RUN(exec_, cast, flat, weights_.compute.flat());
    }
  }
  for (ParamBuffer* buffer : {&weights_.m, &weights_.v, &weights_.grad})
    *buffer = ParamBuffer(exec_, weights_.layout, Dtype::kF32);

  const ScalerStart start = resolve_scaler(scaler, weights_.compute.dtype());
  rule_ = start.rule;
  known_.loss_scale = start.scale;
  state_ = state_tensor(exec_.backend(), known_);
}

void Optimizer::zero_grad() {
  Tensor grad = weights_.grad.flat();
  MANTISSA_RUN(exec_, fill, grad, 0.0);
}

StepReport Optimizer::step() {
  StepState before = known_;
  before.lr = float(learning_rate(optim_, before.adam_step, total_steps_));
  exec_.backend().copy_from_host(static_cast<std::byte*>(state_.raw()) + offsetof(StepState, lr), &before.lr,
                                 sizeof(before.lr));

  const Tensor& grad = weights_.grad.flat();
  MANTISSA_RUN(exec_, grad_stats, state_, grad);
  MANTISSA_RUN(exec_, step_decide, state_, rule_, optim_.grad_clip);

  AdamWRule rule{float(optim_.beta1), float(optim_.beta2), float(optim_.eps), 0.0f};
  const auto update = [&](int64_t begin, int64_t end, double weight_decay) {
    if (begin == end) return;
    rule.weight_decay = float(weight_decay);
    Tensor master = weights_.master.flat().slice(begin, end), m = weights_.m.flat().slice(begin, end),
           v = weights_.v.flat().slice(begin, end), compute = weights_.compute.flat().slice(begin, end);
    MANTISSA_RUN(exec_, adamw, master, m, v, compute, grad.slice(begin, end), state_, rule);
  };
  for (int unit = 0; unit < weights_.layout.units(); ++unit) {
    const ParamLayout::Extent& extent = weights_.layout.extent(unit);
    update(extent.begin, extent.decay_end, optim_.weight_decay);
    update(extent.decay_end, extent.end, 0.0);
  }
  if (weights_.rollout.defined()) {
    Tensor rollout = weights_.rollout.flat();
    MANTISSA_RUN(exec_, cast, rollout, weights_.master.flat());
  }

  const StepState after = known_ = read_state();  // the one wait of an update
  StepReport report{after.overflow != 0, after.grad_norm,   before.lr,
                    before.loss_scale,   after.skips_total, after.skips_in_row};
  if (report.skips_in_row > scaler_.max_skips_in_row) fail_overflow(report, after);
  return report;
}

void Optimizer::fail_overflow(const StepReport& report, const StepState& state) const {
  const bool fixed = scaler_.mode == "static" && state.loss_scale > 1;
  const bool floor = !rule_.dynamic || state.loss_scale <= rule_.min_scale;
  const bool held = rule_.dynamic && floor && rule_.min_scale > 1;
  fail("[scaler] ", report.skips_in_row, " steps in a row were skipped because gradients were not finite",
       " (max_skips_in_row = ", scaler_.max_skips_in_row, "; ", report.skips_total, " skips and ", state.adam_step,
       " steps in all). The loss scale is now ", state.loss_scale,
       fixed   ? ", fixed by scaler.mode static: lower init_scale, or use mode dynamic"
       : held  ? ", as low as scaler.min_scale lets it go: lower min_scale"
       : floor ? ", as low as it goes, so the overflow does not come from the scale"
               : ", still above min_scale, so it may have started far too high (init_scale)",
       ". Look at the first non-finite tensor named in the log (layer, op, forward or backward), at the "
       "learning rate",
       " (lr = ", report.lr, ", peak ", optim_.lr, ") and at the data of this step.");
}

StepState Optimizer::read_state() const {
  StepState state;
  exec_.backend().copy_to_host(&state, state_.raw(), sizeof(state));
  return state;
}

void Optimizer::write_state(const StepState& state) {
  known_ = state;
  exec_.backend().copy_from_host(state_.raw(), &state, sizeof(state));
}

}  // namespace mantissa
