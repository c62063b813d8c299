// The log-sum-exp of a row of logits, one routine for training (logprob_fwd) and rollout (sample): equal logits give
// equal log-probabilities, bit for bit. One pass: the vocabulary is cut into chunks of 1024, a warp takes a chunk at a
// time and leaves its maximum and its sum of exp(z - maximum); the block folds the chunks afterwards in a fixed order.
//
// z = logits * inv_temperature. Non-finite logits: maxima are over the finite ones; -inf has probability 0, +inf makes
// lse infinite, NaN makes it NaN, a row without finite logit too. V vocabulary.
#pragma once

#include "cuda/common.cuh"

namespace mantissa::cuda_kernels {

constexpr int kVocabChunk = 1024;
constexpr int kRowThreads = 512;  // of the block that has a row
constexpr int kRowWarps = kRowThreads / cuda::kWarp;

inline __host__ __device__ int vocab_chunks(int vocab) {
  return (vocab + kVocabChunk - 1) / kVocabChunk;
}

/// Host side: the rule for logits that every kernel here has. Chunks of a row fit in 48 KB of shared memory.
inline void check_logits(const char* op, const Tensor& logits) {
  check(logits.dtype() != Dtype::kF64, "[", op, "] fp64 runs on the CPU only");
  check(logits.dtype() == Dtype::kF32, "[", op, "] logits must be fp32: got ", name_of(logits.dtype()));
  check(logits.size(-1) > 0 && logits.size(-1) <= (1 << 21), "[", op, "] a vocabulary of 1 to 2^21: got ",
        logits.size(-1));
}

__device__ __forceinline__ bool is_finite(float x) {
  return fabsf(x) <= 3.402823466e38f;
}

/// What is known of a chunk: maximum of its finite z (-inf: none), sum of exp(z - maximum) (of exp(z) when there is
/// none: zero, or what is not finite), and sum of exp(z - maximum) (z - maximum).
struct Chunk {
  float max, sum, moment;
};

/// The same of the row, and lse = max + log(sum).
struct RowSum {
  float max, sum, moment, lse;
};

/// This lane's 32 logits of a chunk: four from 128 j + 4 lane on. Beyond the vocabulary: -inf. Vectors need V % 4 == 0.
template <bool kVectors>
struct ChunkLogits {
  float x[8][4];

  __device__ __forceinline__ ChunkLogits(const float* row, int chunk, int vocab) {
    const int lane = threadIdx.x % cuda::kWarp;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int v = chunk * kVocabChunk + 128 * j + 4 * lane;
      if constexpr (kVectors) {
        const float4 four = v < vocab ? __ldcs(reinterpret_cast<const float4*>(row + v))
                                      : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
        x[j][0] = four.x;
        x[j][1] = four.y;
        x[j][2] = four.z;
        x[j][3] = four.w;
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[j][i] = v + i < vocab ? __ldcs(row + v + i) : -INFINITY;
      }
    }
  }
};

/// One warp; all lanes get the result.
template <bool kVectors, bool kMoment>
__device__ Chunk sum_chunk(const float* row, int chunk, int vocab, float inv_temperature) {
  ChunkLogits<kVectors> logits(row, chunk, vocab);
  float max = -INFINITY;
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float z = logits.x[j][i] *= inv_temperature;
      max = fmaxf(max, z <= 3.402823466e38f ? z : -INFINITY);
    }
  max = cuda::warp_reduce(max, cuda::Max());
  const float base = max == -INFINITY ? 0.0f : max;
  float sum = 0, moment = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float x = logits.x[j][i] - base, e = expf(x);
      sum += e;
      if (kMoment && e != 0.0f) moment = fmaf(e, x, moment);  // weight 0 adds nothing, even at z = -inf
    }
  return {max, cuda::warp_sum(sum), kMoment ? cuda::warp_sum(moment) : 0.0f};
}

/// Of a whole row by one block of kRowThreads threads; every thread gets the result. chunks[vocab_chunks(vocab)] in
/// shared memory is filled; it may be read after the call.
template <bool kVectors, bool kMoment>
__device__ RowSum sum_row(Chunk* chunks, const float* row, int vocab, float inv_temperature) {
  using namespace cuda;
  const int count = vocab_chunks(vocab), warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int c = warp; c < count; c += kRowWarps) {
    const Chunk chunk = sum_chunk<kVectors, kMoment>(row, c, vocab, inv_temperature);
    if (lane == 0) chunks[c] = chunk;
  }
  __syncthreads();
  // Every warp folds all chunks, so that nobody waits for anybody.
  float max = -INFINITY;
  for (int c = lane; c < count; c += kWarp) max = fmaxf(max, chunks[c].max);
  max = warp_reduce(max, Max());
  const float nan = __int_as_float(0x7fc00000);
  if (max == -INFINITY) return {max, nan, nan, nan};
  float sum = 0, moment = 0;
  for (int c = lane; c < count; c += kWarp) {
    const Chunk chunk = chunks[c];
    const float below = chunk.max - max, factor = chunk.max == -INFINITY ? 1.0f : expf(below);
    sum = is_finite(chunk.sum) ? fmaf(chunk.sum, factor, sum) : sum + chunk.sum;
    if (kMoment && factor != 0.0f && chunk.max != -INFINITY)
      moment = fmaf(factor, fmaf(chunk.sum, below, chunk.moment), moment);
  }
  sum = warp_sum(sum);
  if (kMoment) moment = warp_sum(moment);
  return {max, sum, moment, max + logf(sum)};
}

}  // namespace mantissa::cuda_kernels
