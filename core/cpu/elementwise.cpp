// Elementwise kernels, sums, segments and row moves. Legend: T rows, C width, F half the width of gate_up, S segments.
#define HWY_TARGET_INCLUDE "core/cpu/elementwise.cpp"
#include "core/cpu/simd-inl.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/cpu/kernels.h"
#include "core/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

/// Elements of one row of a tensor whose first dimension counts rows.
inline int64_t row_width(const Tensor& t) {
  return t.size(0) == 0 ? 0 : t.numel() / t.size(0);
}

void fill(Exec&, Tensor& out, double value) {
  const auto fill_as = [&](auto x) {
    auto* p = static_cast<decltype(x)*>(out.raw());
    for_tiles(out.numel(), [&](int64_t begin, int64_t n) { std::fill(p + begin, p + begin + n, x); });
  };
  if (out.dtype() == Dtype::kI32) return fill_as(int32_t(value));
  dispatch_floating(out.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    fill_as(round_to<T>(Compute<T>(value)));
  });
}

template <class C, class Op>
void binary_as(Tensor& out, const Tensor& a, const Tensor& b, Op op) {
  for_tiles(out.numel(), [&](int64_t begin, int64_t n) HWY_ATTR {
    C a_tile[kTile], b_tile[kTile], out_tile[kTile];
    C* y = target(out, begin, out_tile);
    transform(n, op, y, widen(a, begin, n, a_tile), widen(b, begin, n, b_tile));
    narrow(out, begin, n, y);
  });
}

// Minimum and maximum keep a NaN of either side, so that a broken value never vanishes in a clip.
void binary(Exec&, Tensor& out, const Tensor& a, const Tensor& b, Binary op) {
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        switch (op) {
          case Binary::kAdd:
            return binary_as<C>(out, a, b, [](auto x, auto y) HWY_ATTR { return x + y; });
          case Binary::kSub:
            return binary_as<C>(out, a, b, [](auto x, auto y) HWY_ATTR { return x - y; });
          case Binary::kMul:
            return binary_as<C>(out, a, b, [](auto x, auto y) HWY_ATTR { return x * y; });
          case Binary::kMin:
            return binary_as<C>(out, a, b,
                                [](auto x, auto y) HWY_ATTR { return select(x <= y, x, select(y < x, y, x + y)); });
          case Binary::kMax:
            return binary_as<C>(out, a, b,
                                [](auto x, auto y) HWY_ATTR { return select(x >= y, x, select(y > x, y, x + y)); });
          case Binary::kLessEqual:
            return binary_as<C>(out, a, b, [](auto x, auto y) HWY_ATTR {
              using V = decltype(x);
              return select(x <= y, splat<V>(1), splat<V>(0));
            });
        }
      },
      out, a, b);
}

template <class C, class Op>
void unary_as(Tensor& out, const Tensor& in, Op op) {
  for_tiles(out.numel(), [&](int64_t begin, int64_t n) HWY_ATTR {
    C in_tile[kTile], out_tile[kTile];
    C* y = target(out, begin, out_tile);
    transform(n, op, y, widen(in, begin, n, in_tile));
    narrow(out, begin, n, y);
  });
}

void unary(Exec&, Tensor& out, const Tensor& in, Unary op, double p0, double p1) {
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        switch (op) {
          case Unary::kAffine:
            return unary_as<C>(out, in, [=](auto x) HWY_ATTR {
              using V = decltype(x);
              return fma(splat<V>(p0), x, splat<V>(p1));
            });
          case Unary::kExp:
            return unary_as<C>(out, in, [](auto x) HWY_ATTR { return exp(x); });
          case Unary::kClamp:
            return unary_as<C>(out, in, [=](auto x) HWY_ATTR {
              using V = decltype(x);
              return select(x < splat<V>(p0), splat<V>(p0), select(x > splat<V>(p1), splat<V>(p1), x));
            });
          case Unary::kWithinMask:
            return unary_as<C>(out, in, [=](auto x) HWY_ATTR {
              using V = decltype(x);
              return select(x >= splat<V>(p0), select(x <= splat<V>(p1), splat<V>(1), splat<V>(0)), splat<V>(0));
            });
        }
      },
      out, in);
}

