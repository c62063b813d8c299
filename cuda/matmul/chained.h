// Two products in one chain (Kernels::matmul_low_rank, matmul_two) of 16-bit types on Hopper: every element one chain
// over ascending k of a . b and then of u . v, 16 a step, in one fp32 accumulator, scale, bias, one rounding. These are
// the bits of an exact product (cuda/matmul/exact.h) of the operands joined along k.
#pragma once

#include <vector>

#include "core/kernels.h"
#include "cuda/device.h"
#include "cuda/matmul/exact.h"

namespace mantissa::cuda_kernels {

inline constexpr size_t kMostParts = 7;

struct ChainedProduct {
  ExactProduct first;                     // with c
  Trans trans = Trans::kNT;               // kNT: b [N,K], v [columns of all parts, R]; kNN: b [K,N], v [R,N]
  int64_t rank = 0;                       // R, of a part; 0: there is no second product
  const void *u = nullptr, *v = nullptr;  // u [M, P R]
  std::vector<ColumnRange> parts = {};    // none empty; kNN: one, of all columns
  float scale = 1.0f;                     // of the sums, before the bias
  const void* down = nullptr;             // [P R, K]: u is made by the same kernel, round(down_scale a . down^T)
  float down_scale = 1.0f;

  int64_t u_columns() const { return int64_t(parts.size()) * rank; }
  int64_t v_rows() const {
    int64_t rows = 0;
    for (const ColumnRange& part : parts) rows += part.size();
    return rows;
  }
};

/// How blocks that need u learn that it is there: counters of the stream, zero between kernels. Null where there are
/// none and none can be made now.
unsigned* progress_counters(Exec& exec);
inline constexpr int kProgressCounters = 64;  // one a tile of rows

/// Whether a device has these kernels at all.
bool has_chained_products(const cuda::DeviceFacts& device);
/// False where shapes, alignment or the device ask for another way: K, R and rows must come in 16 bytes.
bool chained_product_serves(Exec& exec, const ChainedProduct& p);
void run_chained_product(Exec& exec, const ChainedProduct& p);

/// The kernels, in forms that differ in their tiles and in who makes u: kNT of few rows (exact_stream.cu), which serve
/// some products only, and any (tiles.cu). Of finite u all have the same bits.
int stream_forms();
bool stream_serves(const ChainedProduct& p, int form);
void run_stream(Exec& exec, const ChainedProduct& p, int form);
int tile_forms();
void run_tiles(Exec& exec, const ChainedProduct& p, int form);

}  // namespace mantissa::cuda_kernels
