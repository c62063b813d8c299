// Gradient of packed causal attention. Per (sequence, kv head), tiles of keys ascending, then tiles of queries, then
// the query heads of the group: one fixed order, so the result is the same for any number of threads.
//   P = exp(scale q.k - lse)   delta = rowsum(dO * O)   dS = scale * P * (dO.v - delta)
//   dv += P^T dO   dk += dS^T q   dq += dS k     (fp32, rounded once)
#define HWY_TARGET_INCLUDE "core/cpu/attention_backward.cpp"
#include "core/cpu/attention-inl.h"

#include <omp.h>

#include <numeric>

#include "core/cpu/kernels.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {
namespace attention {

inline constexpr int64_t kKeys = kAttentionTile;

/// p: scores -> probabilities, ds: dO.v -> gradient of the unscaled scores; columns from `limit` on become 0.
template <class C>
void score_gradient(C* p, C* ds, int64_t limit, C lse, C delta, C scale) {
  if constexpr (kVectors<C>) {
    for (int64_t j = 0; j < kKeys; j += kLanes) {
      const Vec prob = select(first_n(limit - j), exp(load(p + j) - set(lse)), zero());
      store(p + j, prob);
      store(ds + j, set(scale) * prob * (load(ds + j) - set(delta)));
    }
  } else {
    for (int64_t j = 0; j < kKeys; ++j) {
      p[j] = j < limit ? std::exp(p[j] - lse) : C(0);
      ds[j] = scale * p[j] * (ds[j] - delta);
    }
  }
}

template <class T>
Compute<T> row_dot(const T* a, const T* b, int64_t n) {
  if constexpr (!std::is_same_v<T, double>)
    return dot(a, b, n);
  else
    return std::inner_product(a, a + n, b, 0.0);
}

template <class T>
void backward(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse,
              const Tensor& offsets, Heads heads) {
  using C = Compute<T>;
  const Geometry<C> g(heads);
  const int32_t* start = offsets.data<int32_t>();
  const int64_t sequences = offsets.numel() - 1, row = heads.row(), out_row = int64_t(heads.query) * heads.size;
  const int64_t size = heads.size, width = g.width, tile = kKeys * width;
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; ++s) longest = std::max<int64_t>(longest, start[s + 1] - start[s]);

  // Per thread: k, v as rows; k, v transposed; q, dO rows; P, dS; dk, dv; then dq, delta and lse of the whole sequence.
  const int64_t rows = longest * g.ratio;
  const int64_t work_size = padded(5 * tile + 4 * width + 2 * kKeys * size + 2 * kKeys * kKeys + rows * (width + 2));
  Scratch scratch(exec);
  C* memory = scratch.take<C>(work_size * omp_get_max_threads());
  const T* in = qkv.data<T>();
  const T *grad = dout.data<T>(), *o = out.data<T>();
  T* to = dqkv.data<T>();

  parallel_tasks(sequences * heads.kv, [&](int64_t item) HWY_ATTR {
    const int64_t begin = start[item / heads.kv], length = start[item / heads.kv + 1] - begin;
    const int group = int(item % heads.kv);
    C* next = memory + work_size * omp_get_thread_num();
    auto take = [&](int64_t count) { return std::exchange(next, next + count); };
    C *k = take(tile), *q = take(tile), *d_o = take(tile), *dk = take(tile), *dv = take(tile), *rows4 = take(4 * width);
    C *k_t = take(kKeys * size), *v_t = take(kKeys * size), *p = take(kKeys * kKeys), *ds = take(kKeys * kKeys);
    C *dq = take(length * g.ratio * width), *delta = take(length * g.ratio), *row_lse = take(length * g.ratio);

    std::fill(dq, dq + length * g.ratio * width, C(0));
    for (int h = 0; h < g.ratio; ++h) {
      const int64_t head = group * g.ratio + h;
      for (int64_t r = 0; r < length; ++r) {
        const int64_t t = begin + r, at = h * length + r, from = t * out_row + head * size;
        delta[at] = row_dot(grad + from, o + from, size);
        row_lse[at] = lse.data<C>()[t * heads.query + head];
      }
    }

    for (int64_t key = 0; key < length; key += kKeys) {
      const int64_t keys = std::min(kKeys, length - key);
      const T* key_rows = in + (begin + key) * row + g.key_column(group);
      const T* value_rows = in + (begin + key) * row + g.value_column(group);
      load_rows(k, width, key_rows, row, keys, size);
      load_transposed(k_t, rows4, key_rows, row, keys, size);
      load_transposed(v_t, rows4, value_rows, row, keys, size);
      std::fill(dk, dk + tile, C(0));
      std::fill(dv, dv + tile, C(0));
      for (int64_t query = key; query < length; query += kKeys) {
        const int64_t queries = std::min(kKeys, length - query);
        const Limits limits{query - key + 1, 1};
        for (int h = 0; h < g.ratio; ++h) {
          const int head = group * g.ratio + h;
          const int64_t at = h * length + query;
          load_rows(q, width, in + (begin + query) * row + g.query_column(head), row, queries, size);
          load_rows(d_o, width, grad + (begin + query) * out_row + g.query_column(head), out_row, queries, size);
          tile_scores(p, q, k_t, queries, g);
          std::fill(ds, ds + queries * kKeys, C(0));
          multiply_add(ds, kKeys, d_o, width, 1, v_t, kKeys, queries, kKeys, size);
          for (int64_t r = 0; r < queries; ++r)
            score_gradient(p + r * kKeys, ds + r * kKeys, std::min(keys, limits.of(r)), row_lse[at + r], delta[at + r],
                           g.scale);
          multiply_add(dv, width, p, 1, kKeys, d_o, width, keys, width, queries);
          multiply_add(dk, width, ds, 1, kKeys, q, width, keys, width, queries);
          multiply_add(dq + at * width, width, ds, kKeys, 1, k, width, queries, width, keys);
        }
      }
      for (int64_t j = 0; j < keys; ++j) {
        convert(to + (begin + key + j) * row + g.key_column(group), dk + j * width, size);
        convert(to + (begin + key + j) * row + g.value_column(group), dv + j * width, size);
      }
    }
    for (int h = 0; h < g.ratio; ++h)
      for (int64_t r = 0; r < length; ++r)
        convert(to + (begin + r) * row + g.query_column(group * g.ratio + h), dq + (h * length + r) * width, size);
  });
}

}  // namespace attention

void attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                   const Tensor& lse, const Tensor& offsets, int64_t, Heads heads) {
  dispatch_floating(qkv.dtype(), [&](auto tag) HWY_ATTR {
    attention::backward<typename decltype(tag)::type>(exec, dqkv, dout, qkv, out, lse, offsets, heads);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {

HWY_EXPORT(attention_bwd);

void register_attention_backward(Kernels& table) {
  MANTISSA_ENTER(table.attention_bwd, attention_bwd);
}

}  // namespace mantissa::cpu_kernels
#endif
