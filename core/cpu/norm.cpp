// RMSNorm over rows and over the query and key heads of qkv rows. With xhat = x * rstd:
//   y = xhat w,   dx = rstd (w dy - xhat mean(w dy xhat)),   dw += sum over rows of dy xhat.
// Legend: T rows, C width, H query heads, G key/value heads, D head size.
#define HWY_TARGET_INCLUDE "core/cpu/norm.cpp"
#include "core/cpu/simd-inl.h"

#include <cmath>

#include "core/cpu/kernels.h"
#include "core/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

/// One row forward; returns rstd.
template <class C>
C normalize(C* y, const C* x, const C* w, int64_t n, double eps) {
  const C mean = sum_of(n, [](auto acc, auto v) HWY_ATTR { return fma(v, v, acc); }, x) / C(n);
  const C rstd = C(1) / std::sqrt(mean + C(eps));
  transform(n, [=](auto v, auto weight) HWY_ATTR { return v * splat<decltype(v)>(rstd) * weight; }, y, x, w);
  return rstd;
}

/// One row of the gradient.
template <class C>
void normalize_bwd(C* dx, const C* dy, const C* x, const C* w, C rstd, int64_t n) {
  const C mean = sum_of(
                     n,
                     [=](auto acc, auto v, auto weight, auto d)
                         HWY_ATTR { return fma(weight * d, v * splat<decltype(v)>(rstd), acc); },
                     x, w, dy) /
                 C(n);
  transform(
      n,
      [=](auto v, auto weight, auto d) HWY_ATTR {
        const auto r = splat<decltype(v)>(rstd);
        return r * (weight * d - v * r * splat<decltype(v)>(mean));
      },
      dx, x, w, dy);
}

/// dw += dy xhat of one row.
template <class C>
void add_weight_gradient(C* dw, const C* dy, const C* x, C rstd, int64_t n) {
  transform(
      n, [=](auto total, auto d, auto v) HWY_ATTR { return fma(d, v * splat<decltype(v)>(rstd), total); }, dw, dw, dy,
      x);
}

void rms_norm_fwd(Exec& exec, Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
  const int64_t width = x.size(-1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        Scratch scratch(exec);
        const C* weight = widen(w, 0, width, scratch.take<C>(width));
        const ThreadBuffers<C> buffers(exec, 2 * width);
        C* r = rstd.data<C>();
        for_rows(x.rows(), width, [&](int64_t t) HWY_ATTR {
          const C* in = widen(x, t * width, width, buffers.mine());
          C* out = target(y, t * width, buffers.mine() + width);
          r[t] = normalize(out, in, weight, width, eps);
          narrow(y, t * width, width, out);
        });
      },
      x);
}

/// Row t of sum, which is rounded already, += that of b.
template <class C>
void add_row_of(const Tensor& b, const Tensor& sum, int64_t t, int64_t width, C* buffer) {
  const C* left = widen(b, t * width, width, buffer);
  const C* right = widen(sum, t * width, width, buffer + width);
  C* out = target(sum, t * width, buffer);
  transform(width, [](auto u, auto v) HWY_ATTR { return u + v; }, out, left, right);
  narrow(sum, t * width, width, out);
}

void rms_norm_bwd(Exec& exec, Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                  const Tensor& rstd, const Tensor& before) {
  const int64_t width = x.size(-1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        Scratch scratch(exec);
        const C* weight = widen(w, 0, width, scratch.take<C>(width));
        const ThreadBuffers<C> buffers(exec, 3 * width);
        const C* r = rstd.data<C>();
        const auto add_row = [&](int64_t t, C* partial) HWY_ATTR {
          C* buffer = buffers.mine();
          const C* in = widen(x, t * width, width, buffer);
          const C* grad = widen(dy, t * width, width, buffer + width);
          if (partial) add_weight_gradient(partial, grad, in, r[t], width);
          C* out = target(dx, t * width, buffer + 2 * width);
          normalize_bwd(out, grad, in, weight, r[t], width);
          narrow(dx, t * width, width, out);
          if (before.defined()) add_row_of(before, dx, t, width, buffer);
        };
        if (dw.defined())
          sum_rows(exec, x.rows(), width, dw.data<C>(), add_row);
        else
          for_rows(x.rows(), width, [&](int64_t t) HWY_ATTR { add_row(t, nullptr); });
      },
      x);
}

