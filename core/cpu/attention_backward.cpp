// Gradient of packed causal attention. Per (sequence, kv head), tiles of keys ascending, then tiles of
// queries, then the query heads of the group: one fixed order, so the result is the same for any number of
// threads.
//   P = exp(scale q.k - lse)   delta = rowsum(dO * O)   dS = scale * P * (dO.v - delta)
//   dv += P^T dO   dk += dS^T q   dq += dS k     (fp32, rounded once)
#include <omp.h>

#include "core/cpu/attention_tile.h"

namespace mantissa::cpu_kernels::attention {
namespace {

constexpr int64_t kTile = kAttentionTile;

template <class T>
void backward(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
              const Tensor& lse, const Tensor& offsets, Heads heads) {
  using C = Compute<T>;
  const Geometry<C> g(heads);
  const int32_t* start = offsets.data<int32_t>();
  const int64_t sequences = offsets.numel() - 1, row = heads.row(),
                out_row = int64_t(heads.query) * heads.size;
  const int64_t size = heads.size, width = g.width, tile = kTile * width;
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences; ++s) longest = std::max<int64_t>(longest, start[s + 1] - start[s]);

  // Per thread: k, v as rows; k, v transposed; q, dO rows; P, dS; dk, dv; then dq, delta and lse of the whole
  // sequence.
  const int64_t rows = longest * g.ratio;
  const int64_t work_size = padded(6 * tile + 2 * kTile * size + 2 * kTile * kTile + rows * (width + 2));
  Scratch scratch(exec);
  C* memory = scratch.take<C>(work_size * omp_get_max_threads());
  const T* in = qkv.data<T>();
  const T* grad = dout.data<T>();
  T* to = dqkv.data<T>();

#pragma omp parallel for schedule(dynamic)
  for (int64_t item = 0; item < sequences * heads.kv; ++item) {
    const int64_t begin = start[item / heads.kv], length = start[item / heads.kv + 1] - begin;
    const int group = int(item % heads.kv);
    C* next = memory + work_size * omp_get_thread_num();
    auto take = [&](int64_t count) { return std::exchange(next, next + count); };
    C *k = take(tile), *q = take(tile), *d_o = take(tile), *dk = take(tile), *dv = take(tile),
      *terms = take(tile);
    C *k_t = take(kTile * size), *v_t = take(kTile * size), *p = take(kTile * kTile),
      *ds = take(kTile * kTile);
    C *dq = take(length * g.ratio * width), *delta = take(length * g.ratio),
      *row_lse = take(length * g.ratio);

    std::fill(dq, dq + length * g.ratio * width, C(0));
    for (int h = 0; h < g.ratio; ++h) {
      const int64_t head = group * g.ratio + h;
      for (int64_t r = 0; r < length; ++r) {
        const int64_t t = begin + r, at = h * length + r, from = t * out_row + head * size;
        std::fill(terms, terms + width, C(0));
        for (int64_t d = 0; d < size; ++d)
          terms[d] = C(to_float(grad[from + d])) * C(to_float(out.data<T>()[from + d]));
        delta[at] = tile_sum(terms, width);
        row_lse[at] = lse.data<C>()[t * heads.query + head];
      }
    }

    for (int64_t key = 0; key < length; key += kTile) {
      const int64_t keys = std::min(kTile, length - key);
      const T* key_rows = in + (begin + key) * row + g.key_column(group);
      const T* value_rows = in + (begin + key) * row + g.value_column(group);
      load_rows(k, width, key_rows, row, keys, size);
      load_transposed(k_t, key_rows, row, keys, size);
      load_transposed(v_t, value_rows, row, keys, size);
      std::fill(dk, dk + tile, C(0));
      std::fill(dv, dv + tile, C(0));
      for (int64_t query = key; query < length; query += kTile) {
        const int64_t queries = std::min(kTile, length - query);
        const Limits limits{query - key + 1, 1};
        for (int h = 0; h < g.ratio; ++h) {
          const int head = group * g.ratio + h;
          const int64_t at = h * length + query;
          load_rows(q, width, in + (begin + query) * row + g.query_column(head), row, queries, size);
          load_rows(d_o, width, grad + (begin + query) * out_row + g.query_column(head), out_row, queries,
                    size);
          tile_scores(p, q, k_t, queries, g);
          std::fill(ds, ds + queries * kTile, C(0));
          multiply_add(ds, kTile, d_o, width, 1, v_t, kTile, queries, kTile, size);
          for (int64_t r = 0; r < queries; ++r)
            for (int64_t j = 0; j < kTile; ++j) {
              C& prob = p[r * kTile + j];
              prob = j < std::min(keys, limits.of(r)) ? std::exp(prob - row_lse[at + r]) : C(0);
              ds[r * kTile + j] = g.scale * prob * (ds[r * kTile + j] - delta[at + r]);
            }
          multiply_add(dv, width, p, 1, kTile, d_o, width, keys, width, queries);
          multiply_add(dk, width, ds, 1, kTile, q, width, keys, width, queries);
          multiply_add(dq + at * width, width, ds, kTile, 1, k, width, queries, width, keys);
        }
      }
      for (int64_t j = 0; j < keys; ++j)
        for (int64_t d = 0; d < size; ++d) {
          T* cell = to + (begin + key + j) * row + d;
          cell[g.key_column(group)] = round_to<T>(dk[j * width + d]);
          cell[g.value_column(group)] = round_to<T>(dv[j * width + d]);
        }
    }
    for (int h = 0; h < g.ratio; ++h)
      for (int64_t r = 0; r < length; ++r)
        for (int64_t d = 0; d < size; ++d)
          to[(begin + r) * row + g.query_column(group * g.ratio + h) + d] =
              round_to<T>(dq[(h * length + r) * width + d]);
  }
}

}  // namespace

void attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                   const Tensor& lse, const Tensor& offsets, Heads heads) {
  dispatch_floating(qkv.dtype(), [&](auto tag) {
    backward<typename decltype(tag)::type>(exec, dqkv, dout, qkv, out, lse, offsets, heads);
  });
}

}  // namespace mantissa::cpu_kernels::attention