void add_bias(Exec& exec, Tensor& out, const Tensor& in, const Tensor& bias) {
  const int64_t width = bias.numel(), rows = width == 0 ? 0 : in.numel() / width;
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        Scratch scratch(exec);
        const C* b = widen(bias, 0, width, scratch.take<C>(width));
        const ThreadBuffers<C> buffers(exec, 2 * width);
        for_rows(rows, width, [&](int64_t t) HWY_ATTR {
          const C* x = widen(in, t * width, width, buffers.mine());
          C* y = target(out, t * width, buffers.mine() + width);
          transform(width, [](auto v, auto shift) HWY_ATTR { return v + shift; }, y, x, b);
          narrow(out, t * width, width, y);
        });
      },
      out, in);
}

void bias_bwd(Exec& exec, Tensor& dbias, const Tensor& dout) {
  const int64_t width = dbias.numel(), rows = width == 0 ? 0 : dout.numel() / width;
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, width);
        sum_rows(exec, rows, width, dbias.data<C>(), [&](int64_t t, C* partial) HWY_ATTR {
          const C* dy = widen(dout, t * width, width, buffers.mine());
          transform(width, [](auto total, auto v) HWY_ATTR { return total + v; }, partial, partial, dy);
        });
      },
      dbias);
}

/// Calls f(row, begin, count) for the tiles of every row of `width`, in parallel.
template <class F>
void for_row_tiles(int64_t rows, int64_t width, F f) {
  const int64_t tiles = blocks_of(width, kTile);
  for_rows(rows * tiles, std::min(width, kTile), [&](int64_t i) HWY_ATTR {
    const int64_t begin = i % tiles * kTile;
    f(i / tiles, begin, std::min(kTile, width - begin));
  });
}

template <class V>
HWY_INLINE V sigmoid(V x) {
  return splat<V>(1) / (splat<V>(1) + exp(-x));
}

void swiglu_fwd(Exec&, Tensor& out, const Tensor& gate_up) {
  const int64_t width = out.size(-1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        for_row_tiles(out.rows(), width, [&](int64_t t, int64_t begin, int64_t n) HWY_ATTR {
          C gate_tile[kTile], up_tile[kTile], out_tile[kTile];
          const C* gate = widen(gate_up, 2 * t * width + begin, n, gate_tile);
          const C* up = widen(gate_up, (2 * t + 1) * width + begin, n, up_tile);
          C* y = target(out, t * width + begin, out_tile);
          transform(n, [](auto g, auto u) HWY_ATTR { return g * sigmoid(g) * u; }, y, gate, up);
          narrow(out, t * width + begin, n, y);
        });
      },
      out);
}

// With s = sigmoid(g): d silu(g) / dg = s (1 + g (1 - s)).
void swiglu_bwd(Exec&, Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) {
  const int64_t width = dout.size(-1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        for_row_tiles(dout.rows(), width, [&](int64_t t, int64_t begin, int64_t n) HWY_ATTR {
          C gate_tile[kTile], up_tile[kTile], dout_tile[kTile], sigmoid_tile[kTile], out_tile[kTile];
          const int64_t gate_at = 2 * t * width + begin, up_at = gate_at + width;
          const C* gate = widen(gate_up, gate_at, n, gate_tile);
          const C* up = widen(gate_up, up_at, n, up_tile);
          const C* dy = widen(dout, t * width + begin, n, dout_tile);
          transform(n, [](auto g) HWY_ATTR { return sigmoid(g); }, sigmoid_tile, gate);
          C* dgate = target(dgate_up, gate_at, out_tile);
          transform(
              n,
              [](auto d, auto g, auto u, auto s) HWY_ATTR {
                const auto one = splat<decltype(s)>(1);
                return d * u * s * (one + g * (one - s));
              },
              dgate, dy, gate, up, static_cast<const C*>(sigmoid_tile));
          narrow(dgate_up, gate_at, n, dgate);
          C* dup = target(dgate_up, up_at, out_tile);
          transform(
              n, [](auto d, auto g, auto s) HWY_ATTR { return d * g * s; }, dup, dy, gate,
              static_cast<const C*>(sigmoid_tile));
          narrow(dgate_up, up_at, n, dup);
        });
      },
      dout);
}

