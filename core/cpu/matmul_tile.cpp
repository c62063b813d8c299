// Vector code of the matrix product: packing and the register tile (see matmul.h).
#define HWY_TARGET_INCLUDE "core/cpu/matmul_tile.cpp"
#include "core/cpu/simd-inl.h"

#include <algorithm>

#include "core/cpu/matmul_tile.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

// Sums in registers: 14 x 2 of 32 AVX-512 registers, 6 x 2 of 16 AVX2 registers.
#if HWY_TARGET == HWY_AVX3
inline constexpr int kRows = 14, kVecs = 2;
#elif HWY_TARGET == HWY_SCALAR
inline constexpr int kRows = 2, kVecs = 1;
#else
inline constexpr int kRows = 6, kVecs = 1;
#endif
inline constexpr int kColumns = kVecs * kLanes;
static_assert(kColumns <= kMaxTileColumns);

TileShape shape_of_tile() {
  return {kRows, kColumns};
}

// ---- packing --------------------------------------------------------------------------------------------------------

/// 16 x 16 in place: lane j of v[i] and lane i of v[j] change places.
HWY_INLINE void transpose(Vec (&v)[kLanes]) {
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < i; ++j) std::swap(v[i].part[j], v[j].part[i]);
#else
  // Within 128-bit blocks first: u[4g + j] then holds, in block L of part p, column p * kPartLanes + 4L + j of rows 4g
  // .. 4g + 3.
  const PartTag d;
  const hn::Repartition<double, PartTag> dd;
  const auto low = [&](Part a, Part b) HWY_ATTR {
    return hn::BitCast(d, hn::InterleaveLower(dd, hn::BitCast(dd, a), hn::BitCast(dd, b)));
  };
  const auto high = [&](Part a, Part b) HWY_ATTR {
    return hn::BitCast(d, hn::InterleaveUpper(dd, hn::BitCast(dd, a), hn::BitCast(dd, b)));
  };
  Vec u[kLanes];
  for (int g = 0; g < kLanes; g += 4) {
    for (int p = 0; p < kParts; ++p) {
      const Part t0 = hn::InterleaveLower(d, v[g].part[p], v[g + 1].part[p]);
      const Part t1 = hn::InterleaveUpper(d, v[g].part[p], v[g + 1].part[p]);
      const Part t2 = hn::InterleaveLower(d, v[g + 2].part[p], v[g + 3].part[p]);
      const Part t3 = hn::InterleaveUpper(d, v[g + 2].part[p], v[g + 3].part[p]);
      u[g].part[p] = low(t0, t2);
      u[g + 1].part[p] = high(t0, t2);
      u[g + 2].part[p] = low(t1, t3);
      u[g + 3].part[p] = high(t1, t3);
    }
  }
  for (int j = 0; j < 4; ++j) {
#if HWY_TARGET == HWY_AVX3
    const auto even = [](Part a, Part b) HWY_ATTR { return Part{_mm512_shuffle_f32x4(a.raw, b.raw, 0x88)}; };
    const auto odd = [](Part a, Part b) HWY_ATTR { return Part{_mm512_shuffle_f32x4(a.raw, b.raw, 0xdd)}; };
    const Part e0 = even(u[j].part[0], u[4 + j].part[0]), e1 = even(u[8 + j].part[0], u[12 + j].part[0]);
    const Part o0 = odd(u[j].part[0], u[4 + j].part[0]), o1 = odd(u[8 + j].part[0], u[12 + j].part[0]);
    v[j].part[0] = even(e0, e1);
    v[4 + j].part[0] = even(o0, o1);
    v[8 + j].part[0] = odd(e0, e1);
    v[12 + j].part[0] = odd(o0, o1);
#elif HWY_TARGET == HWY_AVX2
    for (int p = 0; p < 2; ++p) {
      for (int q = 0; q < 2; ++q) {
        const Part a = u[8 * q + j].part[p], b = u[8 * q + 4 + j].part[p];
        v[8 * p + j].part[q] = hn::ConcatLowerLower(d, b, a);
        v[8 * p + 4 + j].part[q] = hn::ConcatUpperUpper(d, b, a);
      }
    }
#else
    for (int p = 0; p < kParts; ++p)
      for (int q = 0; q < kParts; ++q) v[4 * p + j].part[q] = u[4 * q + j].part[p];
#endif
  }
#endif
}

template <class T>
void pack_a_panels(float* to, const T* a, int64_t stride, bool across, Range m, Range k) {
  const int64_t step = shape_of_tile().panel_a();
  for (int64_t row = m.begin; row < m.end; row += kRows, to += step) {
    const int64_t rows = std::min<int64_t>(kRows, m.end - row);
    if (across) {  // [k][kRows]; a whole-vector store spills into the next step, which comes after
      for (int64_t i = 0; i < k.size(); ++i) {
        const T* from = a + (k.begin + i) * stride + row;
        store(to + i * kRows, row + kLanes <= m.end ? load(from) : load_n(from, rows));
      }
    } else {  // [kRows][kDepth]
      for (int64_t r = 0; r < rows; ++r)
        transform(k.size(), [](Vec v) HWY_ATTR { return v; }, to + r * kDepth, a + (row + r) * stride + k.begin);
    }
  }
}

