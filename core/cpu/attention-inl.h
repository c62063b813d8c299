// The arithmetic of attention on one tile of keys, shared by the packed forward, the paged decode and the backward. A
// row is one query head at one position. Every row sees the same operations in the same order whatever form calls: a
// score is one FMA chain over ascending d, P.V one FMA chain over ascending keys that continues from tile to tile, sums
// over a tile use fixed partial sums and a fixed tree. This is what makes decode equal training bit for bit.
//
// C is the compute type: float in Vecs, double (gradient checks) in plain loops. Work rows are `width` = padded(D)
// elements, zero beyond D. Included once per target: see core/cpu/simd-inl.h.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cpu/simd-inl.h"
#include "core/kernels.h"

#if defined(MANTISSA_CORE_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MANTISSA_CORE_CPU_ATTENTION_INL_H_
#undef MANTISSA_CORE_CPU_ATTENTION_INL_H_
#else
#define MANTISSA_CORE_CPU_ATTENTION_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {
namespace attention {

inline int64_t padded(int64_t size) {
  return (size + kLanes - 1) / kLanes * kLanes;
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

template <class C>
constexpr bool kVectors = std::is_same_v<C, float>;

template <class C>
HWY_INLINE C exponential(C x) {
  if constexpr (kVectors<C>)
    return exp(x);
  else
    return std::exp(x);
}

/// out[i] = in[i], rounded once when Out is narrower.
template <class Out, class In>
void convert(Out* out, const In* in, int64_t n) {
  if constexpr (std::is_same_v<Out, In>) {
    std::copy_n(in, n, out);
  } else if constexpr (std::is_same_v<Out, double> || std::is_same_v<In, double>) {
    for (int64_t i = 0; i < n; ++i) out[i] = round_to<Out>(Compute<Out>(to_float(in[i])));
  } else {
    transform(n, [](Vec v) HWY_ATTR { return v; }, out, in);
  }
}

/// Asks the cache for a row that will be read soon: pages lie anywhere, so the hardware does not foresee it.
template <class T>
HWY_INLINE void prefetch_row(const T* in, int64_t size) {
  for (int64_t d = 0; d < size; d += int64_t(64 / sizeof(T))) __builtin_prefetch(in + d);
}

/// out[rows, width] = widened in[rows, size] (row stride in elements), zero beyond size. next, unless null, is where
/// the same rows of the following tile are.
template <class C, class T>
void load_rows(C* out, int64_t width, const T* in, int64_t stride, int64_t rows, int64_t size,
               const T* next = nullptr) {
  for (int64_t r = 0; r < rows; ++r) {
    if (next) prefetch_row(next + r * stride, size);
    convert(out + r * width, in + r * stride, size);
    if (size < width) std::fill(out + r * width + size, out + (r + 1) * width, C(0));
  }
}

/// out[d, 0..4) = in[0..4, d] for d in [0, size), size a multiple of 4.
template <class C>
void transpose_four(C* out, int64_t out_stride, const C* in, int64_t in_stride, int64_t size) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kVectors<C>) {
    const hn::FixedTag<float, 4> tag;
    for (int64_t d = 0; d < size; d += 4) {
      const auto a = hn::LoadU(tag, in + d), b = hn::LoadU(tag, in + in_stride + d);
      const auto c = hn::LoadU(tag, in + 2 * in_stride + d), e = hn::LoadU(tag, in + 3 * in_stride + d);
      const auto ac0 = hn::InterleaveLower(tag, a, c), be0 = hn::InterleaveLower(tag, b, e);
      const auto ac2 = hn::InterleaveUpper(tag, a, c), be2 = hn::InterleaveUpper(tag, b, e);
      hn::StoreU(hn::InterleaveLower(tag, ac0, be0), tag, out + d * out_stride);
      hn::StoreU(hn::InterleaveUpper(tag, ac0, be0), tag, out + (d + 1) * out_stride);
      hn::StoreU(hn::InterleaveLower(tag, ac2, be2), tag, out + (d + 2) * out_stride);
      hn::StoreU(hn::InterleaveUpper(tag, ac2, be2), tag, out + (d + 3) * out_stride);
    }
    return;
  }
#endif
  for (int64_t d = 0; d < size; ++d)
    for (int r = 0; r < 4; ++r) out[d * out_stride + r] = in[r * in_stride + d];
}

/// out[size, kAttentionTile] = transposed in[rows, size], zero beyond rows. rows4[4, width] is work space.
template <class C, class T>
void load_transposed(C* out, C* rows4, const T* in, int64_t stride, int64_t rows, int64_t size,
                     const T* next = nullptr) {
  const int64_t width = padded(size);
  for (int64_t r = 0; r < kAttentionTile; r += 4) {
    const int64_t here = std::clamp<int64_t>(rows - r, 0, 4);
    load_rows(rows4, width, in + r * stride, stride, here, size, next ? next + r * stride : next);
    std::fill(rows4 + here * width, rows4 + 4 * width, C(0));
    transpose_four(out + r, kAttentionTile, rows4, width, size);
  }
}

inline constexpr int kRows = 6;                       // rows and Vecs of c that live in registers at once
inline constexpr int kColumns = kParts == 1 ? 2 : 1;  // 12 accumulators, of 32 registers or of 16

