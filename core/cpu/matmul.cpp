// matmul: who packs what when, over the threads (core/cpu/matmul_tile.h says how). Work is handed out in
// pieces as threads become free; no element of c depends on which piece or thread it fell to.
//
// Two plans. Many rows: slice by slice of k, all threads pack, then all threads multiply blocks. Few rows (decode): b
// is read once from memory, each thread packing a panel of columns into its L1 and using it at once.
#include "core/cpu/matmul_tile.h"
#include "core/low_rank.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "core/cpu/kernels.h"
#include "core/parallel.h"

namespace mantissa::cpu_kernels {
namespace {

constexpr int64_t kFewRows = 32;
constexpr int64_t kMaxRows = 2048, kMaxColumns = 2048;  // of the packed blocks: 3 MiB each, for L3
constexpr int64_t kBlockRows = 336;                     // of a, multiplied with
constexpr int64_t kBlockColumns = 256;                  // of b, 384 KiB in L2
constexpr int64_t kPieceDepth = 128;                    // of a panel of b in L1 when rows are few: 16 KiB
constexpr int64_t kSerialWork = 1 << 18;                // multiply-adds too few to wake a second thread
constexpr int kPeerParts = 4;
constexpr int64_t kPeerElements = 1 << 22;  // of c at a time under Match::kPeer: 16 MiB a part

int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

/// [0, total) cut in about equal pieces of at most `most`, at multiples of `unit`: the size of a piece.
int64_t even_piece(int64_t total, int64_t most, int64_t unit) {
  const int64_t pieces = std::max<int64_t>(1, (total + most - 1) / most);
  return std::max(unit, round_up((total + pieces - 1) / pieces, unit));
}

struct Product {
  Result c;
  Operand a, b;
  int64_t rows, columns, depth;
  bool accumulate;
};

Slice slice_of(const Product& p, Range k) {
  return {k.begin == 0, k.end == p.depth, p.accumulate, k.size(), 0};
}

void few_rows(Exec& exec, const Product& p) {
  const TileShape tile = tile_shape();
  const int64_t slices = (p.depth + kDepth - 1) / kDepth;
  const int64_t a_slice = (p.rows + tile.rows - 1) / tile.rows * tile.panel_a();
  Scratch scratch(exec);
  float* a = scratch.take<float>(slices * a_slice);
  for (int64_t s = 0; s < slices; ++s)
    pack_a(a + s * a_slice, p.a, {0, p.rows}, {s * kDepth, std::min(p.depth, (s + 1) * kDepth)});

  const int64_t panels = (p.columns + tile.columns - 1) / tile.columns;
#pragma omp parallel if (p.rows * p.columns * p.depth > kSerialWork)
  {
    alignas(64) float b[kPieceDepth * kMaxTileColumns];
    alignas(64) float sums[kFewRows * kMaxTileColumns];
    Result c = p.c;
    if (c.type != Dtype::kF32) {
      c.carry = sums;
      c.carry_stride = tile.columns;
    }
#pragma omp for schedule(dynamic, 4)
    for (int64_t panel = 0; panel < panels; ++panel) {
      const Range n{panel * tile.columns, std::min(p.columns, (panel + 1) * tile.columns)};
      c.carry_column = n.begin;
      int64_t k = 0;
      do {  // once even when there is nothing to sum
        const int64_t s = k / kDepth, end = std::min({k + kPieceDepth, (s + 1) * kDepth, p.depth});
        pack_b(b, p.b, n, {k, end});
        Slice slice = slice_of(p, {k, end});
        slice.a_skip = k - s * kDepth;
        multiply(c, a + s * a_slice, p.a.across, b, {0, p.rows}, n, slice);
        k = end;
      } while (k < p.depth);
    }
  }
}

void many_rows(Exec& exec, const Product& p) {
  const TileShape tile = tile_shape();
  const int threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  const int64_t depth = even_piece(p.depth, kDepth, 16);
  const int64_t super_rows = even_piece(p.rows, kMaxRows, tile.rows);
  const int64_t super_columns = even_piece(p.columns, kMaxColumns, tile.columns);
  const int64_t block_columns = even_piece(super_columns, kBlockColumns, tile.columns);
  int64_t block_rows = even_piece(super_rows, kBlockRows, tile.rows);
  // Enough blocks that no thread waits long for the last one.
  while (block_rows > 4 * tile.rows && super_rows / block_rows * (super_columns / block_columns) < 8 * threads)
    block_rows = round_up(block_rows / 2, tile.rows);

  Scratch scratch(exec);
  float* a = scratch.take<float>(super_rows / tile.rows * tile.panel_a());
  float* b = scratch.take<float>(super_columns * depth);
  Result c = p.c;
  if (c.type != Dtype::kF32 && depth < p.depth) {
    c.carry_stride = super_columns;
    c.carry = scratch.take<float>(super_rows * super_columns);
  }
  for (int64_t n0 = 0; n0 < p.columns; n0 += super_columns) {
    const Range n{n0, std::min(p.columns, n0 + super_columns)};
    for (int64_t m0 = 0; m0 < p.rows; m0 += super_rows) {
      const Range m{m0, std::min(p.rows, m0 + super_rows)};
      c.carry_row = m0;
      c.carry_column = n0;
#pragma omp parallel if (m.size() * n.size() * p.depth > kSerialWork)
      {
        int64_t k0 = 0;
        do {  // once even when there is nothing to sum
          const Range k{k0, std::min(p.depth, k0 + depth)};
#pragma omp for schedule(dynamic) nowait
          for (int64_t column = n.begin; column < n.end; column += tile.columns)
            pack_b(b + (column - n.begin) * k.size(), p.b, {column, std::min(n.end, column + tile.columns)}, k);
#pragma omp for schedule(dynamic)
          for (int64_t row = m.begin; row < m.end; row += tile.rows)
            pack_a(a + (row - m.begin) / tile.rows * tile.panel_a(), p.a, {row, std::min(m.end, row + tile.rows)}, k);
#pragma omp for schedule(dynamic) collapse(2)
          for (int64_t column = n.begin; column < n.end; column += block_columns)
            for (int64_t row = m.begin; row < m.end; row += block_rows)
              multiply(c, a + (row - m.begin) / tile.rows * tile.panel_a(), p.a.across,
                       b + (column - n.begin) * k.size(), {row, std::min(m.end, row + block_rows)},
                       {column, std::min(n.end, column + block_columns)}, slice_of(p, k));
          k0 = k.end;
        } while (k0 < p.depth);
      }
    }
  }
}

void product(Exec& exec, const Product& p) {
  if (p.rows <= kFewRows)
    few_rows(exec, p);
  else
    many_rows(exec, p);
}

/// The operand from `i` vectors and `k` steps on.
Operand moved(const Operand& x, int64_t i, int64_t k) {
  const int64_t offset = x.across ? k * x.stride + i : i * x.stride + k;
  return {static_cast<const std::byte*>(x.data) + offset * int64_t(size_of(x.type)), x.type, x.stride, x.across};
}

void peer_product(Exec& exec, const Product& p) {
  const int64_t part = (p.depth + kPeerParts - 1) / kPeerParts;
  const int64_t chunk = std::clamp<int64_t>(kPeerElements / p.columns, kFewRows, p.rows + kFewRows);
  for (int64_t row = 0; row < p.rows; row += chunk) {
    const int64_t rows = std::min(chunk, p.rows - row);
    Scratch scratch(exec);
    float* sums = scratch.take<float>(kPeerParts * rows * p.columns);
    for (int i = 0; i < kPeerParts; ++i) {
      const int64_t begin = std::min(p.depth, i * part), end = std::min(p.depth, begin + part);
      const Result c{.data = sums + i * rows * p.columns, .type = Dtype::kF32, .stride = p.columns};
      product(exec, {c, moved(p.a, row, begin), moved(p.b, 0, begin), rows, p.columns, end - begin, false});
    }
    Result c = p.c;
    c.data = static_cast<std::byte*>(c.data) + row * c.stride * int64_t(size_of(c.type));
    parallel_for(rows * p.columns, 16384, [&](int64_t begin, int64_t end) {
      join_parts(c, sums, rows * p.columns, {begin, end}, p.accumulate);
    });
  }
}

void product_f64(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, int64_t depth, bool accumulate) {
  const int64_t rows = c.rows(), columns = c.size(-1);
  Scratch scratch(exec);
  const double* right = b.data<double>();
  if (trans == Trans::kNT) {
    double* turned = scratch.take<double>(depth * columns);
    for (int64_t n = 0; n < columns; ++n)
      for (int64_t k = 0; k < depth; ++k) turned[k * columns + n] = right[n * depth + k];
    right = turned;
  }
  const bool across = trans == Trans::kTN;
  parallel_for(rows, std::max<int64_t>(1, kSerialWork / (depth * columns + 1)), [&](int64_t begin, int64_t end) {
    multiply_f64(c.data<double>(), a.data<double>(), across ? 1 : depth, across ? rows : 1, right, {begin, end},
                 columns, depth, accumulate);
  });
}

void matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, bool accumulate) {
  const int64_t rows = c.rows(), columns = c.size(-1), depth = trans == Trans::kTN ? a.rows() : a.size(-1);
  if (rows == 0 || columns == 0) return;
  if (c.dtype() == Dtype::kF64) return product_f64(exec, c, a, b, trans, depth, accumulate);
  const Product p{
      .c = {.data = c.raw(), .type = c.dtype(), .stride = columns},
      .a = {a.raw(), a.dtype(), trans == Trans::kTN ? rows : depth, trans == Trans::kTN},
      .b = {b.raw(), b.dtype(), trans == Trans::kNT ? depth : columns, trans != Trans::kNT},
      .rows = rows,
      .columns = columns,
      .depth = depth,
      .accumulate = accumulate,
  };
  if (exec.match == Match::kPeer)
    peer_product(exec, p);
  else
    product(exec, p);
}

void matmul_bias(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias) {
  if (c.numel() == 0) return;
  auto* row = static_cast<std::byte*>(c.raw());
  for (int64_t m = 0; m < c.rows(); ++m, row += bias.bytes()) std::memcpy(row, bias.raw(), bias.bytes());
  matmul(exec, c, a, b, Trans::kNT, true);
}

}  // namespace

void register_matmul(Kernels& table) {
  table.matmul = matmul;
  table.matmul_bias = matmul_bias;
  table.matmul_low_rank = low_rank_by_matmul;
  table.matmul_scaled = scaled_by_matmul;
  table.matmul_two = two_by_matmul;
}

}  // namespace mantissa::cpu_kernels
