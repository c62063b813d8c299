// Optimizer kernels: gradient statistics, the decision of a step, AdamW. Legend: N elements of a flat buffer.
#define HWY_TARGET_INCLUDE "core/cpu/optim.cpp"
#include "core/cpu/simd-inl.h"

#include <cmath>

#include "core/cpu/kernels.h"
#include "core/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kGradBlock = 65536;  // elements of one partial sum

inline StepState& state_of(const Tensor& state) {
  return *static_cast<StepState*>(state.raw());
}

// In double the squares of finite floats stay finite, and so does the sum of all that memory can hold: the sum is not
// finite exactly when one of the gradients is not, however large the loss scale.
inline double block_sum_squares(const float* x, int64_t n) {
  double part[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int lane = 0; lane < 16; ++lane) part[lane] += double(x[i + lane]) * double(x[i + lane]);
  for (int lane = 0; i < n; ++i, ++lane) part[lane] += double(x[i]) * double(x[i]);
  for (int width = 8; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
  return part[0];
}

void grad_stats(Exec& exec, Tensor& state, const Tensor& grad) {
  const int64_t n = grad.numel(), blocks = blocks_of(n, kGradBlock);
  const float* g = grad.data<float>();
  Scratch scratch(exec);
  double* partials = scratch.take<double>(blocks);
  for_rows(blocks, kGradBlock, [&](int64_t block) HWY_ATTR {
    const int64_t begin = block * kGradBlock;
    partials[block] = block_sum_squares(g + begin, std::min(kGradBlock, n - begin));
  });
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
  const bool has_copy = compute.defined() && !compute.same_as(master);
  float *w = master.data<float>(), *m1 = m.data<float>(), *m2 = v.data<float>();
  const float* gradient = grad.data<float>();
  for_tiles(master.numel(), [&](int64_t begin, int64_t n) HWY_ATTR {
    const auto update = [&](int64_t i, auto load_from, auto store_to) HWY_ATTR {
      const Vec g = load_from(gradient + i) * set(s.grad_factor);
      const Vec old_m = load_from(m1 + i), old_v = load_from(m2 + i);
      const Vec new_m = fma(set(rest1), g - old_m, old_m);
      const Vec new_v = fma(set(rest2), g * g, set(rule.beta2) * old_v);
      const Vec direction = new_m / fma(sqrt(new_v), set(inv_root), set(rule.eps));
      store_to(m1 + i, new_m);
      store_to(m2 + i, new_v);
      store_to(w + i, fma(set(-step), direction, set(keep) * load_from(w + i)));
    };
    int64_t i = begin;
    const int64_t end = begin + n;
    for (; i + kLanes <= end; i += kLanes)
      update(i, [](const float* p) HWY_ATTR { return load(p); }, [](float* p, Vec x) HWY_ATTR { store(p, x); });
    if (i < end)
      update(
          i, [&](const float* p) HWY_ATTR { return load_n(p, end - i); },
          [&](float* p, Vec x) HWY_ATTR { store_n(p, x, end - i); });
    if (!has_copy) return;
    if (compute.dtype() == Dtype::kF32)
      std::copy(w + begin, w + end, compute.data<float>() + begin);
    else
      narrow(compute, begin, n, static_cast<const float*>(w + begin));
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {

HWY_EXPORT(grad_stats);
HWY_EXPORT(step_decide);
HWY_EXPORT(adamw);

void register_optim(Kernels& table) {
  MANTISSA_ENTER(table.grad_stats, grad_stats);
  MANTISSA_ENTER(table.step_decide, step_decide);
  MANTISSA_ENTER(table.adamw, adamw);
}

}  // namespace mantissa::cpu_kernels
#endif
