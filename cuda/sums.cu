// Sums, segments, and the search for elements that are not finite or that differ. Every sum has a shape that depends on
// the sizes alone, so its bits are the same in every run, and a segment's do not depend on where it lies.
// Legend: T rows, C width, S segments.
#include "cuda/sums.cuh"

#include <limits>

namespace mantissa::cuda_kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kCompareThreads = 1024;
constexpr int64_t kSumBlock = 16384;  // elements of one partial sum
constexpr int64_t kRowBlock = 128;    // rows of one partial sum

/// Of elements [begin, end) by one block: strided sums of the threads, then a tree.
template <class T>
__device__ float sum_range(const T* in, int64_t begin, int64_t end) {
  float total = 0.0f;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) total += to_float(in[i]);
  return block_sum<kThreads>(total);
}

template <class T>
__global__ void __launch_bounds__(kThreads) sum_blocks(float* partials, const T* in, int64_t n) {
  const int64_t begin = blockIdx.x * kSumBlock;
  const float total = sum_range(in, begin, min(n, begin + kSumBlock));
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}
template <class Out>
__global__ void __launch_bounds__(kThreads) sum_partials(Out* out, const float* partials, int64_t count) {
  const float total = sum_range(partials, 0, count);
  if (threadIdx.x == 0) out[0] = from_float<Out>(total);
}

void sum(Exec& exec, Tensor& out, const Tensor& in) {
  const int64_t n = in.numel(), count = (n + kSumBlock - 1) / kSumBlock;
  Scratch scratch(exec);
  float* partials = scratch.take<float>(count);
  if (count > 0)
    visit_float(in.dtype(), [&]<class T>(std::type_identity<T>) {
      sum_blocks<<<unsigned(count), kThreads, 0, stream(exec)>>>(partials, elements<T>(in), n);
      MANTISSA_LAUNCH_CHECK();
    });
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    sum_partials<<<1, kThreads, 0, stream(exec)>>>(elements<Out>(out), partials, count);
    MANTISSA_LAUNCH_CHECK();
  });
}

template <class Out, class In>
__global__ void __launch_bounds__(kThreads) segment_sum_kernel(Out* out, const In* in, const int32_t* offsets) {
  const float total = sum_range(in, offsets[blockIdx.x], offsets[blockIdx.x + 1]);
  if (threadIdx.x == 0) out[blockIdx.x] = from_float<Out>(total);
}

void segment_sum(Exec& exec, Tensor& out, const Tensor& in, const Tensor& offsets) {
  if (out.numel() == 0) return;
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        in.dtype(),
        [&]<class In>(std::type_identity<In>) {
          segment_sum_kernel<<<unsigned(out.numel()), kThreads, 0, stream(exec)>>>(elements<Out>(out), elements<In>(in),
                                                                                   offsets.data<int32_t>());
        },
        "segment_sum");
  });
  MANTISSA_LAUNCH_CHECK();
}

template <class Out, class In>
__global__ void __launch_bounds__(kThreads) segment_expand_kernel(Out* out, const In* in, const int32_t* offsets) {
  const Out value = from_float<Out>(to_float(in[blockIdx.x]));
  for (int32_t t = offsets[blockIdx.x] + int32_t(threadIdx.x); t < offsets[blockIdx.x + 1]; t += kThreads)
    out[t] = value;
}

void segment_expand(Exec& exec, Tensor& out, const Tensor& in, const Tensor& offsets) {
  if (in.numel() == 0) return;
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        in.dtype(),
        [&]<class In>(std::type_identity<In>) {
          segment_expand_kernel<<<unsigned(in.numel()), kThreads, 0, stream(exec)>>>(
              elements<Out>(out), elements<In>(in), offsets.data<int32_t>());
        },
        "segment_expand");
  });
  MANTISSA_LAUNCH_CHECK();
}

// ---- column sums ----------------------------------------------------------------------------------------------------

constexpr int kLanes = 32, kRowsAtOnce = kThreads / kLanes;

/// Blocks cover kLanes * N columns and kRowBlock rows of in[T,C].
template <int N, class T>
__global__ void __launch_bounds__(kThreads) column_sums(float* partials, const T* in, int64_t rows, int64_t width) {
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int64_t column = (blockIdx.x * int64_t(kLanes) + lane) * N, first = blockIdx.y * kRowBlock;
  const int64_t end = min(rows, first + kRowBlock);
  float total[N] = {};
  if (column < width)
#pragma unroll 4
    for (int64_t t = first + group; t < end; t += kRowsAtOnce) {
      float x[N];
      load_floats(x, in + t * width + column);
#pragma unroll
      for (int j = 0; j < N; ++j) total[j] += x[j];
    }
  __shared__ float parts[kRowsAtOnce][kLanes * N];
#pragma unroll
  for (int j = 0; j < N; ++j) parts[group][lane * N + j] = total[j];
  __syncthreads();
  for (int i = threadIdx.x; i < kLanes * N; i += kThreads) {
    const int64_t c = blockIdx.x * int64_t(kLanes * N) + i;
    if (c >= width) continue;
    float column_total = 0.0f;
    for (int g = 0; g < kRowsAtOnce; ++g) column_total += parts[g][i];
    partials[blockIdx.y * width + c] = column_total;
  }
}