void qk_norm_fwd(Exec& exec, Tensor& out, Tensor& rstd, const Tensor& qkv, const Tensor& qw, const Tensor& kw,
                 Heads heads, double eps) {
  const int64_t width = heads.row(), size = heads.size, normed = heads.query + heads.kv;
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        Scratch scratch(exec);
        const C* q_weight = widen(qw, 0, size, scratch.take<C>(size));
        const C* k_weight = widen(kw, 0, size, scratch.take<C>(size));
        const ThreadBuffers<C> buffers(exec, 2 * width);
        C* r = rstd.data<C>();
        for_rows(qkv.rows(), width, [&](int64_t t) HWY_ATTR {
          const C* in = widen(qkv, t * width, width, buffers.mine());
          C* y = target(out, t * width, buffers.mine() + width);
          for (int64_t h = 0; h < normed; ++h)
            r[t * normed + h] =
                normalize(y + h * size, in + h * size, h < heads.query ? q_weight : k_weight, size, eps);
          if (y != in) std::copy(in + normed * size, in + width, y + normed * size);
          narrow(out, t * width, width, y);
        });
      },
      qkv);
}

void qk_norm_bwd(Exec& exec, Tensor& dqkv, Tensor& dqw, Tensor& dkw, const Tensor& dout, const Tensor& qkv,
                 const Tensor& qw, const Tensor& kw, const Tensor& rstd, Heads heads) {
  const int64_t width = heads.row(), size = heads.size, normed = heads.query + heads.kv;
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        Scratch scratch(exec);
        const C* q_weight = widen(qw, 0, size, scratch.take<C>(size));
        const C* k_weight = widen(kw, 0, size, scratch.take<C>(size));
        C* totals = scratch.take<C>(2 * size);  // [query | key]
        std::fill(totals, totals + 2 * size, C(0));
        const ThreadBuffers<C> buffers(exec, 3 * width);
        const C* r = rstd.data<C>();
        sum_rows(exec, qkv.rows(), 2 * size, totals, [&](int64_t t, C* partial) HWY_ATTR {
          C* buffer = buffers.mine();
          const C* in = widen(qkv, t * width, width, buffer);
          const C* grad = widen(dout, t * width, width, buffer + width);
          C* dx = target(dqkv, t * width, buffer + 2 * width);
          for (int64_t h = 0; h < normed; ++h) {
            const bool query = h < heads.query;
            const C head_rstd = r[t * normed + h];
            const C *x = in + h * size, *dy = grad + h * size;
            add_weight_gradient(partial + (query ? 0 : size), dy, x, head_rstd, size);
            normalize_bwd(dx + h * size, dy, x, query ? q_weight : k_weight, head_rstd, size);
          }
          if (dx != grad) std::copy(grad + normed * size, grad + width, dx + normed * size);
          narrow(dqkv, t * width, width, dx);
        });
        for (int64_t i = 0; dqw.defined() && i < size; ++i) dqw.data<C>()[i] += totals[i];
        for (int64_t i = 0; dkw.defined() && i < size; ++i) dkw.data<C>()[i] += totals[size + i];
      },
      qkv);
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {
namespace {

void add_rms_norm_fwd(Exec& exec, Tensor& sum, Tensor& y, Tensor& rstd, const Tensor& a, const Tensor& b,
                      const Tensor& w, double eps) {
  MANTISSA_RUN(exec, binary, sum, a, b, Binary::kAdd);
  MANTISSA_RUN(exec, rms_norm_fwd, y, rstd, sum, w, eps);
}

}  // namespace

HWY_EXPORT(rms_norm_fwd);
HWY_EXPORT(rms_norm_bwd);
HWY_EXPORT(qk_norm_fwd);
HWY_EXPORT(qk_norm_bwd);

void register_norm(Kernels& table) {
  MANTISSA_ENTER(table.rms_norm_fwd, rms_norm_fwd);
  table.add_rms_norm_fwd = add_rms_norm_fwd;
  MANTISSA_ENTER(table.rms_norm_bwd, rms_norm_bwd);
  MANTISSA_ENTER(table.qk_norm_fwd, qk_norm_fwd);
  MANTISSA_ENTER(table.qk_norm_bwd, qk_norm_bwd);
}

}  // namespace mantissa::cpu_kernels
#endif
