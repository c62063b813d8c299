// Embedding, and log-probability and entropy of targets from logits. Legend: T tokens, C width, V vocabulary.
#define HWY_TARGET_INCLUDE "core/cpu/vocab.cpp"
#include "core/cpu/simd-inl.h"

#include <cmath>
#include <cstring>

#include "core/cpu/kernels.h"
#include "core/cpu/logits-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mantissa::cpu_kernels {
namespace HWY_NAMESPACE {

void embedding_fwd(Exec& exec, Tensor& out, const Tensor& table, const Tensor& ids) {
  const int64_t width = table.size(-1);
  const int32_t* id = ids.data<int32_t>();
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, width);
        for_rows(ids.numel(), width, [&](int64_t t) HWY_ATTR {
          if (out.dtype() == table.dtype()) {
            const size_t bytes = size_t(width) * size_of(out.dtype());
            std::memcpy(static_cast<std::byte*>(out.raw()) + size_t(t) * bytes,
                        static_cast<const std::byte*>(table.raw()) + size_t(id[t]) * bytes, bytes);
            return;
          }
          const C* row = widen(table, id[t] * width, width, buffers.mine());
          C* y = target(out, t * width, buffers.mine());
          if (y != row) std::copy(row, row + width, y);
          narrow(out, t * width, width, y);
        });
      },
      out, table);
}

// A vocabulary row belongs to one thread, which adds its tokens in ascending order.
void embedding_bwd(Exec& exec, Tensor& dtable, const Tensor& dout, const Tensor& ids) {
  const int64_t width = dtable.size(-1);
  const int32_t* id = ids.data<int32_t>();
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const ThreadBuffers<C> buffers(exec, width);
        C* table = dtable.data<C>();
#pragma omp parallel
        for (int64_t t = 0; t < ids.numel(); ++t) {
          if (id[t] % omp_get_num_threads() != omp_get_thread_num()) continue;
          const C* dy = widen(dout, t * width, width, buffers.mine());
          C* row = table + id[t] * width;
          transform(width, [](auto total, auto d) HWY_ATTR { return total + d; }, row, static_cast<const C*>(row), dy);
        }
      },
      dtable);
}

void logprob_fwd(Exec&, Tensor& logprob, Tensor& entropy, Tensor& lse, const Tensor& logits, const Tensor& targets,
                 double inv_temperature) {
  const int64_t vocab = logits.size(-1), rows = logits.rows();
  const int32_t* target_id = targets.data<int32_t>();
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const C* x = logits.data<C>();
        C *logprobs = logprob.data<C>(), *entropies = entropy.data<C>(), *lses = lse.data<C>();
        for_rows(rows, vocab, [&](int64_t t) HWY_ATTR {
          const C* row = x + t * vocab;
          const LogSum<C> s = log_sum_exp<C>(row, vocab, C(inv_temperature), true, nullptr);
          lses[t] = s.lse;
          logprobs[t] = row[target_id[t]] * C(inv_temperature) - s.lse;
          entropies[t] = log(s.sum) - s.moment / s.sum;
        });
      },
      logits);
}

void logprob_bwd(Exec&, Tensor& dlogits, const Tensor& logits, const Tensor& lse, const Tensor& entropy,
                 const Tensor& targets, const Tensor& dlogprob, const Tensor& dentropy, const Tensor& state,
                 double inv_temperature) {
  const int64_t vocab = logits.size(-1), rows = logits.rows();
  const int32_t* target_id = targets.data<int32_t>();
  const double scale = state.defined() ? static_cast<const StepState*>(state.raw())->loss_scale : 1.0;
  with_compute(
      [&](auto tag) HWY_ATTR {
        using C = typename decltype(tag)::type;
        const C inv = C(inv_temperature), factor = C(scale * inv_temperature);
        const C* x = logits.data<C>();
        const C *lses = lse.data<C>(), *entropies = entropy.data<C>();
        const C* dl = dlogprob.data<C>();
        const C* de = dentropy.defined() ? dentropy.data<C>() : nullptr;
        for_rows(rows, vocab, [&](int64_t t) HWY_ATTR {
          // dlogits = factor (dl 1[v = target] - p (dl + de (log p + entropy)))
          const C row_dl = dl[t], row_de = de ? de[t] : C(0), row_lse = lses[t], row_entropy = entropies[t];
          const auto gradient = [=](auto logit, auto hit) HWY_ATTR {
            using V = decltype(logit);
            const V log_p = logit * splat<V>(inv) - splat<V>(row_lse), p = exp(log_p), zero = splat<V>(0);
            const V slope = fma(splat<V>(row_de), log_p + splat<V>(row_entropy), splat<V>(row_dl));
            return splat<V>(factor) * (hit - select(p == zero, zero, p * slope));
          };
          for (int64_t begin = 0; begin < vocab; begin += kVocabChunk) {
            C tile[kVocabChunk];
            const int64_t at = t * vocab + begin, n = std::min(kVocabChunk, vocab - begin), hit = target_id[t] - begin;
            C* d = target(dlogits, at, tile);
            // The target's element last: dlogits may lie over the logits.
            const C hit_logit = 0 <= hit && hit < n ? x[at + hit] : C(0);
            transform(n, [&](auto logit) HWY_ATTR { return gradient(logit, splat<decltype(logit)>(0)); }, d, x + at);
            if (0 <= hit && hit < n)
              transform(
                  1, [&](auto logit) HWY_ATTR { return gradient(logit, splat<decltype(logit)>(row_dl)); }, d + hit,
                  &hit_logit);
            narrow(dlogits, at, n, d);
          }
        });
      },
      logits);
}

}  // namespace HWY_NAMESPACE
}  // namespace mantissa::cpu_kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mantissa::cpu_kernels {

HWY_EXPORT(embedding_fwd);
HWY_EXPORT(embedding_bwd);
HWY_EXPORT(logprob_fwd);
HWY_EXPORT(logprob_bwd);

void register_vocab(Kernels& table) {
  MANTISSA_ENTER(table.embedding_fwd, embedding_fwd);
  MANTISSA_ENTER(table.embedding_bwd, embedding_bwd);
  MANTISSA_ENTER(table.logprob_fwd, logprob_fwd);
  MANTISSA_ENTER(table.logprob_bwd, logprob_bwd);
}

}  // namespace mantissa::cpu_kernels
#endif