template <int M, int N>
HWY_INLINE void multiply_add_block(float* HWY_RESTRICT c, int64_t ldc, const float* HWY_RESTRICT a, int64_t a_row,
                                   int64_t a_step, const float* HWY_RESTRICT b, int64_t ldb, int64_t k) {
  Vec acc[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[i][j] = load(c + i * ldc + j * kLanes);
  for (int64_t l = 0; l < k; ++l) {
    Vec column[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) column[j] = load(b + l * ldb + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const Vec factor = set(a[i * a_row + l * a_step]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[i][j] = fma(factor, column[j], acc[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) store(c + i * ldc + j * kLanes, acc[i][j]);
}

template <int M>
void multiply_add_rows(float* c, int64_t ldc, const float* a, int64_t a_row, int64_t a_step, const float* b,
                       int64_t ldb, int64_t m, int64_t n, int64_t k) {
  if constexpr (M > 1) {
    if (m < M) return multiply_add_rows<M - 1>(c, ldc, a, a_row, a_step, b, ldb, m, n, k);
  }
  int64_t j = 0;
  for (; j + kColumns * kLanes <= n; j += kColumns * kLanes)
    multiply_add_block<M, kColumns>(c + j, ldc, a, a_row, a_step, b + j, ldb, k);
  for (; j < n; j += kLanes) multiply_add_block<M, 1>(c + j, ldc, a, a_row, a_step, b + j, ldb, k);
}

/// c[m,n] += a[m,k] . b[k,n], each output one FMA chain over ascending k. a is read at i * a_row + l * a_step, so a
/// transposed operand needs no copy; n is a multiple of kLanes.
template <class C>
void multiply_add(C* c, int64_t ldc, const C* a, int64_t a_row, int64_t a_step, const C* b, int64_t ldb, int64_t m,
                  int64_t n, int64_t k) {
  if constexpr (kVectors<C>) {
    for (int64_t i = 0; i < m; i += kRows)
      multiply_add_rows<kRows>(c + i * ldc, ldc, a + i * a_row, a_row, a_step, b, ldb, std::min<int64_t>(kRows, m - i),
                               n, k);
  } else {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t l = 0; l < k; ++l)
        for (int64_t j = 0; j < n; ++j)
          c[i * ldc + j] = std::fma(a[i * a_row + l * a_step], b[l * ldb + j], c[i * ldc + j]);
  }
}

/// Keys of a tile that row r may see: growing by `step` a row (1 where rows are positions, 0 where they are heads).
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

/// row[j] = exp(row[j] - high) for j < limit, 0 up to the end of the tile; returns their sum.
template <class C>
C exp_row(C* row, int64_t limit, C high) {
  if constexpr (kVectors<C>) {
    for (int64_t j = 0; j < kAttentionTile; j += kLanes)
      store(row + j, select(first_n(limit - j), exp(load(row + j) - set(high)), zero()));
    return sum(row, kAttentionTile);
  } else {
    C total = 0;
    for (int64_t j = 0; j < kAttentionTile; ++j) total += row[j] = j < limit ? std::exp(row[j] - high) : C(0);
    return total;
  }
}

template <class C>
C max_of(const C* row, int64_t n) {
  if constexpr (kVectors<C>)
    return max_element(row, n);
  else
    return *std::max_element(row, row + n);
}

/// Running softmax of some rows: o[rows, width] is the unnormalised output, high[rows] the maximum so far, total[rows]
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
/// probabilities are rounded to T before they weigh the values (Match::kPeer); the sum keeps them unrounded.
template <class T, class C>
void attend_tile(Running<C> state, C* p, const C* q, const C* keys_transposed, const C* values, int64_t rows,
                 Limits limits, const Geometry<C>& g, bool round_p) {
  tile_scores(p, q, keys_transposed, rows, g);
  for (int64_t r = 0; r < rows; ++r) {
    C* row = p + r * kAttentionTile;
    const C before = state.high[r], tile_high = max_of(row, limits.of(r));
    const C high = state.high[r] = tile_high > before ? tile_high : before;
    const C keep = exponential(before - high);  // 0 at the first tile
    state.total[r] = std::fma(state.total[r], keep, exp_row(row, limits.of(r), high));
    for (int64_t d = 0; d < g.width; ++d) state.o[r * g.width + d] *= keep;
    if constexpr (!std::is_same_v<T, C>) {
      T rounded[kAttentionTile];
      if (round_p) {
        convert(rounded, row, kAttentionTile);
        convert(row, rounded, kAttentionTile);
      }
    }
  }
  // Some rows at once over the keys that all of them see, then each over the rest of its own: the same chains.
  for (int64_t r = 0; r < rows; r += kRows) {
    const int64_t together = std::min<int64_t>(kRows, rows - r), common = limits.of(r);
    multiply_add(state.o + r * g.width, g.width, p + r * kAttentionTile, kAttentionTile, 1, values, g.width, together,
                 g.width, common);
    for (int64_t i = r + 1; i < r + together; ++i)
      multiply_add(state.o + i * g.width, g.width, p + i * kAttentionTile + common, kAttentionTile, 1,
                   values + common * g.width, g.width, 1, g.width, limits.of(i) - common);
  }
}

/// out[size] = o / total, rounded once.
template <class T, class C>
void store_row(T* out, const C* o, C total, int64_t size) {
  if constexpr (kVectors<C>)
    transform(size, [&](Vec v) HWY_ATTR { return v / set(total); }, out, o);
  else
    for (int64_t d = 0; d < size; ++d) out[d] = o[d] / total;
}

}  // namespace attention
}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#endif  // per target
