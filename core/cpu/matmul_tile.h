// What the driver (matmul.cpp) and the vector code (matmul_tile.cpp) of the matrix product say to each other.
//
// GotoBLAS, with the roles that suit AVX-512: op(a) is packed in panels of `rows` rows (one panel lies in L1 while it
// meets every column), op(b) in panels of `columns` columns (a block of them lies in L2), both widened to fp32. The
// tile kernel holds rows x columns sums in registers and walks up k: one FMA chain per element of c. Between slices of
// k the sums rest in fp32 memory, exact, so blocking never shows in the bits.
//
// Shapes: m, n, k index c's rows, c's columns and the summed dimension; a slice is at most kDepth of k.
#pragma once

#include "core/kernels.h"

namespace mantissa::cpu_kernels {

inline constexpr int64_t kDepth = 384;  // longest slice of k
inline constexpr int kMaxTileColumns = 32;

/// a or b, seen as vectors along k: element (i, k) is data[i * stride + k], or data[k * stride + i] when `across`.
struct Operand {
  const void* data;
  Dtype type;  // fp32, fp16, bf16
  int64_t stride;
  bool across;
};

/// c: data[m * stride + n], and where the fp32 sums of a 16-bit c rest between slices:
/// carry[(m - carry_row) * carry_stride + n - carry_column]. An fp32 c is its own resting place (carry null).
struct Result {
  void* data;
  Dtype type;  // fp32, fp16, bf16
  int64_t stride;
  float* carry = nullptr;
  int64_t carry_stride = 0, carry_row = 0, carry_column = 0;
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

/// Rows and columns of the register tile.
struct TileShape {
  int rows, columns;
  /// Floats from one panel of a to the next; the tail takes what whole-vector stores spill.
  int64_t panel_a() const { return rows * kDepth + 16; }
};
TileShape tile_shape();

/// Packs rows m (from a multiple of tile rows) of a, slice k, into panels at `to`, panel_a() apart.
void pack_a(float* to, const Operand& a, Range m, Range k);
/// Packs columns n of b, slice k, into panels at `to` of columns * k.size() floats, missing columns zero.
void pack_b(float* to, const Operand& b, Range n, Range k);
/// One slice of k, as multiply() is told of it.
struct Slice {
  bool first, last, accumulate;
  int64_t depth;   // steps along k
  int64_t a_skip;  // of k
};
/// c[m, n] of one slice. a_panels holds rows m.begin..., b_panels columns n.begin..., both panel starts; a_skip is
/// where in their slice the a panels are read from. The sums start at 0, or at c when `accumulate`, in the first slice,
/// and are rounded into c in the last.
void multiply(const Result& c, const float* a_panels, bool a_across, const float* b_panels, Range m, Range n,
              Slice slice);

/// Match::kPeer: elements `range` of c = ((p0 + p1) + p2) + p3 (+ c last when accumulate), part i at sums + i * step.
void join_parts(const Result& c, const float* sums, int64_t step, Range range, bool accumulate);

/// Rows m of c[M,N] = a.b (+ c) in fp64: a (m, k) at a[m * a_row + k * a_step], b[K,N].
void multiply_f64(double* c, const double* a, int64_t a_row, int64_t a_step, const double* b, Range m, int64_t columns,
                  int64_t depth, bool accumulate);

}  // namespace mantissa::cpu_kernels
