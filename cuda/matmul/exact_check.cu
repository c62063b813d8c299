// The definition of a product under Match::kExact as the plainest kernel that meets it, and the comparison of other
// kernels' results with it (cuda/matmul/exact.h).
//
// The instruction is mma.sync m16n8k16; wgmma of any width gives its bits, and so does either with the operands' roles
// exchanged.
#include "cuda/matmul/exact.h"

#include "cuda/matmul/exact.cuh"
#include "cuda/overlap.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

/// Row i of the rows that are checked.
__host__ __device__ inline int64_t checked_row(int64_t i, int64_t rows) {
  return i * (rows - 1) / (kCheckedRows - 1);
}

/// Elements k and k + 1 of a row as one register; zero past its end. `pairs`: rows lie on 4 bytes.
template <class T>
__device__ __forceinline__ uint32_t load_two(const T* row, int k, int depth, bool pairs) {
  if (pairs) return k < depth ? *reinterpret_cast<const uint32_t*>(row + k) : 0u;
  struct alignas(4) Two {
    T v[2];
  };
  Two two;
  two.v[0] = k < depth ? row[k] : from_float<T>(0.0f);
  two.v[1] = k + 1 < depth ? row[k + 1] : from_float<T>(0.0f);
  return __builtin_bit_cast(uint32_t, two);
}

/// 16 rows and 8 columns a warp, as many blocks as there are take turns. kChecked: the rows that are checked, into
/// c[kCheckedRows, N] fp32 without rounding. Nothing is done where *unless_zero is there and zero.
template <class T, class Out, bool kChecked>
__global__ void __launch_bounds__(kThreads)
    plain_kernel(Out* c, const T* a, const T* b, const Out* bias, int64_t rows, int columns, int depth,
                 int64_t c_stride, const unsigned long long* unless_zero) {
  if (unless_zero && *unless_zero == 0) return;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const bool pairs = depth % 2 == 0 && (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) % 4 == 0;
  const int across = (columns + 8 * kWarps - 1) / (8 * kWarps);
  const int64_t tiles = across * (((kChecked ? kCheckedRows : rows) + 15) / 16);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int first_column = (int(tile % across) * kWarps + threadIdx.x / kWarp) * 8;
    const int64_t first_row = tile / across * 16;
    if (first_column >= columns) continue;
    const T *a_rows[2], *b_row = b + int64_t(min(first_column + g, columns - 1)) * depth;
    for (int i = 0; i < 2; ++i) {
      const int64_t row = first_row + g + 8 * i;
      a_rows[i] = a + (kChecked ? checked_row(row, rows) : min(row, rows - 1)) * depth;
    }
    float sum[4] = {};
#pragma unroll 4
    for (int k = 2 * t; k < depth + 2 * t; k += 16) {  // the lanes of a warp stay together
      const uint32_t x[4] = {load_two(a_rows[0], k, depth, pairs), load_two(a_rows[1], k, depth, pairs),
                             load_two(a_rows[0], k + 8, depth, pairs), load_two(a_rows[1], k + 8, depth, pairs)};
      mma<T>(sum, x, load_two(b_row, k, depth, pairs), load_two(b_row, k + 8, depth, pairs));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = first_row + g + i / 2 * 8;
      const int column = first_column + 2 * t + i % 2;
      if (column >= columns || (!kChecked && row >= rows)) continue;
      store_sum(c + row * c_stride + column, sum[i], bias ? bias + column : nullptr);
    }
  }
}

/// Adds to *count the elements of the checked rows of c that are not `want` [kCheckedRows, N], rounded.
template <class Out>
__global__ void __launch_bounds__(kThreads) compare_kernel(unsigned long long* count, const Out* c, const Out* want,
                                                           int64_t rows, int columns, int64_t stride) {
  const int64_t row = checked_row(blockIdx.y, rows);
  unsigned differ = 0;
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < columns; i += gridDim.x * kThreads) {
    const Out x = c[row * stride + i], y = want[int64_t(blockIdx.y) * columns + i];
    if constexpr (sizeof(Out) == 2)
      differ += __builtin_bit_cast(uint16_t, x) != __builtin_bit_cast(uint16_t, y);
    else
      differ += __float_as_uint(x) != __float_as_uint(y);
  }
  if (differ) atomicAdd(count, differ);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(T* data, uint32_t count, uint32_t depth, uint32_t seed, float second_half) {
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads) {
    const uint32_t half = depth / 2, k = i % depth, twin = k < half ? i : i - half;
    uint32_t x = twin * 0x9E3779B9u ^ seed;  // a hash, not a generator
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    const float value = scalbnf(1.0f + float(x & 0xffff) * 0x1p-16f, int(x >> 16 & 0x7fff) % 11 - 8);
    const float sign = x >> 31 ? -1.0f : 1.0f;
    data[i] = from_float<T>(k == 2 * half ? 0.0f : k < half ? sign * value : sign * value * second_half);
  }
}

