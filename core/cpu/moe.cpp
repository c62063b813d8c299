// Mixture of experts: which experts a row goes to, the rows of an expert brought together, and their way back.
// Legend: T rows, E experts, K slots (experts a row goes to), R = T K grouped rows, C width.
#define HWY_TARGET_INCLUDE "core/cpu/moe.cpp"
#include "core/cpu/simd-inl.h"

#include <algorithm>

#include "core/cpu/kernels.h"
#include "core/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

/// p = softmax of one row of n logits.
template <class C>
void softmax(C* p, const C* logits, int64_t n) {
  const C largest = max_of(n, [](auto v) HWY_ATTR { return v; }, logits);
  transform(n, [=](auto v) HWY_ATTR { return exp(v - splat<decltype(v)>(largest)); }, p, logits);
  const C total = sum_elements(n, static_cast<const C*>(p));
  transform(n, [=](auto v) HWY_ATTR { return v / splat<decltype(v)>(total); }, p, static_cast<const C*>(p));
}

/// The `slots` largest of n logits, largest first; of equal ones (and of NaNs) the lower index first.
template <class C>
void pick(int32_t* picked, const C* logits, int64_t n, int64_t slots) {
  for (int64_t j = 0; j < slots; ++j) {
    int32_t best = -1;
    for (int32_t e = 0; e < n; ++e)
      if (std::find(picked, picked + j, e) == picked + j && (best < 0 || logits[e] > logits[best])) best = e;
    picked[j] = best;
  }
}

/// The weights w of a row's experts, whose probabilities are among p.
template <class C>
void weigh(C* w, const C* p, const int32_t* experts, int64_t slots, bool normalise) {
  C total = 0;
  for (int64_t j = 0; j < slots; ++j) total += w[j] = p[experts[j]];
  for (int64_t j = 0; normalise && j < slots; ++j) w[j] /= total;
}

void route(Exec& exec, Tensor& weights, Tensor& experts, const Tensor& logits, bool normalise) {
  const int64_t count = logits.size(1), slots = experts.size(1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, count);
        for_rows(logits.rows(), count * slots, [&](int64_t t) HWY_ATTR {
          const C* row = logits.data<C>() + t * count;
          int32_t* picked = experts.data<int32_t>() + t * slots;
          C* p = buffers.mine();
          softmax(p, row, count);
          pick(picked, row, count, slots);
          weigh(weights.data<C>() + t * slots, p, picked, slots, normalise);
        });
      },
      logits);
}

void route_given(Exec& exec, Tensor& weights, Tensor& experts, const Tensor& logits, const Tensor& given,
                 bool normalise) {
  const int64_t count = logits.size(1), slots = experts.size(1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, count);
        for_rows(logits.rows(), count, [&](int64_t t) HWY_ATTR {
          const uint8_t* row = given.data<uint8_t>() + t * slots;
          if (*row == kNotGiven) return;
          int32_t* picked = experts.data<int32_t>() + t * slots;
          C* p = buffers.mine();
          softmax(p, logits.data<C>() + t * count, count);
          std::copy_n(row, slots, picked);
          weigh(weights.data<C>() + t * slots, p, picked, slots, normalise);
        });
      },
      logits);
}

void route_bwd(Exec& exec, Tensor& dlogits, const Tensor& dweights, const Tensor& logits, const Tensor& weights,
               const Tensor& experts, bool normalise) {
  const int64_t count = logits.size(1), slots = experts.size(1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, count);
        for_rows(logits.rows(), count, [&](int64_t t) HWY_ATTR {
          const C *dw = dweights.data<C>() + t * slots, *w = weights.data<C>() + t * slots;
          const int32_t* picked = experts.data<int32_t>() + t * slots;
          C *p = buffers.mine(), *dz = dlogits.data<C>() + t * count;
          C mean = 0;
          for (int64_t j = 0; j < slots; ++j) mean += w[j] * dw[j];
          if (normalise) {
            std::fill(dz, dz + count, C(0));
          } else {
            softmax(p, logits.data<C>() + t * count, count);
            transform(
                count, [=](auto v) HWY_ATTR { return v * splat<decltype(v)>(-mean); }, dz, static_cast<const C*>(p));
          }
          for (int64_t j = 0; j < slots; ++j) dz[picked[j]] = w[j] * (dw[j] - mean);
        });
      },
      logits);
}