template <class T>
void pack_b_panels(float* to, const T* b, int64_t stride, bool across, Range n, Range k) {
  for (int64_t column = n.begin; column < n.end; column += kColumns, to += kColumns * k.size()) {
    for (int half = 0; half < kVecs; ++half) {
      const int64_t first = column + half * kLanes;
      const int64_t count = std::clamp<int64_t>(n.end - first, 0, kLanes);
      float* out = to + half * kLanes;
      if (across) {
        for (int64_t i = k.begin; i < k.end; ++i, out += kColumns) {
          const T* from = b + i * stride + first;
          store(out, count == kLanes ? load(from) : count > 0 ? load_n(from, count) : zero());
        }
        continue;
      }
      for (int64_t i = k.begin; i < k.end; i += kLanes) {
        const int64_t steps = std::min<int64_t>(kLanes, k.end - i);
        Vec v[kLanes];
        if (count == kLanes && steps == kLanes) {
          for (int64_t r = 0; r < kLanes; ++r) {
            const T* from = b + (first + r) * stride + i;
            // The hardware does not follow this many rows: fetch the next panel's into L2 (past b's end it is a no-op).
            __builtin_prefetch(from + kColumns * stride, 0, 2);
            v[r] = load(from);
          }
          transpose(v);
          for (int64_t s = 0; s < kLanes; ++s) store(out + s * kColumns, v[s]);
        } else {
          for (int64_t r = 0; r < kLanes; ++r) v[r] = r < count ? load_n(b + (first + r) * stride + i, steps) : zero();
          transpose(v);
          for (int64_t s = 0; s < steps; ++s) store(out + s * kColumns, v[s]);
        }
        out += kLanes * kColumns;
      }
    }
  }
}

template <class F>
void with_float_type(Dtype type, F f) {
  switch (type) {
    case Dtype::kF16:
      return f(TypeTag<Half>{});
    case Dtype::kBF16:
      return f(TypeTag<BFloat16>{});
    default:
      return f(TypeTag<float>{});
  }
}

void pack_a_target(float* to, const Operand& a, Range m, Range k) {
  with_float_type(a.type, [&](auto tag) HWY_ATTR {
    pack_a_panels(to, static_cast<const typename decltype(tag)::type*>(a.data), a.stride, a.across, m, k);
  });
}

void pack_b_target(float* to, const Operand& b, Range n, Range k) {
  with_float_type(b.type, [&](auto tag) HWY_ATTR {
    pack_b_panels(to, static_cast<const typename decltype(tag)::type*>(b.data), b.stride, b.across, n, k);
  });
}

// ---- the tile -------------------------------------------------------------------------------------------------------

template <int kCount>
struct Sums {
  Vec v[kCount];
};

/// sums[r][c] (row stride `stride`) = its old value, or 0 when `clear`, continued along `depth` steps of k.
template <int kTileRows, bool kAcross, size_t... I>
HWY_INLINE void tile_steps(float* sums, int64_t stride, bool clear, const float* a, const float* b, int64_t depth,
                           std::index_sequence<I...>) {
  Sums<kTileRows * kVecs> s{{(clear ? zero() : load(sums + I / kVecs * stride + I % kVecs * kLanes))...}};
  for (int64_t k = 0; k < depth; ++k, b += kColumns, a += kAcross ? kRows : 1) {
    Vec right[kVecs] = {load(b)};
    if constexpr (kVecs == 2) right[1] = load(b + kLanes);
    ((s.v[I] = fma(set(a[int64_t(I / kVecs) * (kAcross ? 1 : kDepth)]), right[I % kVecs], s.v[I])), ...);
  }
  (store(sums + I / kVecs * stride + I % kVecs * kLanes, s.v[I]), ...);
}

template <int kTileRows, bool kAcross>
void tile(float* sums, int64_t stride, bool clear, const float* a, const float* b, int64_t depth) {
  tile_steps<kTileRows, kAcross>(sums, stride, clear, a, b, depth, std::make_index_sequence<kTileRows * kVecs>());
}

using TileFn = void (*)(float*, int64_t, bool, const float*, const float*, int64_t);
template <bool kAcross, size_t... I>
TileFn tile_of(int64_t rows, std::index_sequence<I...>) {
  static constexpr TileFn kTiles[] = {tile<int(I) + 1, kAcross>...};
  return kTiles[rows - 1];
}

/// Rows of at most kColumns elements, between typed memory and a tile of floats.
template <class T>
void copy_in(float* tile, const T* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    transform(columns, [](Vec v) HWY_ATTR { return v; }, tile + r * kColumns, from + r * stride);
}
template <class T>
void copy_out(T* to, int64_t stride, const float* tile, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    transform(columns, [](Vec v) HWY_ATTR { return v; }, to + r * stride, tile + r * kColumns);
}

