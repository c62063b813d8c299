// Optimizer kernels: gradient statistics, the decision of a step, AdamW. Legend: N elements of a flat buffer.
#include <cmath>

#include "core/cpu/cpu.h"
#include "core/cpu/rows.h"

namespace mantissa::cpu_kernels {
namespace {

constexpr int64_t kGradBlock = 65536;  // elements of one partial sum

StepState& state_of(const Tensor& state) { return *static_cast<StepState*>(state.raw()); }

// In double the squares of finite floats stay finite, and so does the sum of all that memory can hold: a block's sum is
// not finite exactly when one of its gradients is not, however large the loss scale.
void grad_stats(Exec& exec, Tensor& state, const Tensor& grad) {
  const int64_t n = grad.numel(), blocks = blocks_of(n, kGradBlock);
  const float* g = grad.data<float>();
  Scratch scratch(exec);
  double* partials = scratch.take<double>(blocks);
#pragma omp parallel for schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    const float* x = g + block * kGradBlock;
    partials[block] = lane_sum<double>(std::min(kGradBlock, n - block * kGradBlock),
                                       [&](int64_t i) { return double(x[i]) * double(x[i]); });
  }
  StepState& s = state_of(state);
  for (int64_t block = 0; block < blocks; ++block) {
    s.sum_squares += partials[block];
    if (!std::isfinite(partials[block])) s.not_finite = 1;
  }
}

void step_decide(Exec&, Tensor& state, ScalerRule rule, double max_norm) {
  StepState& s = state_of(state);
  const double norm = std::sqrt(s.sum_squares) / double(s.loss_scale);
  const double clip = max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
  s.overflow = s.not_finite != 0 || !std::isfinite(s.sum_squares);
  s.grad_norm = float(norm);
  s.grad_factor = s.overflow ? 0.0f : float(clip / double(s.loss_scale));
  s.sum_squares = 0.0;
  s.not_finite = 0;
  if (s.overflow) {
    s.good_steps = 0;
    s.skips_in_row += 1;
    s.skips_total += 1;
    // A scale set outside [min, max] by the user is not pulled the wrong way.
    if (rule.dynamic)
      s.loss_scale = std::min(s.loss_scale, std::max(s.loss_scale * rule.backoff_factor, rule.min_scale));
    return;
  }
  s.adam_step += 1;
  s.skips_in_row = 0;
  s.good_steps += 1;
  if (rule.dynamic && s.good_steps >= rule.growth_interval) {
    s.loss_scale = std::max(s.loss_scale, std::min(s.loss_scale * rule.growth_factor, rule.max_scale));
    s.good_steps = 0;
  }
}

void adamw(Exec&, Tensor& master, Tensor& m, Tensor& v, Tensor& compute, const Tensor& grad, const Tensor& state,
           AdamWRule rule) {
  const StepState& s = state_of(state);
  if (s.overflow) return;
  const float rest1 = float(1.0 - double(rule.beta1)), rest2 = float(1.0 - double(rule.beta2));
  const double correction1 = 1.0 - std::pow(double(rule.beta1), s.adam_step);
  const double correction2 = 1.0 - std::pow(double(rule.beta2), s.adam_step);
  const float step = float(double(s.lr) / correction1), inv_root = float(1.0 / std::sqrt(correction2));
  const float keep = float(1.0 - double(s.lr) * double(rule.weight_decay));
  const float factor = s.grad_factor, beta2 = rule.beta2, eps = rule.eps;
  const bool has_copy = compute.defined() && !compute.same_as(master);
  const int64_t n = master.numel();
  float *w = master.data<float>(), *m1 = m.data<float>(), *m2 = v.data<float>();
  const float* gradient = grad.data<float>();
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < blocks_of(n, kTile); ++tile) {
    const int64_t begin = tile * kTile, end = std::min(n, begin + kTile);
    for (int64_t i = begin; i < end; ++i) {
      const float g = gradient[i] * factor;
      m1[i] = m1[i] + rest1 * (g - m1[i]);
      m2[i] = beta2 * m2[i] + rest2 * (g * g);
      w[i] = keep * w[i] - step * (m1[i] / (std::sqrt(m2[i]) * inv_root + eps));
    }
    if (!has_copy) continue;
    if (compute.dtype() == Dtype::kF32) std::copy(w + begin, w + end, compute.data<float>() + begin);
    else narrow(compute, begin, end - begin, w + begin);
  }
}

}  // namespace

void register_optim(Kernels& table) {
  table.grad_stats = grad_stats;
  table.step_decide = step_decide;
  table.adamw = adamw;
}

}  // namespace mantissa::cpu_kernels
