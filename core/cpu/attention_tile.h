// The arithmetic of attention on one tile of keys, shared by the packed forward, the paged decode and the
// backward. A row is one query head at one position. Every row sees the same operations in the same order
// whatever form calls: a score is one FMA chain over ascending d, P.V one FMA chain over ascending keys that
// continues from tile to tile, sums over a tile use kPartials partial sums and a fixed tree. This is what
// makes decode equal training bit for bit.
//
// C is the compute type (float; double for fp64). Work rows are `width` = padded(D) elements, zero beyond D.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "core/kernels.h"

namespace mantissa::cpu_kernels::attention {

inline constexpr int kPartials = 16;

inline int64_t padded(int64_t size) {
  return (size + kPartials - 1) / kPartials * kPartials;
}

/// The head counts and strides that every routine needs.
template <class C>
struct Geometry {
  explicit Geometry(Heads heads)
      : heads(heads),
        ratio(heads.query / heads.kv),
        width(padded(heads.size)),
        scale(C(1) / std::sqrt(C(heads.size))) {}
  Heads heads;
  int ratio;      // query heads of a key/value head
  int64_t width;  // elements of a work row
  C scale;
  int64_t query_column(int head) const { return int64_t(head) * heads.size; }
  int64_t key_column(int group) const { return int64_t(heads.query + group) * heads.size; }
  int64_t value_column(int group) const { return int64_t(heads.query + heads.kv + group) * heads.size; }
};

/// Sum of values[0..count), count a multiple of kPartials.
template <class C>
C tile_sum(const C* values, int64_t count) {
  C partial[kPartials] = {};
  for (int64_t i = 0; i < count; i += kPartials)
    for (int lane = 0; lane < kPartials; ++lane) partial[lane] += values[i + lane];
  for (int half = kPartials / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) partial[lane] += partial[lane + half];
  return partial[0];
}

/// out[rows, width] = widened in[rows, size] (row stride in elements), zero beyond size.
template <class C, class T>
void load_rows(C* out, int64_t width, const T* in, int64_t stride, int64_t rows, int64_t size) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < size; ++d) out[r * width + d] = to_float(in[r * stride + d]);
    std::fill(out + r * width + size, out + (r + 1) * width, C(0));
  }
}

/// out[size, kAttentionTile] = transposed in[rows, size], zero beyond rows.
template <class C, class T>
void load_transposed(C* out, const T* in, int64_t stride, int64_t rows, int64_t size) {
  for (int64_t d = 0; d < size; ++d)
    for (int64_t r = 0; r < kAttentionTile; ++r)
      out[d * kAttentionTile + r] = r < rows ? C(to_float(in[r * stride + d])) : C(0);
}

/// c[m,n] += a[m,k] . b[k,n], each output one FMA chain over ascending k. a is read at i * a_row + l *
/// a_step, so a transposed operand needs no copy; n is a multiple of kPartials.
template <class C>
void multiply_add(C* c, int64_t ldc, const C* a, int64_t a_row, int64_t a_step, const C* b, int64_t ldb,
                  int64_t m, int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < k; ++l) {
      const C factor = a[i * a_row + l * a_step];
      for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = std::fma(factor, b[l * ldb + j], c[i * ldc + j]);
    }
}

/// Keys of a tile that row r may see: growing by `step` a row (1 where rows are positions, 0 where they are
/// heads).
struct Limits {
  int64_t first;
  int64_t step;
  int64_t of(int64_t row) const { return std::min<int64_t>(kAttentionTile, first + step * row); }
};

/// scores[rows, kAttentionTile] = scale * q . k.
template <class C>
void tile_scores(C* scores, const C* q, const C* keys_transposed, int64_t rows, const Geometry<C>& g) {
  std::fill(scores, scores + rows * kAttentionTile, C(0));
  multiply_add(scores, kAttentionTile, q, g.width, 1, keys_transposed, kAttentionTile, rows, kAttentionTile,
               g.heads.size);
  for (int64_t i = 0; i < rows * kAttentionTile; ++i) scores[i] *= g.scale;
}

/// Running softmax of some rows: o[rows, width] is the unnormalised output, high the maximum so far, total
/// the sum of exp(score - high).
template <class C>
struct Running {
  C* o;
  C* high;
  C* total;
  void clear(int64_t rows, int64_t width) {
    std::fill(o, o + rows * width, C(0));
    std::fill(high, high + rows, -std::numeric_limits<C>::infinity());
    std::fill(total, total + rows, C(0));
  }
};

/// Takes one tile of keys into the running softmax. p[rows, kAttentionTile] is work space. With round_p the
/// probabilities are rounded to T before they weigh the values (Rounding::kPeer); the sum keeps them
/// unrounded.
template <class T, class C>
void attend_tile(Running<C> state, C* p, const C* q, const C* keys_transposed, const C* values, int64_t rows,
                 Limits limits, const Geometry<C>& g, bool round_p) {
  tile_scores(p, q, keys_transposed, rows, g);
  for (int64_t r = 0; r < rows; ++r) {
    C* row = p + r * kAttentionTile;
    const int64_t limit = limits.of(r);
    C high = state.high[r];
    for (int64_t j = 0; j < limit; ++j) high = row[j] > high ? row[j] : high;
    for (int64_t j = 0; j < limit; ++j) row[j] = std::exp(row[j] - high);
    std::fill(row + limit, row + kAttentionTile, C(0));
    const C keep = std::exp(state.high[r] - high);  // 0 at the first tile
    state.high[r] = high;
    state.total[r] = std::fma(state.total[r], keep, tile_sum(row, kAttentionTile));
    for (int64_t d = 0; d < g.width; ++d) state.o[r * g.width + d] *= keep;
    if (round_p)
      for (int64_t j = 0; j < limit; ++j) row[j] = to_float(round_to<T>(row[j]));
    multiply_add(state.o + r * g.width, g.width, row, kAttentionTile, 1, values, g.width, 1, g.width, limit);
  }
}

/// out[size] = o / total, rounded once.
template <class T, class C>
void store_row(T* out, const C* o, C total, int64_t size) {
  for (int64_t d = 0; d < size; ++d) out[d] = round_to<T>(C(o[d] / total));
}

// Kernels of attention_backward.cpp.
void attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                   const Tensor& lse, const Tensor& offsets, Heads heads);

}  // namespace mantissa::cpu_kernels::attention
