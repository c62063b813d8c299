// The log-sum-exp of a row of logits, one routine for training (logprob_fwd) and rollout (sample): equal logits give
// equal log-probabilities, bit for bit. z = logits * inv_temperature. Non-finite logits: the maximum is taken over the
// finite ones; -inf has probability 0, +inf makes lse infinite, NaN makes it NaN, a row without finite logit too.
#include <cmath>
#include <limits>

#include "core/cpu/rows-inl.h"

#if defined(MANTISSA_CORE_CPU_LOGITS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MANTISSA_CORE_CPU_LOGITS_INL_H_
#undef MANTISSA_CORE_CPU_LOGITS_INL_H_
#else
#define MANTISSA_CORE_CPU_LOGITS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

inline constexpr int64_t kVocabChunk = 1024;  // the vocabulary is summed in chunks of this size, in order

template <class C>
struct LogSum {
  C max;     // of z
  C sum;     // of exp(z - max)
  C moment;  // of exp(z - max) (z - max); only when asked for
  C lse;     // max + log(sum)
};

/// Largest z that is not NaN or +inf; -infinity when there is none.
template <class C>
C max_finite(int64_t n, const C* logits, C inv_temperature) {
  return max_of(
      n,
      [=](auto x) HWY_ATTR {
        using V = decltype(x);
        const V z = x * splat<V>(inv_temperature);
        return select(z <= splat<V>(std::numeric_limits<C>::max()), z, splat<V>(-std::numeric_limits<C>::infinity()));
      },
      logits);
}

/// chunk_sums, unless null, receives the sum of exp(z - max) of every chunk.
template <class C>
LogSum<C> log_sum_exp(const C* logits, int64_t vocab, C inv_temperature, bool with_moment, C* chunk_sums) {
  constexpr C kNan = std::numeric_limits<C>::quiet_NaN();
  LogSum<C> row{C(0), C(0), C(0), C(0)};
  row.max = max_finite(vocab, logits, inv_temperature);
  if (!std::isfinite(row.max)) return {row.max, kNan, kNan, kNan};
  const C max = row.max;
  C e[kVocabChunk];
  for (int64_t begin = 0; begin < vocab; begin += kVocabChunk) {
    const int64_t n = std::min(kVocabChunk, vocab - begin);
    transform(
        n,
        [=](auto x) HWY_ATTR {
          using V = decltype(x);
          return exp(x * splat<V>(inv_temperature) - splat<V>(max));
        },
        e, logits + begin);
    const C sum = sum_elements<C>(n, e);
    row.sum += sum;
    if (chunk_sums) chunk_sums[begin / kVocabChunk] = sum;
    if (!with_moment) continue;
    row.moment += sum_of(
        n,
        [=](auto acc, auto weight, auto x) HWY_ATTR {
          using V = decltype(x);
          // Weight 0 adds nothing, even at z = -inf.
          return select(weight == splat<V>(0), acc, fma(weight, x * splat<V>(inv_temperature) - splat<V>(max), acc));
        },
        static_cast<const C*>(e), logits + begin);
  }
  row.lse = row.max + log(row.sum);
  return row;
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#endif  // per target
