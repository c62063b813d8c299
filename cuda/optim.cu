// Optimizer kernels: gradient statistics, the decision of a step, AdamW. All of them read and write the StepState on
// the device; the host waits for nothing. Legend: N elements of a flat buffer.
#include <cmath>

#include "cuda/common.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kSumThreads = 1024;
constexpr int64_t kGradBlock = 32768;  // elements of one partial sum

__device__ StepState& state_at(void* p) {
  return *static_cast<StepState*>(p);
}

// In double the squares of finite floats stay finite, and so does the sum of all that memory can hold: the sum is not
// finite exactly when one of the gradients is not, however large the loss scale.
__global__ void __launch_bounds__(kThreads) sum_squares(double* partials, const float* g, int64_t n, bool wide) {
  constexpr int kStep = kThreads * 4;
  const int64_t begin = blockIdx.x * kGradBlock, end = min(n, begin + kGradBlock);
  double total = 0.0;
  if (wide && end - begin == kGradBlock) {
    constexpr int kAhead = 8;  // loads in flight
    static_assert(kGradBlock % (kStep * kAhead) == 0);
    for (int64_t i = begin + threadIdx.x * 4; i < end; i += kStep * kAhead) {
      float4 x[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) x[j] = __ldcs(reinterpret_cast<const float4*>(g + i + j * kStep));
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        total = fma(double(x[j].x), double(x[j].x), total);
        total = fma(double(x[j].y), double(x[j].y), total);
        total = fma(double(x[j].z), double(x[j].z), total);
        total = fma(double(x[j].w), double(x[j].w), total);
      }
    }
  } else {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) total = fma(double(g[i]), double(g[i]), total);
  }
  total = block_sum<kThreads>(total);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kSumThreads) add_statistics(void* state, const double* partials, int count) {
  double total = 0.0;
  for (int i = threadIdx.x; i < count; i += kSumThreads) total += partials[i];
  total = block_sum<kSumThreads>(total);
  if (threadIdx.x != 0) return;
  StepState& s = state_at(state);
  s.sum_squares += total;
  if (!isfinite(total)) s.not_finite = 1;
}

void grad_stats(Exec& exec, Tensor& state, const Tensor& grad) {
  const int64_t n = grad.numel();
  if (n == 0) return;
  check(grad.dtype() == Dtype::kF32, "[grad_stats] gradients must be fp32: got ", name_of(grad.dtype()));
  const unsigned count = blocks(n, kGradBlock);
  Scratch scratch(exec);
  double* partials = scratch.take<double>(count);
  const float* g = elements<float>(grad);
  sum_squares<<<count, kThreads, 0, stream(exec)>>>(partials, g, n, aligned({g}));
  MANTISSA_LAUNCH_CHECK();
  add_statistics<<<1, kSumThreads, 0, stream(exec)>>>(state.raw(), partials, int(count));
  MANTISSA_LAUNCH_CHECK();
}

/// One thread; the same arithmetic as the CPU's step_decide.
__global__ void decide(void* state, ScalerRule rule, double max_norm) {
  StepState& s = state_at(state);
  const double norm = sqrt(s.sum_squares) / double(s.loss_scale);
  const double clip = max_norm > 0.0 && norm > max_norm ? max_norm / norm : 1.0;
  s.overflow = s.not_finite != 0 || !isfinite(s.sum_squares);
  s.grad_norm = float(norm);
  s.grad_factor = s.overflow ? 0.0f : float(clip / double(s.loss_scale));
  s.sum_squares = 0.0;
  s.not_finite = 0;
  if (s.overflow) {
    s.good_steps = 0;
    s.skips_in_row += 1;
    s.skips_total += 1;
    if (rule.dynamic) s.loss_scale = fminf(s.loss_scale, fmaxf(s.loss_scale * rule.backoff_factor, rule.min_scale));
    return;
  }
  s.adam_step += 1;
  s.skips_in_row = 0;
  s.good_steps += 1;
  if (rule.dynamic && s.good_steps >= rule.growth_interval) {
    s.loss_scale = fmaxf(s.loss_scale, fminf(s.loss_scale * rule.growth_factor, rule.max_scale));
    s.good_steps = 0;
  }
}

void step_decide(Exec& exec, Tensor& state, ScalerRule rule, double max_norm) {
  decide<<<1, 1, 0, stream(exec)>>>(state.raw(), rule, max_norm);
  MANTISSA_LAUNCH_CHECK();
}

