// Sampling of one token a row with its log-probability; core/cpu/sampling.cpp is the specification. A block has a row.
// Without filters one pass over the logits gives log-sum-exp and the sums of chunks; the draw then looks into one
// chunk. With filters the cuts of top-k and top-p are found by radix selection, eight bits of the order of floats at a
// time, weights in fixed point: sums of integers do not depend on the order of the atomics. Legend: B rows, V
// vocabulary.
#include "cuda/logits.cuh"

namespace mantissa::cuda_kernels {
namespace {

using namespace cuda;

struct Row {
  const float* logits;
  int vocab;
  float inv_temperature;

  __device__ float z(int v) const { return logits[v] * inv_temperature; }
};

/// What a row needs besides its logits.
struct Draw {
  int32_t* tokens;
  float* logprobs;
  const int32_t* counters;
  const uint32_t* key;
};

__device__ double uniform_of_row(const Draw& draw, int b) {
  const int32_t* counter = draw.counters + 3 * b;
  const PhiloxBlock at{{uint32_t(counter[0]), uint32_t(counter[1]), uint32_t(counter[2]), 0}};
  return uniform_from(philox(at, {draw.key[0], draw.key[1]}).v[0]);
}

/// Sum over this lane and the ones below.
template <class T>
__device__ T sum_up_to_lane(T x) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T below = __shfl_up_sync(0xffffffffu, x, offset);
    if (lane >= offset) x += below;
  }
  return x;
}

struct Choice {
  int chunk;
  double rest;  // of the threshold, inside the chunk
};

/// The chunk in which the cumulative weight passes uniform * total; chunks[c].sum is the weight of chunk c, not all
/// zero. One warp: each lane adds up neighbouring chunks.
__device__ Choice choose_chunk(const Chunk* chunks, int count, double uniform) {
  const int lane = threadIdx.x % kWarp, each = (count + kWarp - 1) / kWarp;
  const int begin = min(count, lane * each), end = min(count, begin + each);
  double own = 0;
  for (int c = begin; c < end; ++c) own += chunks[c].sum;
  const double up_to = sum_up_to_lane(own), threshold = uniform * __shfl_sync(0xffffffffu, up_to, kWarp - 1);
  const unsigned some = __ballot_sync(0xffffffffu, own > 0);
  const unsigned past = __ballot_sync(0xffffffffu, own > 0 && up_to > threshold);
  const int owner = past ? __ffs(past) - 1 : 31 - __clz(some);  // rounding may leave none: then the last with weight
  Choice choice{0, 0};
  if (lane == owner) {
    double rest = fmax(0.0, threshold - (up_to - own)), before = 0;
    for (int c = begin; c < end; ++c) {
      const double weight = chunks[c].sum;
      if (weight == 0) continue;
      rest -= before;
      choice = {c, rest};
      if (rest < weight) break;
      before = weight;
    }
  }
  choice.chunk = __shfl_sync(0xffffffffu, choice.chunk, owner);
  choice.rest = __shfl_sync(0xffffffffu, choice.rest, owner);
  return choice;
}

/// Within a chunk: the first element whose cumulative weight exceeds the threshold >= 0; rounding may leave none, then
/// the last with any weight. One warp; w[j][i] of a lane belongs to element 128 j + 4 lane + i.
__device__ int walk_chunk(const float (&w)[8][4], double threshold) {
  double before = 0;
  int last = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const double own = double(w[j][0]) + double(w[j][1]) + double(w[j][2]) + double(w[j][3]);
    const double up_to = before + sum_up_to_lane(own);
    double sum = up_to - own;
    int mine = 0;
    bool passed = false;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (passed || w[j][i] == 0) continue;
      mine = i;
      sum += w[j][i];
      passed = sum > threshold;
    }
    const unsigned past = __ballot_sync(0xffffffffu, own > 0 && up_to > threshold);
    const unsigned some = __ballot_sync(0xffffffffu, own > 0);
    if (some) {
      const int owner = past ? __ffs(past) - 1 : 31 - __clz(some);
      last = 128 * j + 4 * owner + __shfl_sync(0xffffffffu, mine, owner);
    }
    if (past) break;
    before = __shfl_sync(0xffffffffu, up_to, kWarp - 1);
  }
  return last;
}

/// exp(z - base) of this lane's logits of a chunk, 0 where not finite.
template <bool kVectors>
__device__ void chunk_weights(float (&w)[8][4], const Row& row, int chunk, float base) {
  const ChunkLogits<kVectors> logits(row.logits, chunk, row.vocab);
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float z = logits.x[j][i] * row.inv_temperature;
      w[j][i] = is_finite(z) ? expf(z - base) : 0.0f;
    }
}