/// At most `most` blocks.
template <class T, class Out, bool kChecked>
void launch_plain(Exec& exec, Out* c, const ExactProduct& p, int64_t c_stride, int64_t most = 1 << 30,
                  const unsigned long long* unless_zero = nullptr) {
  const int64_t tiles = int64_t(blocks(p.columns, 8 * kWarps)) * blocks(kChecked ? kCheckedRows : p.rows, 16);
  plain_kernel<T, Out, kChecked><<<unsigned(std::min(tiles, most)), kThreads, 0, stream(exec)>>>(
      c, static_cast<const T*>(p.a), static_cast<const T*>(p.b), static_cast<const Out*>(p.bias), p.rows,
      int(p.columns), int(p.depth), c_stride, unless_zero);
  MANTISSA_LAUNCH_CHECK();
}

__global__ void short_kernel() {
  let_next_begin();
  constexpr long long kClocks = 3000;
  for (const long long start = clock64(); clock64() - start < kClocks;) {
  }
}

}  // namespace

void run_plain_product(Exec& exec, const ExactProduct& p) {
  visit_product(
      p, [&]<class T, class Out>() { launch_plain<T, Out, false>(exec, static_cast<Out*>(p.c), p, p.c_stride); });
}

void repair_product(Exec& exec, const ExactProduct& p, const unsigned long long* differing) {
  visit_product(p, [&]<class T, class Out>() {
    launch_plain<T, Out, false>(exec, static_cast<Out*>(p.c), p, p.c_stride, 8 * device_facts(exec).sms, differing);
  });
}

void count_differing_elements(Exec& exec, const ExactProduct& p, unsigned long long* count) {
  visit_product(p, [&]<class T, class Out>() {
    Scratch scratch(exec);
    Out* want = scratch.take<Out>(kCheckedRows * p.columns);
    launch_plain<T, Out, true>(exec, want, p, p.columns);
    compare_kernel<<<dim3(blocks(p.columns, 4 * kThreads), kCheckedRows), kThreads, 0, stream(exec)>>>(
        count, static_cast<const Out*>(p.c), want, p.rows, int(p.columns), p.c_stride);
    MANTISSA_LAUNCH_CHECK();
  });
}

int64_t differing_elements(Exec& exec, const ExactProduct& p) {
  unsigned long long differ = 0;
  Scratch scratch(exec);
  auto* count = scratch.take<unsigned long long>(1);
  MANTISSA_CUDA(cudaMemsetAsync(count, 0, sizeof(*count), stream(exec)));
  count_differing_elements(exec, p, count);
  MANTISSA_CUDA(cudaMemcpyAsync(&differ, count, sizeof(differ), cudaMemcpyDeviceToHost, stream(exec)));
  MANTISSA_CUDA(cudaStreamSynchronize(stream(exec)));
  return int64_t(differ);
}

void fill_cancelling(Exec& exec, void* data, int64_t rows, int64_t depth, Dtype type, bool negated) {
  const int64_t count = rows * depth;
  if (count == 0) return;
  check(count < int64_t(1) << 31, "[matmul] at most 2^31 numbers are made up: got ", count);
  visit_float(type, [&]<class T>(std::type_identity<T>) {
    fill_kernel<<<unsigned(std::min<int64_t>(blocks(count, kThreads), 4096)), kThreads, 0, stream(exec)>>>(
        static_cast<T*>(data), uint32_t(count), uint32_t(depth), negated ? 0x85EBCA6Bu : 0xC2B2AE35u,
        negated ? -1.0f : 1.0f);
  });
  MANTISSA_LAUNCH_CHECK();
}

void run_short_kernel(Exec& exec) {
  short_kernel<<<unsigned(device_facts(exec).sms), kWarp, 0, stream(exec)>>>();
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace mantissa::cuda_kernels
