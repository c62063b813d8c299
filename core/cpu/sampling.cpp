// Sampling of one token a row with its log-probability. Candidates are the finite logits; when filters are on, top-k
// keeps the k largest, then top-p keeps, of those in descending order, the shortest prefix whose probability within the
// top-k set reaches top_p. Equal logits are ordered by index, the lower first. The draw is the inverse CDF over the
// kept set in vocabulary order. Legend: B rows, V vocabulary.
#define HWY_TARGET_INCLUDE "core/cpu/sampling.cpp"
#include "core/cpu/simd-inl.h"

#include <cmath>
#include <functional>

#include "core/cpu/kernels.h"
#include "core/cpu/logits-inl.h"
#include "core/random.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

inline constexpr int64_t kBlock = 64;  // of the vocabulary: one maximum of top_k_floor

struct Row {
  const float* logits;
  int64_t vocab;
  float inv_temperature;
  float max;  // of the finite z; at least one is finite

  float z(int64_t v) const { return logits[v] * inv_temperature; }
  /// exp(z - max); 0 for a logit that is not finite.
  float weight(int64_t v) const {
    const float x = z(v);
    return std::isfinite(x) ? exp(x - max) : 0.0f;
  }
};

/// The lowest index that holds the maximum.
inline int32_t arg_max(const Row& row) {
  int64_t v = 0;
  const Vec inv = set(row.inv_temperature), max = set(row.max);
  while (v + kLanes <= row.vocab && !any(load(row.logits + v) * inv == max)) v += kLanes;
  while (v + 1 < row.vocab && row.z(v) != row.max) ++v;
  return int32_t(v);
}

/// The first v of `count` candidates (at(0), at(1), ...) whose cumulative weight exceeds `threshold`; rounding may
/// leave none, then the last with any weight.
template <class At>
int32_t walk(const Row& row, int64_t count, double threshold, At at) {
  double cumulative = 0.0;
  int32_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float w = row.weight(at(i));
    if (w == 0.0f) continue;
    last = int32_t(at(i));
    cumulative += w;
    if (cumulative > threshold) break;
  }
  return last;
}

/// Draw over the whole vocabulary: find the chunk by the chunk sums, then walk inside it.
inline int32_t draw(const Row& row, float* chunk_sums, double uniform) {
  const int64_t chunks = blocks_of(row.vocab, kVocabChunk);
  const auto chunk_size = [&](int64_t chunk) { return std::min(kVocabChunk, row.vocab - chunk * kVocabChunk); };
  double total = 0.0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (!std::isfinite(chunk_sums[chunk])) {  // holds NaN or +inf: sum the finite ones
      chunk_sums[chunk] = 0.0f;
      for (int64_t i = 0; i < chunk_size(chunk); ++i) chunk_sums[chunk] += row.weight(chunk * kVocabChunk + i);
    }
    total += chunk_sums[chunk];
  }
  double threshold = uniform * total;
  int64_t chosen = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    if (chunk_sums[chunk] == 0.0f) continue;
    chosen = chunk;
    if (threshold < chunk_sums[chunk]) break;
    threshold -= chunk_sums[chunk];
  }
  return walk(row, chunk_size(chosen), threshold, [&](int64_t i) { return chosen * kVocabChunk + i; });
}

/// A lower bound of the k-th largest z: the k-th largest of the maxima of blocks of kBlock; -infinity when k exceeds
/// their number. `maxima` has room for one number a block.
inline float top_k_floor(const Row& row, int64_t k, float* maxima) {
  const int64_t blocks = blocks_of(row.vocab, kBlock);
  if (k > blocks) return -std::numeric_limits<float>::infinity();
  for (int64_t block = 0; block < blocks; ++block)
    maxima[block] =
        max_finite(std::min(kBlock, row.vocab - block * kBlock), row.logits + block * kBlock, row.inv_temperature);
  std::nth_element(maxima, maxima + k - 1, maxima + blocks, std::greater<float>());
  return maxima[k - 1];
}

/// Writes the indices with finite z >= floor in ascending order and returns their number.
inline int64_t candidates(const Row& row, float floor, int32_t* order) {
  const Vec inv = set(row.inv_temperature), least = set(floor);
  int64_t count = 0;
  for (int64_t begin = 0; begin < row.vocab; begin += kLanes) {
    const int64_t end = std::min<int64_t>(row.vocab, begin + kLanes);
    if (end == begin + kLanes && !any(load(row.logits + begin) * inv >= least)) continue;
    for (int64_t v = begin; v < end; ++v)
      if (std::isfinite(row.z(v)) && row.z(v) >= floor) order[count++] = int32_t(v);
  }
  return count;
}

