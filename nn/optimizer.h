// AdamW on flat buffers with the loss scaler in the same device record (StepState): unscale, clip, step or skip, in
// three kernel passes (grad_stats, step_decide, adamw; core/kernels.h has the formulas) and no wait for the host
// between them. The scaler is a small state machine:
//
//   overflow  -> scale *= backoff (not below min), good_steps = 0, skips_in_row += 1; nothing else advances
//   clean     -> good_steps += 1, skips_in_row = 0; at growth_interval: scale *= growth (not above max), good_steps = 0
//
// The gradients of a step were made with the scale that stood before it: the norm is that of gradient / scale, clipping
// acts on it, and only then the weights move. On overflow neither Adam's step nor the schedule advances. For an update
// that was planned and had nothing to learn from, the schedule alone advances.
//
// Several processes (ZeRO-1): gradients are summed in fp32, each process gets the sum of its parts, updates its masters
// and moments, and all gather the compute copy. The statistics are summed too, so all decide alike. Of a set in parts
// (Sharding::kParameters) gradients are summed before (ParamWindows), and nothing is gathered.
//
// Masters and moments in host memory (Placement::kHost) pass through the device while a step runs, to the same bits.
#pragma once

#include <functional>

#include "core/comm.h"
#include "core/fields.h"
#include "core/kernels.h"
#include "nn/params.h"
#include "nn/sharding.h"

namespace mantissa {

struct OptimConfig {
  double lr = 1e-6;
  std::string schedule = "constant";  // constant, linear, cosine
  int64_t warmup_steps = 0;
  double min_lr_ratio = 0.0;  // linear and cosine end at lr * min_lr_ratio
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.0;
  double grad_clip = 1.0;  // global norm; 0 = off
  void fields(Fields& f);
};

struct ScalerConfig {
  std::string mode = "auto";  // auto: dynamic for fp16, off for bf16 and fp32; dynamic; static; off
  double init_scale = 65536.0;
  double growth_factor = 2.0, backoff_factor = 0.5;
  int64_t growth_interval = 400;
  double min_scale = 1.0;
  int64_t max_skips_in_row = 16;  // one more stops the run with a diagnosis
  void fields(Fields& f);
};

/// The kernel's rule and the scale to start with (1 when off), with "auto" decided by the compute type.
struct ScalerStart {
  ScalerRule rule;
  float scale;
};
ScalerStart resolve_scaler(const ScalerConfig& config, Dtype compute);

/// Learning rate of optimizer step `step` (0-based: the number of completed steps) out of `total`. Warm-up: step s < w
/// has lr (s + 1) / w. After it, with progress p = (step - w) / (total - w) clamped to [0, 1] and r = min_lr_ratio:
/// constant lr; linear lr (1 - (1 - r) p); cosine lr (r + (1 - r) (1 + cos(pi p)) / 2).
double learning_rate(const OptimConfig& config, int64_t step, int64_t total);

/// What one step did, read from the device after it (one small copy).
struct StepReport {
  bool skipped = false;
  double grad_norm = 0.0;  // of the unscaled gradient, before clipping; NaN or inf on a skipped step
  double lr = 0.0;
  double loss_scale = 1.0;  // the scale the gradients of this step were made with
  int64_t skips_total = 0;
  int64_t skips_in_row = 0;
};

/// Rounds the masters into the compute and rollout copies, where these are buffers of their own. `comm` joins the
/// processes of a set in parts.
void refresh_copies(Exec& exec, const ParamSet& params, Comm& comm = single_comm());

class Optimizer {
 public:
  /// Makes m, v and gradients (and masters when there are none) in `params`. The compute type decides mode "auto". On
  /// one process fp32 weights are their own masters. `comm` joins the processes that params.shard counts.
  Optimizer(Exec& exec, ParamSet& params, const OptimConfig& optim, const ScalerConfig& scaler, int64_t total_steps,
            Comm& comm = single_comm());

  Comm& comm() const { return comm_; }

  /// The StepState record in device memory: pass it to token_logprobs so that the gradient is scaled.
  const Tensor& state() const { return state_; }
  /// Sets all gradients to zero.
  void zero_grad();
  /// The same for the passes that follow, whose first gradients are written; what gets none is cleared before the sums.
  void renew_grad();
  /// Of a set in parts: gives the memory of gradients back until zero_grad().
  void release_grad();
  /// In the last backward before a step: the gradients of `unit` of the set and of all units after it are whole, and
  /// their sums over processes begin, beside what the device has still to do (GradientSum::begin).
  void begin_sum(int unit) { sum_.begin(unit); }
  /// Sums the rest of the gradients over processes, then unscale, clip, step or skip. Throws when max_skips_in_row is
  /// exceeded.
  StepReport step();
  /// From here on the schedule is `steps` ahead of Adam: that many were planned, and there was nothing to learn from.
  void set_missed(int64_t steps) { missed_ = steps; }
  /// `call` comes in each step before masters and moments change. It may wait; what it throws ends the step.
  void before_change(std::function<void()> call) { before_change_ = std::move(call); }
  /// Host copy of the record, and back (checkpoints).
  StepState read_state() const;
  void write_state(const StepState& state);

 private:
  [[noreturn]] void fail_overflow(const StepReport& report, const StepState& state) const;

  /// Elements of this process's part of a unit that have the same weight decay, or some of them.
  struct Piece {
    int unit;
    int64_t begin, end;
    double weight_decay;
    bool last;  // of its unit
  };

  void make_masters();
  /// Large units first: the last ones' gathers have nothing beside them.
  std::vector<Piece> pieces(int64_t most) const;
  /// AdamW, and the rounded copies, on a piece, given what is kept of it.
  void update(const Piece& piece, Tensor master, Tensor m, Tensor v);
  /// All of them, from host memory and back; `done` is called after each.
  void update_from_host(const std::vector<Piece>& pieces, const std::function<void(const Piece&)>& done);

  Exec& exec_;
  Comm& comm_;
  ParamSet& params_;
  GradientSum sum_;
  OptimConfig optim_;
  ScalerConfig scaler_;
  ScalerRule rule_;
  int64_t total_steps_, missed_ = 0;
  Tensor state_, sum_squares_, not_finite_;  // the record, and two of its fields
  std::function<void()> before_change_;
  StepState known_;  // what state_ holds between steps: a step starts without reading it back
};

}  // namespace mantissa