__device__ float sum_of(const float (&w)[8][4]) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += w[j][i];
  return warp_sum(sum);
}

/// The lowest index that holds the maximum. One warp.
template <bool kVectors>
__device__ int arg_max(const Row& row, const Chunk* chunks, int count, float max) {
  const auto lower = [](int a, int b) { return min(a, b); };
  int chunk = count;
  for (int c = threadIdx.x % kWarp; c < count; c += kWarp)
    if (chunks[c].max == max) chunk = min(chunk, c);
  chunk = warp_reduce(chunk, lower);
  const ChunkLogits<kVectors> logits(row.logits, chunk, row.vocab);
  int at = row.vocab;
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int v = chunk * kVocabChunk + 128 * j + 4 * int(threadIdx.x % kWarp) + i;
      if (logits.x[j][i] * row.inv_temperature == max) at = min(at, v);
    }
  return warp_reduce(at, lower);
}

/// A token from the whole vocabulary. One warp; overwrites the chunks' sums.
template <bool kVectors>
__device__ int draw_token(const Row& row, Chunk* chunks, int count, float max, double uniform) {
  const int lane = threadIdx.x % kWarp;
  bool odd = false;  // a chunk with NaN or +inf: only its finite logits are candidates
  for (int c = lane; c < count; c += kWarp) {
    odd |= !is_finite(chunks[c].sum);
    if (is_finite(chunks[c].sum))
      chunks[c].sum = chunks[c].max == -INFINITY ? 0.0f : chunks[c].sum * expf(chunks[c].max - max);
  }
  __syncwarp();
  if (__any_sync(0xffffffffu, odd))
    for (int c = 0; c < count; ++c) {
      if (is_finite(chunks[c].sum)) continue;
      float w[8][4];
      chunk_weights<kVectors>(w, row, c, max);
      const float sum = sum_of(w);
      __syncwarp();
      if (lane == 0) chunks[c].sum = sum;
      __syncwarp();
    }
  const Choice choice = choose_chunk(chunks, count, uniform);
  // Inside the chunk weights are taken against its own maximum, so that they do not underflow.
  const float base = chunks[choice.chunk].max;
  float w[8][4];
  chunk_weights<kVectors>(w, row, choice.chunk, base);
  return choice.chunk * kVocabChunk + walk_chunk(w, choice.rest / double(expf(base - max)));
}

__device__ void store_token(const Draw& draw, const Row& row, int token, float lse) {
  draw.tokens[blockIdx.x] = token;
  draw.logprobs[blockIdx.x] = row.z(token) - lse;
}

template <bool kVectors>
__global__ void __launch_bounds__(kRowThreads)
    sample_kernel(Draw draw, const float* logits, int vocab, float inv_temperature, bool greedy) {
  extern __shared__ Chunk chunks[];
  const Row row{logits + int64_t(blockIdx.x) * vocab, vocab, inv_temperature};
  const int count = vocab_chunks(vocab);
  const RowSum s = sum_row<kVectors, false>(chunks, row.logits, vocab, inv_temperature);
  __syncthreads();  // the other warps have read the chunks
  if (threadIdx.x >= kWarp) return;
  int token = 0;
  if (s.max != -INFINITY)
    token = greedy ? arg_max<kVectors>(row, chunks, count, s.max)
                   : draw_token<kVectors>(row, chunks, count, s.max, uniform_of_row(draw, blockIdx.x));
  if (threadIdx.x == 0) store_token(draw, row, token, s.lse);
}

// ---- filters --------------------------------------------------------------------------------------------------------

using Fixed = unsigned long long;
constexpr float kFixedOne = 1099511627776.0f;  // 2^40: the sum over 2^21 weights fits

__device__ Fixed fixed_weight(float z, float max) {
  return Fixed(expf(z - max) * kFixedOne);
}

