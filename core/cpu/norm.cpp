// RMSNorm over rows and over the query and key heads of qkv rows. With xhat = x * rstd:
//   y = xhat w,   dx = rstd (w dy - xhat mean(w dy xhat)),   dw += sum over rows of dy xhat.
// Legend: T rows, C width, H query heads, G key/value heads, D head size.
#include <cmath>

#include "core/cpu/cpu.h"
#include "core/cpu/rows.h"

namespace mantissa::cpu_kernels {
namespace {

/// One row forward; returns rstd.
template <class C>
C normalize(C* y, const C* x, const C* w, int64_t n, double eps) {
  const C mean = lane_sum<C>(n, [&](int64_t i) { return x[i] * x[i]; }) / C(n);
  const C rstd = C(1) / std::sqrt(mean + C(eps));
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * rstd * w[i];
  return rstd;
}

/// One row of the gradient; dx may alias dy or x.
template <class C>
void normalize_bwd(C* dx, const C* dy, const C* x, const C* w, C rstd, int64_t n) {
  const C dot = lane_sum<C>(n, [&](int64_t i) { return w[i] * dy[i] * (x[i] * rstd); }) / C(n);
  for (int64_t i = 0; i < n; ++i) dx[i] = rstd * (w[i] * dy[i] - x[i] * rstd * dot);
}

void rms_norm_fwd(Exec& exec, Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
  const int64_t width = x.size(-1), rows = x.rows();
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    Scratch scratch(exec);
    const C* weight = widen(w, 0, width, scratch.take<C>(width));
    const ThreadBuffers<C> buffers(exec, 2 * width);
    C* r = rstd.data<C>();
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      const C* in = widen(x, t * width, width, buffers.mine());
      C* out = target(y, t * width, buffers.mine() + width);
      r[t] = normalize(out, in, weight, width, eps);
      narrow(y, t * width, width, out);
    }
  }, x);
}

void rms_norm_bwd(Exec& exec, Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                  const Tensor& rstd) {
  const int64_t width = x.size(-1), rows = x.rows();
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    Scratch scratch(exec);
    const C* weight = widen(w, 0, width, scratch.take<C>(width));
    const ThreadBuffers<C> buffers(exec, 3 * width);
    const C* r = rstd.data<C>();
    const int64_t partial_width = dw.defined() ? width : 0;
    sum_rows(exec, rows, partial_width, dw.defined() ? dw.data<C>() : nullptr, [&](int64_t t, C* partial) {
      C* buffer = buffers.mine();
      const C* in = widen(x, t * width, width, buffer);
      const C* grad = widen(dy, t * width, width, buffer + width);
      for (int64_t i = 0; i < partial_width; ++i) partial[i] += grad[i] * (in[i] * r[t]);
      C* out = target(dx, t * width, buffer + 2 * width);
      normalize_bwd(out, grad, in, weight, r[t], width);
      narrow(dx, t * width, width, out);
    });
  }, x);
}

void qk_norm_fwd(Exec& exec, Tensor& out, Tensor& rstd, const Tensor& qkv, const Tensor& qw, const Tensor& kw,
                 Heads heads, double eps) {
  const int64_t width = heads.row(), rows = qkv.rows(), size = heads.size, normed = heads.query + heads.kv;
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    Scratch scratch(exec);
    const C* q_weight = widen(qw, 0, size, scratch.take<C>(size));
    const C* k_weight = widen(kw, 0, size, scratch.take<C>(size));
    const ThreadBuffers<C> buffers(exec, 2 * width);
    C* r = rstd.data<C>();
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      const C* in = widen(qkv, t * width, width, buffers.mine());
      C* y = target(out, t * width, buffers.mine() + width);
      for (int64_t h = 0; h < normed; ++h)
        r[t * normed + h] =
            normalize(y + h * size, in + h * size, h < heads.query ? q_weight : k_weight, size, eps);
      std::copy(in + normed * size, in + width, y + normed * size);
      narrow(out, t * width, width, y);
    }
  }, qkv);
}

void qk_norm_bwd(Exec& exec, Tensor& dqkv, Tensor& dqw, Tensor& dkw, const Tensor& dout, const Tensor& qkv,
                 const Tensor& qw, const Tensor& kw, const Tensor& rstd, Heads heads) {
  const int64_t width = heads.row(), rows = qkv.rows(), size = heads.size, normed = heads.query + heads.kv;
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    Scratch scratch(exec);
    const C* q_weight = widen(qw, 0, size, scratch.take<C>(size));
    const C* k_weight = widen(kw, 0, size, scratch.take<C>(size));
    C* totals = scratch.take<C>(2 * size);  // [query | key]
    std::fill(totals, totals + 2 * size, C(0));
    const ThreadBuffers<C> buffers(exec, 3 * width);
    const C* r = rstd.data<C>();
    sum_rows(exec, rows, 2 * size, totals, [&](int64_t t, C* partial) {
      C* buffer = buffers.mine();
      const C* in = widen(qkv, t * width, width, buffer);
      const C* grad = widen(dout, t * width, width, buffer + width);
      C* dx = target(dqkv, t * width, buffer + 2 * width);
      for (int64_t h = 0; h < normed; ++h) {
        const bool query = h < heads.query;
        const C head_rstd = r[t * normed + h];
        const C *x = in + h * size, *dy = grad + h * size;
        C* dw = partial + (query ? 0 : size);
        for (int64_t i = 0; i < size; ++i) dw[i] += dy[i] * (x[i] * head_rstd);
        normalize_bwd(dx + h * size, dy, x, query ? q_weight : k_weight, head_rstd, size);
      }
      std::copy(grad + normed * size, grad + width, dx + normed * size);
      narrow(dqkv, t * width, width, dx);
    });
    for (int64_t i = 0; dqw.defined() && i < size; ++i) dqw.data<C>()[i] += totals[i];
    for (int64_t i = 0; dkw.defined() && i < size; ++i) dkw.data<C>()[i] += totals[size + i];
  }, qkv);
}

}  // namespace

void register_norm(Kernels& table) {
  table.rms_norm_fwd = rms_norm_fwd;
  table.rms_norm_bwd = rms_norm_bwd;
  table.qk_norm_fwd = qk_norm_fwd;
  table.qk_norm_bwd = qk_norm_bwd;
}

}  // namespace mantissa::cpu_kernels
