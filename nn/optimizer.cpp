#include "nn/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numbers>
#include <numeric>

#include "core/conveyor.h"

namespace mantissa {

void OptimConfig::fields(Fields& f) {
  f.field("lr", lr, "peak learning rate; 0 runs the whole step without moving the weights", between(0, 1));
  f.choice("schedule", schedule, {"constant", "linear", "cosine"},
           "learning rate after the warm-up: as it is, or falling to min_lr_ratio over train.steps");
  f.field("warmup_steps", warmup_steps, "optimizer steps over which the learning rate rises from 0", between(0, 1e9));
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
  f.field("growth_factor", growth_factor, "the scale grows by this factor after growth_interval clean updates",
          between(1, 1024));
  f.field("backoff_factor", backoff_factor, "the scale is multiplied by this on an overflow", between(1.0 / 1024, 1));
  f.field("growth_interval", growth_interval, "updates in a row without overflow before the scale grows",
          between(1, 1e9));
  f.field("min_scale", min_scale, "the scale does not fall below it", between(1.0 / (1 << 24), 1 << 24));
  f.field("max_skips_in_row", max_skips_in_row,
          "the run ends after more skipped updates in a row than this, or more rollouts of which no sample is finite",
          between(1, 1e6));
}

ScalerStart resolve_scaler(const ScalerConfig& config, Dtype compute) {
  const bool automatic = config.mode == "auto";
  check(automatic || config.mode == "dynamic" || config.mode == "static" || config.mode == "off",
        "scaler.mode: must be auto, dynamic, static or off, got \"", config.mode, "\"");
  ScalerStart start{{}, 1.0f};
  start.rule.dynamic = config.mode == "dynamic" || (automatic && compute == Dtype::kF16);
  start.rule.growth_factor = float(config.growth_factor);
  start.rule.backoff_factor = float(config.backoff_factor);
  start.rule.growth_interval = int(config.growth_interval);
  start.rule.min_scale = float(config.min_scale);
  if (start.rule.dynamic || config.mode == "static") start.scale = float(config.init_scale);
  check(start.scale >= start.rule.min_scale || !start.rule.dynamic,
        "scaler.init_scale: must be at least scaler.min_scale = ", config.min_scale, ", got ", config.init_scale);
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

namespace {

// What comes from host memory is on the device in so many pieces at once, of so many elements.
constexpr size_t kSlots = 3, kKept = 3;  // kept of a parameter: master, m, v
constexpr int64_t kPiece = int64_t(1) << 23;

/// A copy of another type than the masters', from them.
void refresh(Exec& exec, const ParamSet& params, const ParamBuffer& copy, Comm& comm) {
  if (!copy.defined() || copy.flat().same_as(params.master.flat())) return;
  WeightGather gather(exec, comm, params);
  for (int unit = 0; unit < params.layout.units(); ++unit) {
    Tensor part = copy.part(params.layout, unit, params.shard);
    MANTISSA_RUN(exec, cast, part, staged(exec, params, params.master.unit(unit)));
    gather.begin(copy, unit);
  }
  gather.finish();
}

}  // namespace

void refresh_copies(Exec& exec, const ParamSet& params, Comm& comm) {
  check(comm.size() == params.shard.world_size, "[params] copies of a set in ", params.shard.world_size,
        " parts are refreshed by all its processes, not by ", comm.size());
  refresh(exec, params, params.compute, comm);
  refresh(exec, params, params.rollout, comm);
}

Optimizer::Optimizer(Exec& exec, ParamSet& params, const OptimConfig& optim, const ScalerConfig& scaler,
                     int64_t total_steps, Comm& comm)
    : exec_(exec),
      comm_(comm),
      params_(params),
      sum_(exec, comm, params),
      optim_(optim),
      scaler_(scaler),
      total_steps_(total_steps) {
  const Shard shard = params_.shard;
  check(shard.rank == comm_.rank() && shard.world_size == comm_.size(), "[optimizer] the parameters are part ",
        shard.rank, " of ", shard.world_size, ", the process is ", comm_.rank(), " of ", comm_.size());
  check(shard.experts == 1 || shard.experts == comm_.row().size(), "[optimizer] ", shard.experts,
        " processes share out experts, a row of the comm has ", comm_.row().size());
  if (!params_.master.defined()) make_masters();
  for (ParamBuffer* buffer : {&params_.m, &params_.v})
    *buffer = ParamBuffer(exec_, params_.layout, Dtype::kF32, shard, params_.placement);
  if (params_.in_parts()) {
    params_.reduced = ParamBuffer(exec_, params_.layout, Dtype::kF32, shard);
  } else {
    params_.grad = ParamBuffer(exec_, params_.layout, Dtype::kF32);
    params_.reduced = shard.whole() ? params_.grad : ParamBuffer(params_.grad, params_.layout, shard);
  }

  const ScalerStart start = resolve_scaler(scaler, params_.compute.dtype());
  rule_ = start.rule;
  known_.loss_scale = start.scale;
  const std::shared_ptr<Storage> record = exec_.backend().allocate(sizeof(StepState));
  state_ = Tensor(record, 0, {int64_t(sizeof(StepState) / sizeof(int32_t))}, Dtype::kI32);
  sum_squares_ = Tensor(record, offsetof(StepState, sum_squares), {1}, Dtype::kF64);
  not_finite_ = Tensor(record, offsetof(StepState, not_finite), {1}, Dtype::kI32);
  write_state(known_);
}

void Optimizer::zero_grad() {
  const bool parts = params_.in_parts();
  if (parts && !params_.reduced.defined())
    params_.reduced = ParamBuffer(exec_, params_.layout, Dtype::kF32, params_.shard);
  Tensor grad = (parts ? params_.reduced : params_.grad).flat();
  MANTISSA_RUN(exec_, fill, grad, 0.0);
  params_.grad.set_fresh(false);
}

void Optimizer::renew_grad() {
  if (params_.in_parts()) return zero_grad();
  params_.grad.set_fresh(true);
}

void Optimizer::release_grad() {
  if (params_.in_parts()) params_.reduced = {};
}

void Optimizer::make_masters() {
  if (params_.masters_itself()) {
    params_.master = params_.compute;
    return;
  }
  const Dtype compute = params_.compute.dtype();
  params_.master =
      ParamBuffer(exec_, params_.layout, is_16bit(compute) ? Dtype::kF32 : compute, params_.shard, params_.placement);
  for (int unit = 0; unit < params_.layout.units(); ++unit) {
    const Tensor& master = params_.master.unit(unit);
    Tensor values = staged(exec_, params_, master);
    MANTISSA_RUN(exec_, cast, values, params_.compute.part(params_.layout, unit, params_.shard));
    put_back(params_, master, values);
  }
}

std::vector<Optimizer::Piece> Optimizer::pieces(int64_t most) const {
  std::vector<int> units(size_t(params_.layout.units()));
  std::iota(units.begin(), units.end(), 0);
  std::ranges::stable_sort(units, std::greater(), [&](int unit) { return params_.layout.size(unit); });
  std::vector<Piece> all;
  for (const int unit : units) {
    const ParamLayout::Extent part = params_.layout.part(unit, params_.shard);
    const int64_t decayed = part.decay_end - part.begin, size = part.end - part.begin;
    for (int64_t begin = 0; begin < size;) {
      const bool decays = begin < decayed;
      const int64_t end = std::min(begin + most, decays ? decayed : size);
      all.push_back({unit, begin, end, decays ? optim_.weight_decay : 0.0, end == size});
      begin = end;
    }
  }
  return all;
}

void Optimizer::update(const Piece& p, Tensor master, Tensor m, Tensor v) {
  const AdamWRule rule{float(optim_.beta1), float(optim_.beta2), float(optim_.eps), float(p.weight_decay)};
  const auto of = [&](const Tensor& all) { return all.slice(p.begin, p.end); };
  Tensor compute = of(params_.compute.part(params_.layout, p.unit, params_.shard));
  MANTISSA_RUN(exec_, adamw, master, m, v, compute, of(params_.reduced.unit(p.unit)), state_, rule);
  if (!params_.rollout.defined()) return;
  Tensor rollout = of(params_.rollout.part(params_.layout, p.unit, params_.shard));
  MANTISSA_RUN(exec_, cast, rollout, master);
}

void Optimizer::update_from_host(const std::vector<Piece>& pieces, const std::function<void(const Piece&)>& done) {
  int64_t largest = 0;
  for (const Piece& p : pieces) largest = std::max(largest, p.end - p.begin);
  const std::array<const ParamBuffer*, kKept> kept = {&params_.master, &params_.m, &params_.v};
  std::array<std::array<Tensor, kKept>, kSlots> room;
  for (auto& slot : room)
    for (Tensor& t : slot) t = exec_.empty({largest}, Dtype::kF32);
  const auto copies = [&](size_t i) {
    const Piece& p = pieces[i];
    std::array<Conveyor::Copy, kKept> all;
    for (size_t k = 0; k < kKept; ++k)
      all[k] = {room[i % kSlots][k].slice(0, p.end - p.begin), kept[k]->unit(p.unit).slice(p.begin, p.end)};
    return all;
  };
  const std::unique_ptr<Conveyor> conveyor = exec_.backend().conveyor(exec_, int(kSlots));
  const auto fetch = [&](size_t i) {
    if (i < pieces.size()) conveyor->fetch(int(i % kSlots), copies(i));
  };
  for (size_t i = 0; i + 1 < kSlots; ++i) fetch(i);
  for (size_t i = 0; i < pieces.size(); ++i) {
    fetch(i + kSlots - 1);  // into the slot of the piece before
    conveyor->use(int(i % kSlots));
    const auto here = copies(i);
    update(pieces[i], here[0].device, here[1].device, here[2].device);
    conveyor->store(int(i % kSlots), here);
    done(pieces[i]);
  }
  conveyor->finish();
}

StepReport Optimizer::step() {
  StepState before = known_;
  before.lr = float(learning_rate(optim_, before.adam_step + missed_, total_steps_));
  exec_.backend().copy_from_host(static_cast<std::byte*>(state_.raw()) + offsetof(StepState, lr), &before.lr,
                                 sizeof(before.lr));

  sum_.finish();
  if (params_.shard.whole()) MANTISSA_RUN(exec_, grad_stats, state_, params_.grad.flat());
  for (int unit = 0; unit < params_.layout.units() && !params_.shard.whole(); ++unit)
    MANTISSA_RUN(exec_, grad_stats, state_, params_.reduced.unit(unit));
  comm_.all_reduce(exec_, sum_squares_);
  comm_.all_reduce(exec_, not_finite_);
  MANTISSA_RUN(exec_, step_decide, state_, rule_, optim_.grad_clip);
  if (before_change_) before_change_();
  WeightGather gather(exec_, comm_, params_);  // beside the next units' updates
  const auto done = [&](const Piece& p) {
    if (!p.last) return;
    gather.begin(params_.compute, p.unit);
    if (params_.rollout.defined()) gather.begin(params_.rollout, p.unit);
  };
  if (params_.placement == Placement::kHost) {
    update_from_host(pieces(kPiece), done);
  } else {
    const auto kept = [](const ParamBuffer& all, const Piece& p) { return all.unit(p.unit).slice(p.begin, p.end); };
    for (const Piece& p : pieces(params_.layout.numel())) {
      update(p, kept(params_.master, p), kept(params_.m, p), kept(params_.v, p));
      done(p);
    }
  }
  gather.finish();

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
  const bool never_falls = rule_.dynamic && rule_.backoff_factor >= 1 && state.loss_scale > 1;
  fail("[scaler] ", report.skips_in_row, " steps in a row were skipped because gradients were not finite",
       " (max_skips_in_row = ", scaler_.max_skips_in_row, "; ", report.skips_total, " skips and ", state.adam_step,
       " steps in all). The loss scale is now ", shortest(state.loss_scale),
       fixed         ? ", fixed by scaler.mode static: lower init_scale, or use mode dynamic"
       : never_falls ? ", which scaler.backoff_factor: 1 never lowers: lower backoff_factor"
       : held        ? ", as low as scaler.min_scale lets it go: lower min_scale"
       : floor       ? ", as low as it goes, so the overflow does not come from the scale"
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