/// Sum of elements [begin, end): tiles from `begin`, their sums added in order.
template <class C>
C sum_range(const Tensor& in, int64_t begin, int64_t end) {
  C total = 0;
  for (; begin < end; begin += kTile) {
    C tile[kTile];
    const int64_t n = std::min(kTile, end - begin);
    total += sum_elements(n, widen(in, begin, n, tile));
  }
  return total;
}

/// out[i] = round(value).
template <class C>
void store_one(const Tensor& out, int64_t i, C value) {
  C buffer, *p = target(out, i, &buffer);
  *p = value;
  narrow(out, i, 1, p);
}

void sum_all(Exec& exec, Tensor& out, const Tensor& in) {
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const int64_t tiles = blocks_of(in.numel(), kTile);
        Scratch scratch(exec);
        C* partials = scratch.take<C>(tiles);
        for_rows(tiles, kTile, [&](int64_t tile) HWY_ATTR {
          partials[tile] = sum_range<C>(in, tile * kTile, std::min(in.numel(), (tile + 1) * kTile));
        });
        C total = 0;
        for (int64_t tile = 0; tile < tiles; ++tile) total += partials[tile];
        store_one(out, 0, total);
      },
      out, in);
}

void segment_sum(Exec&, Tensor& out, const Tensor& in, const Tensor& offsets) {
  const int32_t* bounds = offsets.data<int32_t>();
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        for_rows(out.numel(), kTile,
                 [&](int64_t s) HWY_ATTR { store_one(out, s, sum_range<C>(in, bounds[s], bounds[s + 1])); });
      },
      out, in);
}

void segment_expand(Exec&, Tensor& out, const Tensor& in, const Tensor& offsets) {
  const int32_t* bounds = offsets.data<int32_t>();
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        for_rows(in.numel(), kTile, [&](int64_t s) HWY_ATTR {
          C buffer;
          const C value = *widen(in, s, 1, &buffer);
          for (int64_t t = bounds[s]; t < bounds[s + 1]; ++t) store_one(out, t, value);
        });
      },
      out, in);
}

void gather_rows(Exec&, Tensor& out, const Tensor& in, const Tensor& rows) {
  const int32_t* from = rows.data<int32_t>();
  const size_t bytes = size_t(row_width(in)) * size_of(in.dtype());
  const std::byte* source = static_cast<const std::byte*>(in.raw());
  std::byte* destination = static_cast<std::byte*>(out.raw());
  for_rows(rows.numel(), row_width(in),
           [&](int64_t i) { std::memcpy(destination + size_t(i) * bytes, source + size_t(from[i]) * bytes, bytes); });
}

void scatter_rows(Exec& exec, Tensor& out, const Tensor& in, const Tensor& rows) {
  const int32_t* to = rows.data<int32_t>();
  const int64_t width = row_width(out);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, 3 * width);
        for_rows(rows.numel(), width, [&](int64_t i) HWY_ATTR {
          C* buffer = buffers.mine();
          const int64_t at = to[i] * width;
          const C* x = widen(in, i * width, width, buffer);
          const C* old = widen(out, at, width, buffer + width);
          C* y = target(out, at, buffer + 2 * width);
          transform(width, [](auto a, auto b) HWY_ATTR { return a + b; }, y, old, x);
          narrow(out, at, width, y);
        });
      },
      out, in);
}

void copy_columns(Exec& exec, Tensor& out, int64_t to, const Tensor& in, int64_t from, int64_t n) {
  const int64_t out_width = out.size(1), in_width = in.size(1);
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, 2 * n);
        for_rows(out.size(0), n, [&](int64_t t) HWY_ATTR {
          const C* x = widen(in, t * in_width + from, n, buffers.mine());
          C* y = target(out, t * out_width + to, buffers.mine() + n);
          transform(n, [](auto v) HWY_ATTR { return v; }, y, x);
          narrow(out, t * out_width + to, n, y);
        });
      },
      out, in);
}