/// Unsigned integers in the order of the finite floats; both zeros are one.
__device__ uint32_t order_of(float z) {
  const uint32_t bits = __float_as_uint(z + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float from_order(uint32_t order) {
  return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

/// Calls f(z) for the finite z >= floor of the row, by the whole block.
template <bool kVectors, class F>
__device__ void for_candidates(const Row& row, float floor, F f) {
  for (int c = threadIdx.x / kWarp; c < vocab_chunks(row.vocab); c += kRowWarps) {
    const ChunkLogits<kVectors> logits(row.logits, c, row.vocab);
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float z = logits.x[j][i] * row.inv_temperature;
        if (is_finite(z) && z >= floor) f(z);
      }
  }
}

/// Of candidates in descending order, what it takes to reach a target: all above z, and of those equal to z enough to
/// make up `rest`. z = -infinity: all of them do not reach it, or there was no target.
struct Cut {
  float z = -INFINITY;
  Fixed rest = 0;
};

/// measure(z) > 0 or zero is what a candidate counts; target > 0.
template <bool kVectors, class Measure>
__device__ Cut find_cut(const Row& row, float floor, Fixed target, Measure measure) {
  __shared__ Fixed bins[256];
  __shared__ int chosen;
  __shared__ Fixed rest;
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < 256) bins[threadIdx.x] = 0;
    __syncthreads();
    for_candidates<kVectors>(row, floor, [&](float z) {
      const uint32_t order = order_of(z);
      if (shift < 24 && (order >> (shift + 8)) != (prefix >> (shift + 8))) return;
      atomicAdd(&bins[order >> shift & 255u], measure(z));
    });
    __syncthreads();
    if (threadIdx.x < kWarp) {  // lane 0 has the eight highest bins
      const int top = 255 - 8 * int(threadIdx.x);
      Fixed own = 0;
      for (int i = 0; i < 8; ++i) own += bins[top - i];
      Fixed above = sum_up_to_lane(own) - own;
      const unsigned reached = __ballot_sync(0xffffffffu, above + own >= target);
      if (threadIdx.x == 0 && !reached) chosen = -1;
      if (reached && int(threadIdx.x) == __ffs(reached) - 1) {
        int bin = top;
        while (above + bins[bin] < target) above += bins[bin--];
        chosen = bin;
        rest = target - above;
      }
    }
    __syncthreads();
    if (chosen < 0) return {};
    prefix |= uint32_t(chosen) << shift;
    target = rest;
  }
  return {from_order(prefix), target};
}

/// A lower bound of the k-th largest z: the k-th largest of the maxima of chunks; -infinity when k exceeds their
/// number.
__device__ float top_k_floor(const Chunk* chunks, int count, int k) {
  __shared__ float floor;
  if (k > count) return -INFINITY;
  for (int c = threadIdx.x; c < count; c += kRowThreads) {
    int rank = 0;
    for (int other = 0; other < count; ++other)
      rank += chunks[other].max > chunks[c].max || (chunks[other].max == chunks[c].max && other < c);
    if (rank == k - 1) floor = chunks[c].max;
  }
  __syncthreads();
  return floor;
}

/// Draws among the candidates above cut.z and the first `ties` equal to it. One warp; chunks[c].sum holds the weight of
/// the former, .moment the number of the latter.
template <bool kVectors>
__device__ int draw_kept(const Row& row, Chunk* chunks, int count, float max, float cut, int ties, double uniform) {
  const int lane = threadIdx.x % kWarp, each = (count + kWarp - 1) / kWarp;
  const int begin = min(count, lane * each), end = min(count, begin + each);
  const float tie_weight = cut == -INFINITY ? 0.0f : expf(cut - max);
  int own = 0;
  for (int c = begin; c < end; ++c) own += int(chunks[c].moment);
  int before = sum_up_to_lane(own) - own;
  for (int c = begin; c < end; ++c) {
    const int here = int(chunks[c].moment);
    chunks[c].sum += float(min(ties > before ? ties - before : 0, here)) * tie_weight;
    chunks[c].moment = float(before);  // now the number of ties in the chunks before
    before += here;
  }
  __syncwarp();
  const Choice choice = choose_chunk(chunks, count, uniform);
  const ChunkLogits<kVectors> logits(row.logits, choice.chunk, row.vocab);
  int rank = int(chunks[choice.chunk].moment);
  float w[8][4];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    int equal = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) equal += logits.x[j][i] * row.inv_temperature == cut;
    const int up_to = sum_up_to_lane(equal);
    int mine = rank + up_to - equal;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float z = logits.x[j][i] * row.inv_temperature;
      const bool kept = is_finite(z) && (z > cut || (z == cut && mine < ties));
      mine += z == cut;
      w[j][i] = kept ? expf(z - max) : 0.0f;
    }
    rank += __shfl_sync(0xffffffffu, up_to, kWarp - 1);
  }
  return choice.chunk * kVocabChunk + walk_chunk(w, choice.rest);
}

