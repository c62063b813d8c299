// Mixture of experts: which experts a row goes to, the rows of an expert brought together, and their way back.
// Legend: T rows, E experts, K slots (experts a row goes to), R = T K grouped rows, C width.
#include <cmath>

#include "cuda/rows.cuh"

namespace mantissa::cuda_kernels {
namespace {

constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kMostExperts = 1024;
constexpr int kRouteWarps = 4;  // rows of a block

void check_experts(int64_t count, const char* op = __builtin_FUNCTION()) {
  check(count <= kMostExperts, "[", op, "] at most ", kMostExperts, " experts on a GPU: got ", count);
}

// ---- routes ---------------------------------------------------------------------------------------------------------

/// Of a row of logits, by a warp: what turns one of them into its probability.
struct RowSoftmax {
  float largest, total;

  __device__ RowSoftmax(const float* row, int count) : largest(-INFINITY), total(0.0f) {
    const int lane = threadIdx.x % kWarp;
    for (int e = lane; e < count; e += kWarp) largest = fmaxf(largest, row[e]);
    largest = warp_reduce(largest, Max());
    for (int e = lane; e < count; e += kWarp) total += expf(row[e] - largest);
    total = warp_sum(total);
  }
  __device__ float of(float logit) const { return expf(logit - largest) / total; }
};

/// Grows with the logit, and of equal ones for the lower index; a NaN counts as -infinity. Never zero.
__device__ unsigned long long place_of(float logit, int index) {
  const float x = isnan(logit) ? -INFINITY : logit + 0.0f;  // -0 becomes 0
  const uint32_t bits = __float_as_uint(x), ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | ~uint32_t(index);
}

struct Largest {
  __device__ __forceinline__ unsigned long long operator()(unsigned long long a, unsigned long long b) const {
    return a > b ? a : b;
  }
};

/// By a warp: the experts of a row, expert(j) for slot j, and their weights.
template <class Expert>
__device__ void weigh(float* weights, int32_t* experts, const RowSoftmax& softmax, const float* logits, int slots,
                      bool normalise, Expert expert) {
  const int lane = threadIdx.x % kWarp;
  float total = 0.0f;
  for (int j = 0; j < slots; ++j) {
    const int picked = expert(j);
    const float w = softmax.of(logits[picked]);
    total += w;
    if (lane == 0) {
      experts[j] = picked;
      weights[j] = w;
    }
  }
  for (int j = 0; normalise && lane == 0 && j < slots; ++j) weights[j] /= total;
}

/// A warp a row. Each lane works on the experts that are its own number modulo 32.
__global__ void __launch_bounds__(kRouteWarps* kWarp)
    route_kernel(float* weights, int32_t* experts, const float* logits, int64_t rows, int count, int slots,
                 bool normalise) {
  extern __shared__ unsigned long long shared_places[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t row = blockIdx.x * int64_t(kRouteWarps) + warp;
  if (row >= rows) return;
  const float* own = logits + row * count;
  unsigned long long* places = shared_places + warp * count;
  const RowSoftmax softmax(own, count);
  for (int e = lane; e < count; e += kWarp) places[e] = place_of(own[e], e);
  const auto largest = [&](int) {
    unsigned long long best = 0;
    for (int e = lane; e < count; e += kWarp) best = Largest()(best, places[e]);
    const int picked = int(~uint32_t(warp_reduce(best, Largest())));
    if (picked % kWarp == lane) places[picked] = 0;
    return picked;
  };
  weigh(weights + row * slots, experts + row * slots, softmax, own, slots, normalise, largest);
}

void route(Exec& exec, Tensor& weights, Tensor& experts, const Tensor& logits, bool normalise) {
  const int64_t rows = logits.size(0), count = logits.size(1);
  check_experts(count);
  if (rows == 0) return;
  route_kernel<<<blocks(rows, kRouteWarps), kRouteWarps * kWarp, kRouteWarps * count * sizeof(unsigned long long),
                 stream(exec)>>>(weights.data<float>(), experts.data<int32_t>(), logits.data<float>(), rows, int(count),
                                 int(experts.size(1)), normalise);
  MANTISSA_LAUNCH_CHECK();
}

/// A warp a row.
__global__ void __launch_bounds__(kThreads)
    route_given_kernel(float* weights, int32_t* experts, const float* logits, const uint8_t* given, int64_t rows,
                       int count, int slots, bool normalise) {
  const int64_t row = blockIdx.x * int64_t(kWarps) + threadIdx.x / kWarp;
  if (row >= rows || given[row * slots] == kNotGiven) return;
  const float* own = logits + row * count;
  const RowSoftmax softmax(own, count);
  weigh(weights + row * slots, experts + row * slots, softmax, own, slots, normalise,
        [&](int j) { return int(given[row * slots + j]); });
}

void route_given(Exec& exec, Tensor& weights, Tensor& experts, const Tensor& logits, const Tensor& given,
                 bool normalise) {
  const int64_t rows = logits.size(0);
  if (rows == 0) return;
  route_given_kernel<<<blocks(rows, kWarps), kThreads, 0, stream(exec)>>>(
      weights.data<float>(), experts.data<int32_t>(), logits.data<float>(), given.data<uint8_t>(), rows,
      int(logits.size(1)), int(experts.size(1)), normalise);
  MANTISSA_LAUNCH_CHECK();
}

/// A thread a row.
__global__ void __launch_bounds__(kThreads)
    same_routes_kernel(int32_t* same, const int32_t* experts, const uint8_t* given, int64_t rows, int slots) {
  const int64_t row = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (row >= rows) return;
  int found = 0;
  for (int j = 0; j < slots; ++j)
    for (int i = 0; i < slots; ++i) found += experts[row * slots + j] == given[row * slots + i];
  same[row] = found == slots;
}

void same_routes(Exec& exec, Tensor& same, const Tensor& experts, const Tensor& given) {
  const int64_t rows = experts.size(0);
  if (rows == 0) return;
  same_routes_kernel<<<blocks(rows, kThreads), kThreads, 0, stream(exec)>>>(
      same.data<int32_t>(), experts.data<int32_t>(), given.data<uint8_t>(), rows, int(experts.size(1)));
  MANTISSA_LAUNCH_CHECK();
}

/// A warp a row.
__global__ void __launch_bounds__(kThreads)
    route_bwd_kernel(float* dlogits, const float* dweights, const float* logits, const float* weights,
                     const int32_t* experts, int64_t rows, int count, int slots, bool normalise) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = blockIdx.x * int64_t(kWarps) + threadIdx.x / kWarp;
  if (row >= rows) return;
  const float *w = weights + row * slots, *dw = dweights + row * slots, *own = logits + row * count;
  float* dz = dlogits + row * count;
  float mean = 0.0f;
  for (int j = 0; j < slots; ++j) mean += w[j] * dw[j];
  if (normalise) {
    for (int e = lane; e < count; e += kWarp) dz[e] = 0.0f;
  } else {
    const RowSoftmax softmax(own, count);
    for (int e = lane; e < count; e += kWarp) dz[e] = softmax.of(own[e]) * -mean;
  }
  __syncwarp();
  for (int j = lane; j < slots; j += kWarp) dz[experts[row * slots + j]] = w[j] * (dw[j] - mean);
}

void route_bwd(Exec& exec, Tensor& dlogits, const Tensor& dweights, const Tensor& logits, const Tensor& weights,
               const Tensor& experts, bool normalise) {
  const int64_t rows = logits.size(0);
  if (rows == 0) return;
  route_bwd_kernel<<<blocks(rows, kWarps), kThreads, 0, stream(exec)>>>(
      dlogits.data<float>(), dweights.data<float>(), logits.data<float>(), weights.data<float>(),
      experts.data<int32_t>(), rows, int(logits.size(1)), int(experts.size(1)), normalise);
  MANTISSA_LAUNCH_CHECK();
}

// ---- groups: a stable counting sort of the slots by expert ----------------------------------------------------------
// A block has kThreads slots in a row, its part of them.

/// counts[part,E]: how many slots of a part go to an expert.
__global__ void __launch_bounds__(kThreads) count_kernel(int* counts, const int32_t* experts, int slots, int count) {
  extern __shared__ int shared_counts[];
  for (int e = threadIdx.x; e < count; e += kThreads) shared_counts[e] = 0;
  __syncthreads();
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (i < slots) atomicAdd(&shared_counts[experts[i]], 1);  // integers: in any order
  __syncthreads();
  for (int e = threadIdx.x; e < count; e += kThreads) counts[blockIdx.x * int64_t(count) + e] = shared_counts[e];
}

/// One block, a thread an expert: counts become those of the parts before, and offsets those of the experts before.
__global__ void __launch_bounds__(kMostExperts) scan_kernel(int32_t* offsets, int* counts, int parts, int count) {
  constexpr int kAtOnce = 8;  // loads under way
  __shared__ int sums[2][kMostExperts];
  const int e = threadIdx.x;
  int own = 0;
  for (int part = 0; e < count && part < parts; part += kAtOnce) {
    int* at = counts + part * int64_t(count) + e;
    int here[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) here[i] = part + i < parts ? at[i * int64_t(count)] : 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (part + i < parts) at[i * int64_t(count)] = own;
      own += here[i];
    }
  }
  sums[0][e] = own;
  int from = 0;
  for (int step = 1; step < kMostExperts; step *= 2, from ^= 1) {
    __syncthreads();
    sums[from ^ 1][e] = sums[from][e] + (e >= step ? sums[from][e - step] : 0);
  }
  __syncthreads();
  if (e < count) offsets[e + 1] = sums[from][e];
  if (e == 0) offsets[0] = 0;
}

__global__ void __launch_bounds__(kThreads)
    place_kernel(int32_t* tokens, int32_t* rows, const int32_t* offsets, const int* counts, const int32_t* experts,
                 int slots, int count, int slots_of_row) {
  __shared__ int32_t part[kThreads];
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  const int32_t expert = i < slots ? experts[i] : -1;
  part[threadIdx.x] = expert;
  __syncthreads();
  if (i >= slots) return;
  int row = offsets[expert] + counts[blockIdx.x * int64_t(count) + expert];
  for (int before = 0; before < int(threadIdx.x); ++before) row += part[before] == expert;
  rows[i] = row;
  tokens[row] = int32_t(i / slots_of_row);
}

void group_rows(Exec& exec, Tensor& offsets, Tensor& tokens, Tensor& rows, const Tensor& experts) {
  const int64_t count = offsets.numel() - 1, slots = experts.numel();
  check_experts(count);
  const unsigned parts = blocks(slots, kThreads);
  Scratch scratch(exec);
  int* counts = scratch.take<int>(std::max<int64_t>(1, parts * count));
  const int32_t* of = experts.data<int32_t>();
  if (parts > 0)
    count_kernel<<<parts, kThreads, count * sizeof(int), stream(exec)>>>(counts, of, int(slots), int(count));
  scan_kernel<<<1, kMostExperts, 0, stream(exec)>>>(offsets.data<int32_t>(), counts, int(parts), int(count));
  if (parts > 0)
    place_kernel<<<parts, kThreads, 0, stream(exec)>>>(tokens.data<int32_t>(), rows.data<int32_t>(),
                                                       offsets.data<int32_t>(), counts, of, int(slots), int(count),
                                                       int(experts.size(1)));
  MANTISSA_LAUNCH_CHECK();
}

// ---- combination ----------------------------------------------------------------------------------------------------

template <class T>
struct CombineRows {
  int64_t width;
  int slots;
  T* out;
  const T* in;
  const float* weights;  // null: 1
  const int32_t* rows;
  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    float total[N] = {};
#pragma unroll 4
    for (int64_t j = row * slots; j < (row + 1) * slots; ++j) {
      float x[N];
      load_floats(x, in + rows[j] * width + column);
      const float w = weights ? weights[j] : 1.0f;
#pragma unroll
      for (int k = 0; k < N; ++k) total[k] = fmaf(w, x[k], total[k]);
    }
    store_floats(out + row * width + column, total);
  }
};

