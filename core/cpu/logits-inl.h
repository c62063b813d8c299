// The log-sum-exp of a row of logits, one routine for training (logprob_fwd) and rollout (sample): equal logits give
// equal log-probabilities, bit for bit. z = logits * inv_temperature. Non-finite logits: the maximum is taken over
// the finite ones; -inf has probability 0, +inf makes lse infinite, NaN makes it NaN, a row without finite logit too.
#pragma once

#include <cmath>
#include <limits>

#include "core/cpu/rows.h"

namespace mantissa::cpu_kernels {

inline constexpr int64_t kVocabChunk = 1024;  // the vocabulary is summed in chunks of this size, in order

template <class C>
struct LogSum {
  C max;      // of z
  C sum;      // of exp(z - max)
  C moment;   // of exp(z - max) (z - max)
  C lse;      // max + log(sum)
};

template <class C>
C row_max(const C* logits, int64_t vocab, C inv_temperature) {
  C best = -std::numeric_limits<C>::infinity();
  for (int64_t v = 0; v < vocab; ++v) {
    const C z = logits[v] * inv_temperature;
    best = z > best && z <= std::numeric_limits<C>::max() ? z : best;
  }
  return best;
}

/// chunk_sums, unless null, receives the sum of exp(z - max) of every chunk.
template <class C>
LogSum<C> log_sum_exp(const C* logits, int64_t vocab, C inv_temperature, C* chunk_sums) {
  LogSum<C> row{row_max(logits, vocab, inv_temperature), C(0), C(0), C(0)};
  if (!std::isfinite(row.max)) {
    row.sum = row.moment = row.lse = std::numeric_limits<C>::quiet_NaN();
    return row;
  }
  C e[kVocabChunk], weighted[kVocabChunk];
  for (int64_t begin = 0; begin < vocab; begin += kVocabChunk) {
    const int64_t n = std::min(kVocabChunk, vocab - begin);
    for (int64_t i = 0; i < n; ++i) {
      const C d = logits[begin + i] * inv_temperature - row.max;
      e[i] = std::exp(d);
      weighted[i] = e[i] == C(0) ? C(0) : e[i] * d;  // 0 * -inf has no place in a sum
    }
    const C sum = lane_sum<C>(n, [&](int64_t i) { return e[i]; });
    row.sum += sum;
    row.moment += lane_sum<C>(n, [&](int64_t i) { return weighted[i]; });
    if (chunk_sums) chunk_sums[begin / kVocabChunk] = sum;
  }
  row.lse = row.max + std::log(row.sum);
  return row;
}

}  // namespace mantissa::cpu_kernels