template <class T>
void multiply_typed(const Result& c, const float* a_panels, bool a_across, const float* b_panels, Range m, Range n,
                    Slice slice) {
  const bool clear = slice.first && !slice.accumulate;
  const int64_t a_offset = slice.a_skip * (a_across ? kRows : 1);
  alignas(64) float buffer[kRows * kColumns];
  for (int64_t row = m.begin; row < m.end; row += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, m.end - row);
    const float* a = a_panels + (row - m.begin) / kRows * shape_of_tile().panel_a() + a_offset;
    const auto sequence = std::make_index_sequence<kRows>();
    const TileFn run = a_across ? tile_of<true>(rows, sequence) : tile_of<false>(rows, sequence);
    for (int64_t column = n.begin; column < n.end; column += kColumns) {
      const int64_t columns = std::min<int64_t>(kColumns, n.end - column);
      const float* b = b_panels + (column - n.begin) * slice.depth;
      T* out = static_cast<T*>(c.data) + row * c.stride + column;
      if constexpr (std::is_same_v<T, float>) {
        if (columns == kColumns) {
          run(out, c.stride, clear, a, b, slice.depth);
          continue;
        }
      }
      float* carry = c.carry ? c.carry + (row - c.carry_row) * c.carry_stride + column - c.carry_column : nullptr;
      if (!slice.first && carry)
        copy_in(buffer, carry, c.carry_stride, rows, columns);
      else if (!clear)
        copy_in(buffer, out, c.stride, rows, columns);
      run(buffer, kColumns, clear, a, b, slice.depth);
      if (!slice.last && carry)
        copy_out(carry, c.carry_stride, buffer, rows, columns);
      else
        copy_out(out, c.stride, buffer, rows, columns);
    }
  }
}

void multiply_target(const Result& c, const float* a_panels, bool a_across, const float* b_panels, Range m, Range n,
                     Slice slice) {
  with_float_type(c.type, [&](auto tag) HWY_ATTR {
    multiply_typed<typename decltype(tag)::type>(c, a_panels, a_across, b_panels, m, n, slice);
  });
}

void join_parts_target(const Result& c, const float* sums, int64_t step, Range range, bool accumulate) {
  with_float_type(c.type, [&](auto tag) HWY_ATTR {
    auto* out = static_cast<typename decltype(tag)::type*>(c.data) + range.begin;
    const float* p = sums + range.begin;
    const auto join = [](Vec p0, Vec p1, Vec p2, Vec p3) HWY_ATTR { return ((p0 + p1) + p2) + p3; };
    const auto join_on = [](Vec p0, Vec p1, Vec p2, Vec p3, Vec old) HWY_ATTR { return old + (((p0 + p1) + p2) + p3); };
    if (accumulate)
      transform(range.size(), join_on, out, p, p + step, p + 2 * step, p + 3 * step, out);
    else
      transform(range.size(), join, out, p, p + step, p + 2 * step, p + 3 * step);
  });
}

void multiply_f64_target(double* c, const double* a, int64_t a_row, int64_t a_step, const double* b, Range m,
                         int64_t columns, int64_t depth, bool accumulate) {
  for (int64_t row = m.begin; row < m.end; ++row) {
    double* out = c + row * columns;
    if (!accumulate) std::fill_n(out, columns, 0.0);
    for (int64_t k = 0; k < depth; ++k) {
      const double left = a[row * a_row + k * a_step];
      const double* right = b + k * columns;
      for (int64_t n = 0; n < columns; ++n) out[n] = std::fma(left, right[n], out[n]);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {

HWY_EXPORT(shape_of_tile);
HWY_EXPORT(pack_a_target);
HWY_EXPORT(pack_b_target);
HWY_EXPORT(multiply_target);
HWY_EXPORT(join_parts_target);
HWY_EXPORT(multiply_f64_target);

TileShape tile_shape() {
  return HWY_DYNAMIC_DISPATCH(shape_of_tile)();
}
void pack_a(float* to, const Operand& a, Range m, Range k) {
  HWY_DYNAMIC_DISPATCH(pack_a_target)(to, a, m, k);
}
void pack_b(float* to, const Operand& b, Range n, Range k) {
  HWY_DYNAMIC_DISPATCH(pack_b_target)(to, b, n, k);
}
void multiply(const Result& c, const float* a_panels, bool a_across, const float* b_panels, Range m, Range n,
              Slice slice) {
  HWY_DYNAMIC_DISPATCH(multiply_target)(c, a_panels, a_across, b_panels, m, n, slice);
}
void join_parts(const Result& c, const float* sums, int64_t step, Range range, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(join_parts_target)(c, sums, step, range, accumulate);
}
void multiply_f64(double* c, const double* a, int64_t a_row, int64_t a_step, const double* b, Range m, int64_t columns,
                  int64_t depth, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(multiply_f64_target)(c, a, a_row, a_step, b, m, columns, depth, accumulate);
}

}  // namespace mantissa::cpu_kernels
#endif
