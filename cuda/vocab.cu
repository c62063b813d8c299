// Embedding, and log-probability and entropy of targets from logits. Legend: T tokens, C width, V vocabulary.
#include "cuda/logits.cuh"

namespace mantissa::cuda_kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kVector = 8;  // elements of a row that a thread moves at once

template <int N, class Out, class In>
__global__ void __launch_bounds__(kThreads)
    embedding_fwd_kernel(Out* out, const In* table, const int32_t* ids, int64_t items, int parts, int64_t width) {
  const int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t t = item / parts, c = item % parts * N;
  float x[N];
  load_floats(x, table + ids[t] * width + c);
  store_floats(out + t * width + c, x);
}

void embedding_fwd(Exec& exec, Tensor& out, const Tensor& table, const Tensor& ids) {
  const int64_t width = table.size(-1);
  if (out.numel() == 0) return;
  visit_float(out.dtype(), [&]<class Out>(std::type_identity<Out>) {
    visit_float(
        table.dtype(),
        [&]<class In>(std::type_identity<In>) {
          const auto launch = [&]<int N>(std::integral_constant<int, N>) {
            const int64_t parts = width / N, items = parts * ids.numel();
            embedding_fwd_kernel<N><<<blocks(items, kThreads), kThreads, 0, stream(exec)>>>(
                elements<Out>(out), elements<In>(table), ids.data<int32_t>(), items, int(parts), width);
          };
          if (width % kVector == 0)
            launch(std::integral_constant<int, kVector>());
          else
            launch(std::integral_constant<int, 1>());
        },
        "embedding_fwd");
  });
  MANTISSA_LAUNCH_CHECK();
}

/// row += the rows of `in` that the list names, in its order, by the whole block.
template <int N, class T>
__device__ void add_rows(float* row, const T* in, const int* list, int count, int width) {
  constexpr int kAhead = 4;  // rows loaded before the first is added
  if (count == 0) return;
  for (int c = threadIdx.x * N; c < width; c += kThreads * N) {
    float sum[N];
    load_floats(sum, row + c);
    for (int i = 0; i < count; i += kAhead) {
      float x[kAhead][N];
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
        if (i + k < count) load_floats(x[k], in + int64_t(list[i + k]) * width + c);
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
        if (i + k < count)
#pragma unroll
          for (int j = 0; j < N; ++j) sum[j] += x[k][j];
    }
    store_floats(row + c, sum);
  }
}

/// One block a token. The first token of an id adds the rows of all tokens with that id, ascending, so that every
/// element of the table is one sum in token order; the others have nothing to do. Looking through the ids costs T^2
/// comparisons of integers, which for the tokens of a batch is far cheaper than the gradient it is for.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    embedding_bwd_kernel(float* dtable, const T* dout, const int32_t* ids, int tokens, int width) {
  constexpr int kLooks = 4;  // ids that a thread looks at before the block agrees
  const int first = blockIdx.x, id = ids[first];
  bool match[kLooks];
  const auto look = [&](int begin, int end) {
    bool any = false;
#pragma unroll
    for (int k = 0; k < kLooks; ++k) {
      const int t = begin + k * kThreads + threadIdx.x;
      match[k] = t < end && ids[t] == id;
      any |= match[k];
    }
    return __syncthreads_or(any);
  };
  for (int begin = 0; begin < first; begin += kLooks * kThreads)
    if (look(begin, first)) return;

  __shared__ int found[kThreads];
  __shared__ int found_in_warp[kThreads / kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float* row = dtable + int64_t(id) * width;
  for (int begin = first; begin < tokens; begin += kLooks * kThreads) {
    if (!look(begin, tokens)) continue;
#pragma unroll
    for (int k = 0; k < kLooks; ++k) {
      // The matching tokens of kThreads, in order.
      const unsigned votes = __ballot_sync(0xffffffffu, match[k]);
      if (lane == 0) found_in_warp[warp] = __popc(votes);
      __syncthreads();
      int before = 0, count = 0;
      for (int w = 0; w < kThreads / kWarp; ++w) {
        before += w < warp ? found_in_warp[w] : 0;
        count += found_in_warp[w];
      }
      if (match[k]) found[before + __popc(votes & ((1u << lane) - 1))] = begin + k * kThreads + threadIdx.x;
      __syncthreads();
      add_rows<N>(row, dout, found, count, width);
      __syncthreads();  // before the lists are written again
    }
  }
}

void embedding_bwd(Exec& exec, Tensor& dtable, const Tensor& dout, const Tensor& ids) {
  const int64_t width = dtable.size(-1), tokens = ids.numel();
  if (tokens == 0) return;
  visit_float(dout.dtype(), [&]<class T>(std::type_identity<T>) {
    auto* kernel = width % kVector == 0 ? embedding_bwd_kernel<kVector, T> : embedding_bwd_kernel<1, T>;
    kernel<<<unsigned(tokens), kThreads, 0, stream(exec)>>>(dtable.data<float>(), elements<T>(dout),
                                                            ids.data<int32_t>(), int(tokens), int(width));
  });
  MANTISSA_LAUNCH_CHECK();
}

