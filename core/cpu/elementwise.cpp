// Elementwise kernels, sums, segments and row moves. Legend: T rows, C width, F half the width of gate_up, S segments.
#include <cmath>
#include <cstring>

#include "core/cpu/cpu.h"
#include "core/cpu/rows.h"

namespace mantissa::cpu_kernels {
namespace {

/// Elements of one row of a tensor whose first dimension counts rows.
int64_t row_width(const Tensor& t) { return t.size(0) == 0 ? 0 : t.numel() / t.size(0); }

/// Calls f(begin, count) for every tile of [0, n), in parallel.
template <class F>
void for_tiles(int64_t n, F f) {
#pragma omp parallel for schedule(static) if (n > kTile)
  for (int64_t tile = 0; tile < blocks_of(n, kTile); ++tile) f(tile * kTile, std::min(kTile, n - tile * kTile));
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
  for_tiles(out.numel(), [&](int64_t begin, int64_t n) {
    C a_tile[kTile], b_tile[kTile], out_tile[kTile];
    const C* x = widen(a, begin, n, a_tile);
    const C* y = widen(b, begin, n, b_tile);
    C* z = target(out, begin, out_tile);
    for (int64_t i = 0; i < n; ++i) z[i] = op(x[i], y[i]);
    narrow(out, begin, n, z);
  });
}

void binary(Exec&, Tensor& out, const Tensor& a, const Tensor& b, Binary op) {
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    switch (op) {
      case Binary::kAdd: return binary_as<C>(out, a, b, [](C x, C y) { return x + y; });
      case Binary::kSub: return binary_as<C>(out, a, b, [](C x, C y) { return x - y; });
      case Binary::kMul: return binary_as<C>(out, a, b, [](C x, C y) { return x * y; });
      // A NaN in a is kept, so that a broken value never vanishes in a clip.
      case Binary::kMin: return binary_as<C>(out, a, b, [](C x, C y) { return y < x || y != y ? y : x; });
      case Binary::kMax: return binary_as<C>(out, a, b, [](C x, C y) { return y > x || y != y ? y : x; });
      case Binary::kLessEqual: return binary_as<C>(out, a, b, [](C x, C y) { return x <= y ? C(1) : C(0); });
    }
  }, out, a, b);
}

template <class C, class Op>
void unary_as(Tensor& out, const Tensor& in, Op op) {
  for_tiles(out.numel(), [&](int64_t begin, int64_t n) {
    C in_tile[kTile], out_tile[kTile];
    const C* x = widen(in, begin, n, in_tile);
    C* y = target(out, begin, out_tile);
    for (int64_t i = 0; i < n; ++i) y[i] = op(x[i]);
    narrow(out, begin, n, y);
  });
}

void unary(Exec&, Tensor& out, const Tensor& in, Unary op, double p0, double p1) {
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    const C a = C(p0), b = C(p1);
    switch (op) {
      case Unary::kAffine: return unary_as<C>(out, in, [=](C x) { return a * x + b; });
      case Unary::kExp: return unary_as<C>(out, in, [](C x) { return std::exp(x); });
      case Unary::kClamp: return unary_as<C>(out, in, [=](C x) { return x < a ? a : x > b ? b : x; });
      case Unary::kWithinMask: return unary_as<C>(out, in, [=](C x) { return a <= x && x <= b ? C(1) : C(0); });
    }
  }, out, in);
}

void add_bias(Exec& exec, Tensor& out, const Tensor& in, const Tensor& bias) {
  const int64_t width = bias.numel(), rows = width == 0 ? 0 : in.numel() / width;
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    Scratch scratch(exec);
    const C* b = widen(bias, 0, width, scratch.take<C>(width));
    const ThreadBuffers<C> buffers(exec, 2 * width);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < rows; ++t) {
      const C* x = widen(in, t * width, width, buffers.mine());
      C* y = target(out, t * width, buffers.mine() + width);
      for (int64_t c = 0; c < width; ++c) y[c] = x[c] + b[c];
      narrow(out, t * width, width, y);
    }
  }, out, in);
}

void bias_bwd(Exec& exec, Tensor& dbias, const Tensor& dout) {
  const int64_t width = dbias.numel(), rows = width == 0 ? 0 : dout.numel() / width;
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    const ThreadBuffers<C> buffers(exec, width);
    sum_rows(exec, rows, width, dbias.data<C>(), [&](int64_t t, C* partial) {
      const C* dy = widen(dout, t * width, width, buffers.mine());
      for (int64_t c = 0; c < width; ++c) partial[c] += dy[c];
    });
  }, dbias);
}

void swiglu_fwd(Exec&, Tensor& out, const Tensor& gate_up) {
  const int64_t width = out.size(-1), rows = out.rows(), tiles = blocks_of(width, kTile);
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t tile = 0; tile < tiles; ++tile) {
        C gate_tile[kTile], up_tile[kTile], out_tile[kTile];
        const int64_t begin = tile * kTile, n = std::min(kTile, width - begin);
        const C* gate = widen(gate_up, 2 * t * width + begin, n, gate_tile);
        const C* up = widen(gate_up, (2 * t + 1) * width + begin, n, up_tile);
        C* y = target(out, t * width + begin, out_tile);
        for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (C(1) + std::exp(-gate[i])) * up[i];
        narrow(out, t * width + begin, n, y);
      }
  }, out);
}