template <bool kVectors>
__global__ void __launch_bounds__(kRowThreads)
    sample_filtered_kernel(Draw draw, const float* logits, int vocab, float inv_temperature, int top_k, float top_p) {
  extern __shared__ Chunk chunks[];
  const Row row{logits + int64_t(blockIdx.x) * vocab, vocab, inv_temperature};
  const int count = vocab_chunks(vocab), warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const RowSum s = sum_row<kVectors, false>(chunks, row.logits, vocab, inv_temperature);
  if (s.max == -INFINITY) {
    if (threadIdx.x == 0) store_token(draw, row, 0, s.lse);
    return;
  }
  const float max = s.max;
  const auto weight = [max](float z) { return fixed_weight(z, max); };

  // Top-k: everything above cut, and the first `ties` equal to it.
  float floor = -INFINITY;
  Cut cut;
  int ties = 0;
  if (top_k > 0) {
    floor = top_k_floor(chunks, count, top_k);
    cut = find_cut<kVectors>(row, floor, Fixed(top_k), [](float) { return Fixed(1); });
    ties = int(cut.rest);
  } else if (is_finite(s.sum)) {
    // Weights below (1 - top_p) total / V sum to less than 1 - top_p of the total, so top-p drops them; half, for
    // rounding.
    floor = max + logf(float(0.5 * (1.0 - double(top_p)) * double(s.sum) / double(vocab)));
  }
  if (top_p < 1.0f) {
    const float low = fmaxf(floor, cut.z);
    double total = double(s.sum) * kFixedOne;
    if (top_k > 0 || !is_finite(s.sum)) {
      Fixed kept = 0;
      for_candidates<kVectors>(row, low, [&](float z) { kept += z > cut.z ? weight(z) : 0; });
      kept = block_sum<kRowThreads>(kept);
      if (cut.z != -INFINITY) kept += Fixed(ties) * weight(cut.z);
      total = double(kept);
    }
    const Fixed enough = Fixed(ceil(fmax(1.0, double(top_p) * total)));
    const Cut nucleus = find_cut<kVectors>(row, low, enough, weight);
    if (nucleus.z != -INFINITY) {
      const Fixed each = weight(nucleus.z), needed = (nucleus.rest + each - 1) / each;
      const Fixed limit = nucleus.z == cut.z ? Fixed(ties) : Fixed(vocab);
      ties = int(needed < limit ? needed : limit);
      cut = nucleus;
    }
  }

  __syncthreads();
  for (int c = warp; c < count; c += kRowWarps) {
    const ChunkLogits<kVectors> values(row.logits, c, vocab);
    float sum = 0, equal = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float z = values.x[j][i] * inv_temperature;
        if (is_finite(z) && z > cut.z) sum += expf(z - max);
        equal += z == cut.z && is_finite(z) ? 1.0f : 0.0f;
      }
    sum = warp_sum(sum);
    equal = warp_sum(equal);
    if (lane == 0) chunks[c] = {0, sum, equal};
  }
  __syncthreads();
  if (warp > 0) return;
  const int token = draw_kept<kVectors>(row, chunks, count, max, cut.z, ties, uniform_of_row(draw, blockIdx.x));
  if (threadIdx.x == 0) store_token(draw, row, token, s.lse);
}

void sample(Exec& exec, Tensor& tokens, Tensor& logprobs, const Tensor& logits, const Tensor& counters,
            const Tensor& key, SamplingRule rule) {
  check_logits("sample", logits);
  if (logits.numel() == 0) return;
  const int vocab = int(logits.size(-1)), top_k = rule.top_k < vocab ? rule.top_k : 0;
  const bool greedy = rule.temperature == 0.0, filtered = !greedy && (top_k > 0 || rule.top_p < 1.0f);
  const float inv_temperature = greedy ? 1.0f : float(1.0 / rule.temperature);
  const Draw draw{tokens.data<int32_t>(), logprobs.data<float>(), counters.data<int32_t>(),
                  reinterpret_cast<const uint32_t*>(key.data<int32_t>())};
  const unsigned rows = unsigned(logits.rows());
  const size_t shared = vocab_chunks(vocab) * sizeof(Chunk);
  const auto launch = [&](auto vectors) {
    constexpr bool kVectors = decltype(vectors)::value;
    if (filtered)
      sample_filtered_kernel<kVectors><<<rows, kRowThreads, shared, stream(exec)>>>(draw, logits.data<float>(), vocab,
                                                                                    inv_temperature, top_k, rule.top_p);
    else
      sample_kernel<kVectors>
          <<<rows, kRowThreads, shared, stream(exec)>>>(draw, logits.data<float>(), vocab, inv_temperature, greedy);
  };
  if (vocab % 4 == 0)
    launch(std::true_type());
  else
    launch(std::false_type());
  MANTISSA_LAUNCH_CHECK();
}

}  // namespace

void register_sampling(Kernels& table) {
  table.sample = sample;
}

}  // namespace mantissa::cuda_kernels