/// out row t = sum over j of weights[t,j] * in row rows[t,j], ascending j, one FMA an addend.
void combine_rows(Exec& exec, Tensor& out, const Tensor& in, const Tensor& weights, const Tensor& rows) {
  const int64_t width = out.size(-1), slots = rows.size(1);
  const int32_t* from = rows.data<int32_t>();
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, 2 * width);
        for_rows(out.rows(), width * slots, [&](int64_t t) HWY_ATTR {
          C* total = target(out, t * width, buffers.mine());
          std::fill(total, total + width, C(0));
          for (int64_t j = t * slots; j < (t + 1) * slots; ++j) {
            const C w = weights.defined() ? weights.data<C>()[j] : C(1);
            const C* x = widen(in, from[j] * width, width, buffers.mine() + width);
            transform(
                width, [=](auto v, auto acc) HWY_ATTR { return fma(splat<decltype(v)>(w), v, acc); }, total, x,
                static_cast<const C*>(total));
          }
          narrow(out, t * width, width, static_cast<const C*>(total));
        });
      },
      in);
}

void combine_rows_bwd(Exec& exec, Tensor& din, Tensor& dweights, const Tensor& dout, const Tensor& in,
                      const Tensor& weights, const Tensor& rows) {
  const int64_t width = dout.size(-1), slots = rows.size(1);
  const int32_t* from = rows.data<int32_t>();
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, 3 * width);
        for_rows(dout.rows(), width * slots, [&](int64_t t) HWY_ATTR {
          const C* d = widen(dout, t * width, width, buffers.mine());
          for (int64_t j = t * slots; j < (t + 1) * slots; ++j) {
            const C* x = widen(in, from[j] * width, width, buffers.mine() + width);
            const C w = weights.data<C>()[j];
            dweights.data<C>()[j] =
                sum_of(width, [](auto acc, auto a, auto b) HWY_ATTR { return fma(a, b, acc); }, d, x);
            C* dx = target(din, from[j] * width, buffers.mine() + 2 * width);
            transform(width, [=](auto v) HWY_ATTR { return splat<decltype(v)>(w) * v; }, dx, d);
            narrow(din, from[j] * width, width, static_cast<const C*>(dx));
          }
        });
      },
      dout);
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {
namespace {

void same_routes(Exec&, Tensor& same, const Tensor& experts, const Tensor& given) {
  const int64_t slots = experts.size(1);
  for (int64_t t = 0; t < experts.size(0); ++t) {
    const int32_t* own = experts.data<int32_t>() + t * slots;
    const uint8_t* others = given.data<uint8_t>() + t * slots;
    same.data<int32_t>()[t] =
        std::all_of(own, own + slots, [&](int32_t e) { return std::find(others, others + slots, e) < others + slots; });
  }
}

/// A counting sort: stable, so an expert's rows stand in the order of (t, j).
void group_rows(Exec& exec, Tensor& offsets, Tensor& tokens, Tensor& rows, const Tensor& experts) {
  const int64_t count = offsets.numel() - 1, slots = experts.size(1), n = experts.numel();
  const int32_t* expert = experts.data<int32_t>();
  int32_t* bounds = offsets.data<int32_t>();
  std::fill(bounds, bounds + count + 1, 0);
  for (int64_t i = 0; i < n; ++i) ++bounds[expert[i] + 1];
  for (int64_t e = 0; e < count; ++e) bounds[e + 1] += bounds[e];
  Scratch scratch(exec);
  int32_t* next = scratch.take<int32_t>(count);
  std::copy(bounds, bounds + count, next);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t row = next[expert[i]]++;
    rows.data<int32_t>()[i] = row;
    tokens.data<int32_t>()[row] = int32_t(i / slots);
  }
}

void grouped_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& offsets, Trans trans,
                    bool accumulate) {
  const int64_t count = offsets.numel() - 1;
  const int32_t* bounds = offsets.data<int32_t>();
  const bool wgrad = trans == Trans::kTN;
  const int64_t weight_rows = (wgrad ? c : b).size(0) / count;
  for (int64_t e = 0; e < count; ++e) {
    if (bounds[e] == bounds[e + 1] && (!wgrad || accumulate)) continue;
    const auto grouped = [&](const Tensor& t) { return t.slice(bounds[e], bounds[e + 1]); };
    const auto weight = [&](const Tensor& t) { return t.slice(e * weight_rows, (e + 1) * weight_rows); };
    Tensor out = wgrad ? weight(c) : grouped(c);
    exec.kernels().matmul(exec, out, grouped(a), wgrad ? grouped(b) : weight(b), trans, accumulate);
  }
}

}  // namespace

HWY_EXPORT(route);
HWY_EXPORT(route_bwd);
HWY_EXPORT(route_given);
HWY_EXPORT(combine_rows);
HWY_EXPORT(combine_rows_bwd);

void register_moe(Kernels& table) {
  MANTISSA_ENTER(table.route, route);
  MANTISSA_ENTER(table.route_bwd, route_bwd);
  MANTISSA_ENTER(table.route_given, route_given);
  MANTISSA_ENTER(table.combine_rows, combine_rows);
  MANTISSA_ENTER(table.combine_rows_bwd, combine_rows_bwd);
  table.same_routes = same_routes;
  table.group_rows = group_rows;
  table.grouped_matmul = grouped_matmul;
}

}  // namespace mantissa::cpu_kernels
#endif