/// What is the same for all elements of a step.
struct Step {
  float rest1, rest2, beta2, eps, factor, step, inv_root, keep;
};

__device__ Step step_of(const StepState& s, const AdamWRule& rule) {
  const double correction1 = 1.0 - pow(double(rule.beta1), double(s.adam_step));
  const double correction2 = 1.0 - pow(double(rule.beta2), double(s.adam_step));
  return {.rest1 = float(1.0 - double(rule.beta1)),
          .rest2 = float(1.0 - double(rule.beta2)),
          .beta2 = rule.beta2,
          .eps = rule.eps,
          .factor = s.grad_factor,
          .step = float(double(s.lr) / correction1),
          .inv_root = float(1.0 / sqrt(correction2)),
          .keep = float(1.0 - double(s.lr) * double(rule.weight_decay))};
}

__device__ __forceinline__ void update(const Step& s, float gradient, float& w, float& m, float& v) {
  const float g = gradient * s.factor;
  m = fmaf(s.rest1, g - m, m);
  v = fmaf(s.rest2, g * g, s.beta2 * v);
  const float direction = m / fmaf(sqrtf(v), s.inv_root, s.eps);
  w = fmaf(-s.step, direction, s.keep * w);
}

/// N elements at i of all arrays; kCopy: the rounded copy is written too.
template <int N, bool kCopy, class T>
__device__ __forceinline__ void update_at(const Step& s, int64_t i, float* w, float* m, float* v, T* copy,
                                          const float* grad) {
  float g_[N], w_[N], m_[N], v_[N];
  load_floats(g_, grad + i);
  load_floats(w_, w + i);
  load_floats(m_, m + i);
  load_floats(v_, v + i);
#pragma unroll
  for (int j = 0; j < N; ++j) update(s, g_[j], w_[j], m_[j], v_[j]);
  store_floats(w + i, w_);
  store_floats(m + i, m_);
  store_floats(v + i, v_);
  if constexpr (kCopy) store_floats(copy + i, w_);
}

template <bool kCopy, class T>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(int64_t n, float* w, float* m, float* v, T* copy, const float* grad, const void* state, AdamWRule rule,
                 bool wide) {
  const StepState& s = *static_cast<const StepState*>(state);
  if (s.overflow) return;
  __shared__ Step shared;
  if (threadIdx.x == 0) shared = step_of(s, rule);
  __syncthreads();
  const Step step = shared;
  const int64_t first = blockIdx.x * int64_t(kThreads) + threadIdx.x, stride = int64_t(gridDim.x) * kThreads;
  const int64_t packs = wide ? n / 4 : 0;
  for (int64_t i = first; i < packs; i += stride) update_at<4, kCopy>(step, 4 * i, w, m, v, copy, grad);
  for (int64_t i = 4 * packs + first; i < n; i += stride) update_at<1, kCopy>(step, i, w, m, v, copy, grad);
}

void adamw(Exec& exec, Tensor& master, Tensor& m, Tensor& v, Tensor& compute, const Tensor& grad, const Tensor& state,
           AdamWRule rule) {
  const int64_t n = master.numel();
  if (n == 0) return;
  const bool has_copy = compute.defined() && !compute.same_as(master);
  float *w = elements<float>(master), *m1 = elements<float>(m), *m2 = elements<float>(v);
  const float* g = elements<float>(grad);
  const bool wide = aligned({w, m1, m2, g, has_copy ? compute.raw() : nullptr});
  // Enough blocks to fill the device, few enough that the powers of beta cost nothing.
  const unsigned grid = std::min(blocks(n, 4 * kThreads), unsigned(device_facts(exec).sms) * 16);
  if (!has_copy) {
    adamw_kernel<false><<<grid, kThreads, 0, stream(exec)>>>(n, w, m1, m2, w, g, state.raw(), rule, wide);
    MANTISSA_LAUNCH_CHECK();
    return;
  }
  visit_float(compute.dtype(), [&]<class T>(std::type_identity<T>) {
    adamw_kernel<true>
        <<<grid, kThreads, 0, stream(exec)>>>(n, w, m1, m2, elements<T>(compute), g, state.raw(), rule, wide);
    MANTISSA_LAUNCH_CHECK();
  });
}

}  // namespace

void register_optim(Kernels& table) {
  table.grad_stats = grad_stats;
  table.step_decide = step_decide;
  table.adamw = adamw;
}

}  // namespace mantissa::cuda_kernels