__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(float* totals, const float* partials, int64_t count, int64_t width) {
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  const int64_t c = blockIdx.x * int64_t(kLanes) + lane;
  float total = 0.0f;
  if (c < width)
#pragma unroll 8
    for (int64_t block = group; block < count; block += kRowsAtOnce) total += partials[block * width + c];
  __shared__ float parts[kRowsAtOnce][kLanes];
  parts[group][lane] = total;
  __syncthreads();
  if (group != 0 || c >= width) return;
  float all = 0.0f;
  for (int g = 0; g < kRowsAtOnce; ++g) all += parts[g][lane];
  totals[c] += all;
}

void bias_bwd(Exec& exec, Tensor& dbias, const Tensor& dout) {
  const int64_t width = dbias.numel(), rows = width == 0 ? 0 : dout.numel() / width;
  if (rows == 0) return;
  const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
  Scratch scratch(exec);
  float* partials = scratch.take<float>(row_blocks * width);
  visit_float(dout.dtype(), [&]<class T>(std::type_identity<T>) {
    const T* in = elements<T>(dout);
    if (width % 8 == 0 && aligned({in}))
      column_sums<8><<<dim3(blocks(width, kLanes * 8), unsigned(row_blocks)), kThreads, 0, stream(exec)>>>(partials, in,
                                                                                                           rows, width);
    else
      column_sums<1>
          <<<dim3(blocks(width, kLanes), unsigned(row_blocks)), kThreads, 0, stream(exec)>>>(partials, in, rows, width);
    MANTISSA_LAUNCH_CHECK();
  });
  add_partials(exec, elements<float>(dbias), partials, row_blocks, width);
}

// ---- non-finite elements --------------------------------------------------------------------------------------------

__global__ void set_index(int32_t* index) {
  *index = std::numeric_limits<int32_t>::max();
}
__global__ void finish_index(int32_t* index) {
  if (*index == std::numeric_limits<int32_t>::max()) *index = -1;
}

/// The smallest index wins, in whatever order the blocks come.
template <class T>
__global__ void __launch_bounds__(kThreads) find_kernel(int32_t* index, const T* in, int64_t n) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < n; i += stride)
    if (!isfinite(to_float(in[i]))) {
      atomicMin(index, int32_t(i));
      return;
    }
}

void find_nonfinite(Exec& exec, Tensor& index, const Tensor& in) {
  int32_t* out = index.data<int32_t>();
  set_index<<<1, 1, 0, stream(exec)>>>(out);
  if (in.numel() > 0)
    visit_float(in.dtype(), [&]<class T>(std::type_identity<T>) {
      const unsigned grid = std::min(blocks(in.numel(), kThreads), unsigned(device_facts(exec).sms) * 16);
      find_kernel<<<grid, kThreads, 0, stream(exec)>>>(out, elements<T>(in), in.numel());
    });
  finish_index<<<1, 1, 0, stream(exec)>>>(out);
  MANTISSA_LAUNCH_CHECK();
}

// ---- elements that differ -------------------------------------------------------------------------------------------

/// One block: log-probs of a micro-batch are few.
__global__ void __launch_bounds__(kCompareThreads)
    difference_kernel(Difference* found, const float* a, const float* b, int64_t n) {
  int count = 0, not_finite = 0, first = std::numeric_limits<int>::max();
  float largest = 0;
  for (int64_t i = threadIdx.x; i < n; i += kCompareThreads) {
    const float x = a[i], y = b[i];
    not_finite += !isfinite(x);
    if (__float_as_uint(x) == __float_as_uint(y)) continue;
    ++count;
    first = min(first, int(i));
    const float apart = fabsf(x - y);
    largest = isnan(apart) ? INFINITY : fmaxf(largest, apart);
  }
  count = block_sum<kCompareThreads>(count);
  not_finite = block_sum<kCompareThreads>(not_finite);
  first = block_reduce<kCompareThreads>(first, [](int x, int y) { return min(x, y); }, std::numeric_limits<int>::max());
  largest = block_reduce<kCompareThreads>(largest, Max(), 0.0f);
  if (threadIdx.x == 0) *found = {count, count > 0 ? first : -1, not_finite, largest};
}

void find_difference(Exec& exec, Tensor& found, const Tensor& a, const Tensor& b) {
  difference_kernel<<<1, kCompareThreads, 0, stream(exec)>>>(reinterpret_cast<Difference*>(found.data<int32_t>()),
                                                             a.data<float>(), b.data<float>(), a.numel());
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace

void add_partials(Exec& exec, float* totals, const float* partials, int64_t count, int64_t width) {
  if (count == 0 || width == 0) return;
  add_partials_kernel<<<blocks(width, kLanes), kThreads, 0, stream(exec)>>>(totals, partials, count, width);
  MANTISSA_LAUNCH_CHECK();
}

void register_sums(Kernels& table) {
  table.bias_bwd = bias_bwd;
  table.sum = sum;
  table.segment_sum = segment_sum;
  table.segment_expand = segment_expand;
  table.find_nonfinite = find_nonfinite;
  table.find_difference = find_difference;
}

}  // namespace mantissa::cuda_kernels