// With s = sigmoid(g): d silu(g) / dg = s (1 + g (1 - s)).
void swiglu_bwd(Exec&, Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up) {
  const int64_t width = dout.size(-1), rows = dout.rows(), tiles = blocks_of(width, kTile);
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t tile = 0; tile < tiles; ++tile) {
        C gate_tile[kTile], up_tile[kTile], dout_tile[kTile], dgate_tile[kTile], dup_tile[kTile];
        const int64_t begin = tile * kTile, n = std::min(kTile, width - begin);
        const int64_t gate_at = 2 * t * width + begin, up_at = gate_at + width;
        const C* gate = widen(gate_up, gate_at, n, gate_tile);
        const C* up = widen(gate_up, up_at, n, up_tile);
        const C* dy = widen(dout, t * width + begin, n, dout_tile);
        C* dgate = target(dgate_up, gate_at, dgate_tile);
        C* dup = target(dgate_up, up_at, dup_tile);
        for (int64_t i = 0; i < n; ++i) {
          const C g = gate[i], u = up[i], s = C(1) / (C(1) + std::exp(-g));
          dgate[i] = dy[i] * u * s * (C(1) + g * (C(1) - s));
          dup[i] = dy[i] * g * s;
        }
        narrow(dgate_up, gate_at, n, dgate);
        narrow(dgate_up, up_at, n, dup);
      }
  }, dout);
}

/// Sum of elements [begin, end): tiles from `begin`, their sums added in order.
template <class C>
C sum_range(const Tensor& in, int64_t begin, int64_t end) {
  C total = 0;
  for (; begin < end; begin += kTile) {
    C tile[kTile];
    const int64_t n = std::min(kTile, end - begin);
    const C* x = widen(in, begin, n, tile);
    total += lane_sum<C>(n, [&](int64_t i) { return x[i]; });
  }
  return total;
}

void sum(Exec& exec, Tensor& out, const Tensor& in) {
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    const int64_t tiles = blocks_of(in.numel(), kTile);
    Scratch scratch(exec);
    C* partials = scratch.take<C>(tiles);
#pragma omp parallel for schedule(static) if (tiles > 1)
    for (int64_t tile = 0; tile < tiles; ++tile)
      partials[tile] = sum_range<C>(in, tile * kTile, std::min(in.numel(), (tile + 1) * kTile));
    C total = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) total += partials[tile];
    narrow(out, 0, 1, &(*target(out, 0, &total) = total));
  }, out, in);
}

void segment_sum(Exec&, Tensor& out, const Tensor& in, const Tensor& offsets) {
  const int32_t* bounds = offsets.data<int32_t>();
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < out.numel(); ++s) {
      C total = sum_range<C>(in, bounds[s], bounds[s + 1]);
      narrow(out, s, 1, &(*target(out, s, &total) = total));
    }
  }, out, in);
}

void segment_expand(Exec&, Tensor& out, const Tensor& in, const Tensor& offsets) {
  const int32_t* bounds = offsets.data<int32_t>();
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < in.numel(); ++s) {
      C buffer;
      const C value = *widen(in, s, 1, &buffer);
      for (int64_t t = bounds[s]; t < bounds[s + 1]; ++t) narrow(out, t, 1, &(*target(out, t, &buffer) = value));
    }
  }, out, in);
}

void gather_rows(Exec&, Tensor& out, const Tensor& in, const Tensor& rows) {
  const int32_t* from = rows.data<int32_t>();
  const size_t bytes = size_t(row_width(in)) * size_of(in.dtype());
  const std::byte* source = static_cast<const std::byte*>(in.raw());
  std::byte* destination = static_cast<std::byte*>(out.raw());
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows.numel(); ++i)
    std::memcpy(destination + size_t(i) * bytes, source + size_t(from[i]) * bytes, bytes);
}

void scatter_rows(Exec& exec, Tensor& out, const Tensor& in, const Tensor& rows) {
  const int32_t* to = rows.data<int32_t>();
  const int64_t width = row_width(out);
  with_compute([&](auto tag) {
    using C = typename decltype(tag)::type;
    const ThreadBuffers<C> buffers(exec, 3 * width);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows.numel(); ++i) {
      C* buffer = buffers.mine();
      const int64_t at = to[i] * width;
      const C* x = widen(in, i * width, width, buffer);
      const C* old = widen(out, at, width, buffer + width);
      C* y = target(out, at, buffer + 2 * width);
      for (int64_t c = 0; c < width; ++c) y[c] = old[c] + x[c];
      narrow(out, at, width, y);
    }
  }, out, in);
}

void find_nonfinite(Exec&, Tensor& index, const Tensor& in) {
  const int64_t n = in.numel();
  int64_t first = n;
  dispatch_floating(in.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* x = in.data<T>();
#pragma omp parallel for schedule(static) reduction(min : first)
    for (int64_t tile = 0; tile < blocks_of(n, kTile); ++tile)
      for (int64_t i = tile * kTile; i < std::min(n, (tile + 1) * kTile) && i < first; ++i)
        if (!std::isfinite(to_float(x[i]))) first = i;
  });
  index.data<int32_t>()[0] = first == n ? -1 : int32_t(first);
}

}  // namespace

void register_elementwise(Kernels& table) {
  table.fill = fill;
  table.binary = binary;
  table.unary = unary;
  table.add_bias = add_bias;
  table.bias_bwd = bias_bwd;
  table.swiglu_fwd = swiglu_fwd;
  table.swiglu_bwd = swiglu_bwd;
  table.sum = sum;
  table.segment_sum = segment_sum;
  table.segment_expand = segment_expand;
  table.gather_rows = gather_rows;
  table.scatter_rows = scatter_rows;
  table.find_nonfinite = find_nonfinite;
}

}  // namespace mantissa::cpu_kernels