void dropout(Exec& exec, Tensor& out, const Tensor& in, const Tensor& rows, const Tensor& key, int place, double p) {
  const int64_t width = in.size(1);
  PhiloxKey words;
  std::memcpy(&words, key.raw(), sizeof(words));
  const auto* ids = reinterpret_cast<const uint32_t*>(rows.data<int32_t>());
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const C scale = C(1.0 / (1.0 - p));
        const ThreadBuffers<C> buffers(exec, 2 * width);
        for_rows(in.size(0), width, [&](int64_t t) HWY_ATTR {
          const C* x = widen(in, t * width, width, buffers.mine());
          C* y = target(out, t * width, buffers.mine() + width);
          PhiloxBlock block{};
          for (int64_t c = 0; c < width; ++c) {
            if (c % 4 == 0) block = philox({{ids[2 * t], ids[2 * t + 1], uint32_t(place), uint32_t(c / 4)}}, words);
            y[c] = uniform_from(block.v[c % 4]) >= float(p) ? x[c] * scale : C(0);
          }
          narrow(out, t * width, width, y);
        });
      },
      out, in);
}

void find_nonfinite(Exec& exec, Tensor& index, const Tensor& in) {
  const int64_t n = in.numel(), tiles = blocks_of(n, kTile);
  int32_t first = -1;
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        Scratch scratch(exec);
        int32_t* found = scratch.take<int32_t>(tiles);
        for_rows(tiles, kTile, [&](int64_t tile) HWY_ATTR {
          C buffer[kTile];
          const int64_t begin = tile * kTile, count = std::min(kTile, n - begin);
          const C* x = widen(in, begin, count, buffer);
          found[tile] = -1;
          // x - x is 0 for finite x and NaN otherwise.
          if (sum_of(count, [](auto acc, auto v) HWY_ATTR { return acc + (v - v); }, x) == C(0)) return;
          const C* bad = std::find_if(x, x + count, [](C v) { return !std::isfinite(v); });
          found[tile] = int32_t(begin + (bad - x));
        });
        for (int64_t tile = 0; tile < tiles && first < 0; ++tile) first = found[tile];
      },
      in);
  index.data<int32_t>()[0] = first;
}

void find_difference(Exec&, Tensor& found, const Tensor& a, const Tensor& b) {
  const float *x = a.data<float>(), *y = b.data<float>();
  Difference d;
  for (int64_t i = 0; i < a.numel(); ++i) {
    if (!std::isfinite(x[i])) ++d.not_finite;
    if (std::bit_cast<uint32_t>(x[i]) == std::bit_cast<uint32_t>(y[i])) continue;
    if (d.count++ == 0) d.first = int32_t(i);
    const float apart = std::abs(x[i] - y[i]);
    d.largest = std::isnan(apart) ? INFINITY : std::max(d.largest, apart);
  }
  std::memcpy(found.data<int32_t>(), &d, sizeof d);
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {

HWY_EXPORT(fill);
HWY_EXPORT(binary);
HWY_EXPORT(unary);
HWY_EXPORT(add_bias);
HWY_EXPORT(bias_bwd);
HWY_EXPORT(swiglu_fwd);
HWY_EXPORT(swiglu_bwd);
HWY_EXPORT(sum_all);
HWY_EXPORT(segment_sum);
HWY_EXPORT(segment_expand);
HWY_EXPORT(gather_rows);
HWY_EXPORT(scatter_rows);
HWY_EXPORT(copy_columns);
HWY_EXPORT(dropout);
HWY_EXPORT(find_nonfinite);
HWY_EXPORT(find_difference);

void register_elementwise(Kernels& table) {
  MANTISSA_ENTER(table.fill, fill);
  MANTISSA_ENTER(table.binary, binary);
  MANTISSA_ENTER(table.unary, unary);
  MANTISSA_ENTER(table.add_bias, add_bias);
  MANTISSA_ENTER(table.bias_bwd, bias_bwd);
  MANTISSA_ENTER(table.swiglu_fwd, swiglu_fwd);
  MANTISSA_ENTER(table.swiglu_bwd, swiglu_bwd);
  MANTISSA_ENTER(table.sum, sum_all);
  MANTISSA_ENTER(table.segment_sum, segment_sum);
  MANTISSA_ENTER(table.segment_expand, segment_expand);
  MANTISSA_ENTER(table.gather_rows, gather_rows);
  MANTISSA_ENTER(table.scatter_rows, scatter_rows);
  MANTISSA_ENTER(table.copy_columns, copy_columns);
  MANTISSA_ENTER(table.dropout, dropout);
  MANTISSA_ENTER(table.find_nonfinite, find_nonfinite);
  MANTISSA_ENTER(table.find_difference, find_difference);
}

}  // namespace mantissa::cpu_kernels
#endif