void combine_rows(Exec& exec, Tensor& out, const Tensor& in, const Tensor& weights, const Tensor& rows) {
  const int64_t width = out.size(-1);
  visit_float(in.dtype(), [&]<class T>(std::type_identity<T>) {
    launch_map_rows(exec, out.rows(), width,
                    CombineRows<T>{width, int(rows.size(1)), elements<T>(out), elements<T>(in),
                                   weights.defined() ? weights.data<float>() : nullptr, rows.data<int32_t>()},
                    {out.raw(), in.raw()});
  });
}

/// A warp a slot, which has its row of din and in to itself; packs of N elements.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    combine_bwd_kernel(T* din, float* dweights, const T* dout, const T* in, const float* weights, const int32_t* rows,
                       int64_t count, int slots, int64_t width) {
  const int lane = threadIdx.x % kWarp;
  const int64_t slot = blockIdx.x * int64_t(kWarps) + threadIdx.x / kWarp;
  if (slot >= count) return;
  const T* of_token = dout + slot / slots * width;
  const int64_t row = rows[slot] * width;
  const float w = weights[slot];
  float dot = 0.0f;
  for (int64_t column = lane * N; column < width; column += kWarp * N) {
    float d[N], x[N];
    load_floats(d, of_token + column);
    load_floats(x, in + row + column);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      dot = fmaf(d[k], x[k], dot);
      d[k] *= w;
    }
    store_floats(din + row + column, d);
  }
  dot = warp_sum(dot);
  if (lane == 0) dweights[slot] = dot;
}