/// Draw after top-k and top-p. `total` is the weight of the whole row, not finite when a logit is NaN or +inf; `order`
/// has room for V indices. Nearly all of the vocabulary is usually ruled out by a floor, and only as much of the rest
/// is sorted as top-p needs.
inline int32_t draw_filtered(const Row& row, double total, int32_t* order, float* maxima, SamplingRule rule,
                             double uniform) {
  const bool top_k = rule.top_k > 0 && rule.top_k < row.vocab;
  float floor = -std::numeric_limits<float>::infinity();
  if (top_k) floor = top_k_floor(row, rule.top_k, maxima);
  // Weights below (1 - top_p) total / V sum to less than 1 - top_p of the total, so top-p drops them; half, for
  // rounding.
  else if (std::isfinite(total))
    floor = row.max + log(float(0.5 * (1.0 - double(rule.top_p)) * total / double(row.vocab)));
  int64_t kept = candidates(row, floor, order);
  const auto before = [&](int32_t a, int32_t b) { return row.z(a) > row.z(b) || (row.z(a) == row.z(b) && a < b); };
  if (top_k && rule.top_k < kept) {
    std::nth_element(order, order + rule.top_k, order + kept, before);
    kept = rule.top_k;
    std::sort(order, order + kept);
  }
  const auto weight_of_kept = [&] {
    double sum = 0.0;
    for (int64_t i = 0; i < kept; ++i) sum += row.weight(order[i]);
    return sum;
  };
  if (rule.top_p < 1.0f) {
    const double enough = double(rule.top_p) * (top_k || !std::isfinite(total) ? weight_of_kept() : total);
    double cumulative = 0.0;
    int64_t prefix = 0, sorted = 0;
    do {
      if (prefix == sorted) {
        const int64_t more = std::min(kept, sorted == 0 ? int64_t(64) : sorted * 4);
        if (more < kept) std::nth_element(order + sorted, order + more, order + kept, before);
        std::sort(order + sorted, order + more, before);
        sorted = more;
      }
      cumulative += row.weight(order[prefix++]);
    } while (cumulative < enough && prefix < kept);
    kept = prefix;
    std::sort(order, order + kept);
  }
  return walk(row, kept, uniform * weight_of_kept(), [&](int64_t i) { return order[i]; });
}

void sample(Exec& exec, Tensor& tokens, Tensor& logprobs, const Tensor& logits, const Tensor& counters,
            const Tensor& key_words, SamplingRule rule) {
  const int64_t vocab = logits.size(-1), rows = logits.rows();
  const bool greedy = rule.temperature == 0.0;
  const bool filtered = !greedy && ((rule.top_k > 0 && rule.top_k < vocab) || rule.top_p < 1.0f);
  const float inv_temperature = greedy ? 1.0f : float(1.0 / rule.temperature);
  const PhiloxKey key{uint32_t(key_words.data<int32_t>()[0]), uint32_t(key_words.data<int32_t>()[1])};
  const ThreadBuffers<float> sums(exec, blocks_of(vocab, kVocabChunk));
  const ThreadBuffers<int32_t> orders(exec, filtered ? vocab : 0);
  const ThreadBuffers<float> maxima(exec, filtered ? blocks_of(vocab, kBlock) : 0);
  const int32_t* counter = counters.data<int32_t>();
  int32_t* token = tokens.data<int32_t>();
  float* logprob = logprobs.data<float>();
  for_rows(rows, vocab, [&](int64_t b) HWY_ATTR {
    const float* x = logits.data<float>() + b * vocab;
    const LogSum<float> s = log_sum_exp(x, vocab, inv_temperature, false, sums.mine());
    const Row row{x, vocab, inv_temperature, s.max};
    const PhiloxBlock at{{uint32_t(counter[3 * b]), uint32_t(counter[3 * b + 1]), uint32_t(counter[3 * b + 2]), 0}};
    const double uniform = uniform_from(philox(at, key).v[0]);
    if (!std::isfinite(s.max))
      token[b] = 0;
    else if (greedy)
      token[b] = arg_max(row);
    else if (filtered)
      token[b] = draw_filtered(row, s.sum, orders.mine(), maxima.mine(), rule, uniform);
    else
      token[b] = draw(row, sums.mine(), uniform);
    logprob[b] = row.z(token[b]) - s.lse;
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {

HWY_EXPORT(sample);

void register_sampling(Kernels& table) {
  MANTISSA_ENTER(table.sample, sample);
}

}  // namespace mantissa::cpu_kernels
#endif