template <bool kVectors>
__global__ void __launch_bounds__(kRowThreads)
    logprob_fwd_kernel(float* logprob, float* entropy, float* lse, const float* logits, const int32_t* targets,
                       int vocab, float inv_temperature) {
  extern __shared__ Chunk chunks[];
  const int64_t t = blockIdx.x;
  const float* row = logits + t * vocab;
  const RowSum s = sum_row<kVectors, true>(chunks, row, vocab, inv_temperature);
  if (threadIdx.x != 0) return;
  lse[t] = s.lse;
  logprob[t] = row[targets[t]] * inv_temperature - s.lse;
  entropy[t] = logf(s.sum) - s.moment / s.sum;
}

void logprob_fwd(Exec& exec, Tensor& logprob, Tensor& entropy, Tensor& lse, const Tensor& logits, const Tensor& targets,
                 double inv_temperature) {
  check_logits("logprob_fwd", logits);
  const int vocab = int(logits.size(-1));
  if (logits.numel() == 0) return;
  auto* kernel = vocab % 4 == 0 ? logprob_fwd_kernel<true> : logprob_fwd_kernel<false>;
  kernel<<<unsigned(logits.rows()), kRowThreads, vocab_chunks(vocab) * sizeof(Chunk), stream(exec)>>>(
      logprob.data<float>(), entropy.data<float>(), lse.data<float>(), logits.data<float>(), targets.data<int32_t>(),
      vocab, float(inv_temperature));
  MANTISSA_LAUNCH_CHECK();
}

/// Block (x, t) has kThreads * N consecutive logits of row t. A thread reads its own before it writes them, so dlogits
/// may lie over logits.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    logprob_bwd_kernel(T* dlogits, const float* logits, const float* lse, const float* entropy, const int32_t* targets,
                       const float* dlogprob, const float* dentropy, const StepState* state, int vocab,
                       double inv_temperature) {
  const int64_t t = blockIdx.y;
  const int v = (blockIdx.x * kThreads + threadIdx.x) * N;
  if (v >= vocab) return;
  const float scale = state ? state->loss_scale : 1.0f, factor = float(double(scale) * inv_temperature);
  const float inv = float(inv_temperature), dl = dlogprob[t], de = dentropy ? dentropy[t] : 0.0f;
  const float row_lse = lse[t], row_entropy = entropy[t];
  const int hit = targets[t] - v;
  float x[N];
  load_floats(x, logits + t * vocab + v);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    // factor (dl 1[v = target] - p (dl + de (log p + entropy)))
    const float log_p = x[i] * inv - row_lse, p = expf(log_p);
    const float slope = fmaf(de, log_p + row_entropy, dl);
    x[i] = factor * ((i == hit ? dl : 0.0f) - (p == 0.0f ? 0.0f : p * slope));
  }
  store_floats(dlogits + t * vocab + v, x);
}

void logprob_bwd(Exec& exec, Tensor& dlogits, const Tensor& logits, const Tensor& lse, const Tensor& entropy,
                 const Tensor& targets, const Tensor& dlogprob, const Tensor& dentropy, const Tensor& state,
                 double inv_temperature) {
  check_logits("logprob_bwd", logits);
  const int vocab = int(logits.size(-1));
  const int64_t rows = logits.rows();
  visit_float(dlogits.dtype(), [&]<class T>(std::type_identity<T>) {
    const auto launch = [&]<int N>(std::integral_constant<int, N>) {
      constexpr int64_t kRows = 65535;  // of a grid
      for (int64_t t = 0; t < rows; t += kRows)
        logprob_bwd_kernel<N>
            <<<dim3(blocks(vocab, kThreads * N), unsigned(std::min(kRows, rows - t))), kThreads, 0, stream(exec)>>>(
                elements<T>(dlogits) + t * vocab, logits.data<float>() + t * vocab, lse.data<float>() + t,
                entropy.data<float>() + t, targets.data<int32_t>() + t, dlogprob.data<float>() + t,
                dentropy.defined() ? dentropy.data<float>() + t : nullptr,
                state.defined() ? static_cast<const StepState*>(state.raw()) : nullptr, vocab, inv_temperature);
    };
    if (vocab % kVector == 0)
      launch(std::integral_constant<int, kVector>());
    else
      launch(std::integral_constant<int, 1>());
  });
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace

void register_vocab(Kernels& table) {
  table.embedding_fwd = embedding_fwd;
  table.embedding_bwd = embedding_bwd;
  table.logprob_fwd = logprob_fwd;
  table.logprob_bwd = logprob_bwd;
}

}  // namespace mantissa::cuda_kernels