void combine_rows_bwd(Exec& exec, Tensor& din, Tensor& dweights, const Tensor& dout, const Tensor& in,
                      const Tensor& weights, const Tensor& rows) {
  const int64_t width = dout.size(-1), count = rows.numel();
  if (count == 0) return;
  visit_float(in.dtype(), [&]<class T>(std::type_identity<T>) {
    const bool packs = width % 8 == 0 && aligned({din.raw(), dout.raw(), in.raw()});
    auto* kernel = packs ? combine_bwd_kernel<8, T> : combine_bwd_kernel<1, T>;
    kernel<<<blocks(count, kWarps), kThreads, 0, stream(exec)>>>(
        elements<T>(din), dweights.data<float>(), elements<T>(dout), elements<T>(in), weights.data<float>(),
        rows.data<int32_t>(), count, int(rows.size(1)), width);
    MANTISSA_LAUNCH_CHECK();
  });
}

}  // namespace

void register_experts(Kernels& table) {
  table.route = route;
  table.route_bwd = route_bwd;
  table.route_given = route_given;
  table.same_routes = same_routes;
  table.group_rows = group_rows;
  table.combine_rows = combine_rows;
  table.combine_rows_bwd = combine_rows_bwd;
}

}  // namespace mantissa::cuda_kernels
