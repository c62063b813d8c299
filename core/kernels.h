// The contract between ops and backends: one function pointer per kernel, grouped by family. The CPU entries
// (core/cpu/<family>.cpp) are plain loops and the specification; a faster backend must agree with them.
//
// Rules for every kernel: outputs first, then inputs, then scalars. It never allocates (Scratch lends temporary
// memory), never picks a stream (Exec has it), never validates (the op did). It loads its type, computes in fp32 (fp64
// for fp64), rounds once at the store. Results do not depend on the number of threads, and a row alone gives the bits
// it gives inside a batch. Reductions over rows (weight gradients) use fixed blocks in a fixed order.
//
// Shapes: T tokens (rows), S sequences, C width, F feed-forward width, V vocabulary, H query heads, G key/value heads,
// D head size, B rows of a decode batch, P pages. qkv rows are [H*D query | G*D key | G*D value].
#pragma once

#include "core/backend.h"
#include "core/random.h"

namespace mantissa {

enum class Binary : uint8_t { kAdd, kSub, kMul, kMin, kMax, kLessEqual };  // kLessEqual: 1 if a <= b else 0
enum class Unary : uint8_t {
  kAffine,  // p0 * x + p1
  kExp,
  kClamp,       // min(max(x, p0), p1)
  kWithinMask,  // 1 if p0 <= x <= p1 else 0
};
enum class Trans : uint8_t { kNN, kNT, kTN };  // which operand is stored transposed: A.B, A.B^T, A^T.B

/// Columns [begin, end) of a matrix.
struct ColumnRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// What a low-rank update adds to a product c[M,N] = a[M,K] . b[N,K]^T, in P ascending parts of its columns.
struct LowRankTerm {
  Tensor u;     // [M, P R]
  Tensor down;  // [P R, K]: u is made, round(scale a . down^T); undefined: u is given
  Tensor up;    // [columns of all parts, R], part after part
  const std::vector<ColumnRange>& parts;
  double scale = 1.0;
};

struct Heads {
  int query = 0;  // H
  int kv = 0;     // G, divides H
  int size = 0;   // D, a multiple of 8
  int64_t row() const { return int64_t(query + 2 * kv) * size; }
};

/// Keys of the random numbers of a sampling step: Philox4x32-10 with key (seed, step) and counter (prompt, sample,
/// position, 0), so a draw depends on nothing else in the batch.
struct SampleKeys {
  uint64_t seed = 0;
  uint64_t step = 0;
};
/// The Philox key as the kernel reads it from device memory, so that a recorded step can be replayed under another key.
inline Tensor key_tensor(Backend& backend, SampleKeys keys) {
  const PhiloxKey key = philox_key(keys.seed, keys.step);
  Tensor t(backend, {2}, Dtype::kI32);
  backend.copy_from_host(t.raw(), &key, sizeof(key));
  return t;
}

struct SamplingRule {
  double temperature = 1.0;  // 0: greedy, log-probs then reported at temperature 1
  float top_p = 1.0f;        // 1: off
  int top_k = 0;             // 0: off
  auto operator<=>(const SamplingRule&) const = default;
};

/// Optimizer and scaler state that changes between steps; lives in device memory as one record so that a step never
/// waits for the host. All kernels of a step read and write it there.
struct StepState {
  // scaler
  float loss_scale = 1.0f;
  int32_t good_steps = 0;  // clean steps since the last change of the scale
  int32_t skips_in_row = 0;
  int32_t skips_total = 0;
  // decided by step_decide for the current step
  int32_t overflow = 0;      // 1: a gradient was not finite, the step is skipped
  float grad_norm = 0.0f;    // global 2-norm of the unscaled gradient
  float grad_factor = 1.0f;  // 1/loss_scale times the clip factor: what adamw multiplies gradients by
  // accumulated by grad_stats
  double sum_squares = 0.0;  // of the scaled gradient
  int32_t not_finite = 0;
  // optimizer
  int32_t adam_step = 0;  // completed steps
  float lr = 0.0f;        // of this step
  int32_t pad = 0;
};
/// A tensor on `backend` that holds one StepState (as int32 words).
inline Tensor state_tensor(Backend& backend, const StepState& state) {
  Tensor t(backend, {int64_t(sizeof(StepState) / sizeof(int32_t))}, Dtype::kI32);
  backend.copy_from_host(t.raw(), &state, sizeof(StepState));
  return t;
}

/// How two fp32 tensors of one shape differ.
struct Difference {
  int32_t count = 0;       // elements whose bits differ
  int32_t first = -1;      // the first of them
  int32_t not_finite = 0;  // elements of the first tensor that are no finite number
  float largest = 0.0f;    // |a - b| over those that differ; infinity where one of them is no number
};

struct ScalerRule {
  bool dynamic = false;
  float growth_factor = 2.0f;
  float backoff_factor = 0.5f;
  int growth_interval = 400;
  float min_scale = 1.0f;
  float max_scale = 16777216.0f;  // 2^24
};

struct AdamWRule {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.0f;
};

/// In place of an expert's number, where routes are bytes: not known. So they serve for at most as many experts.
inline constexpr int kNotGiven = 255;

struct Kernels {
  // ---- elementwise --------------------------------------------------------------------------------------------------
  void (*fill)(Exec&, Tensor& out, double value);  // out = round(value), in any type but uint8
  /// out = round(in); any pair of floating types.
  void (*cast)(Exec&, Tensor& out, const Tensor& in);
  /// out = a op b, same shapes; out, a and b may differ in type (fp32 residual + fp16 branch). out may alias a or b.
  void (*binary)(Exec&, Tensor& out, const Tensor& a, const Tensor& b, Binary op);
  void (*unary)(Exec&, Tensor& out, const Tensor& in, Unary op, double p0, double p1);  // p0, p1: see Unary
  /// out[T,C] = in[T,C] + bias[C] (out may alias in, in may be wider), and its gradient: dbias[C] fp32 (or fp64) +=
  /// column sums of dout.
  void (*add_bias)(Exec&, Tensor& out, const Tensor& in, const Tensor& bias);
  void (*bias_bwd)(Exec&, Tensor& dbias, const Tensor& dout);
  /// SwiGLU on the fused projection gate_up[T,2F] = [gate | up]: out[T,F] = silu(gate) * up; its gradient.
  void (*swiglu_fwd)(Exec&, Tensor& out, const Tensor& gate_up);
  void (*swiglu_bwd)(Exec&, Tensor& dgate_up, const Tensor& dout, const Tensor& gate_up);
  /// out[0] = sum of in, in the accumulator type.
  void (*sum)(Exec&, Tensor& out, const Tensor& in);
  /// Segments: offsets[S+1] (int32, ascending, offsets[S] = T). out[s] = sum of in[offsets[s] .. offsets[s+1]).
  void (*segment_sum)(Exec&, Tensor& out, const Tensor& in, const Tensor& offsets);
  /// out[t] = in[segment of t].
  void (*segment_expand)(Exec&, Tensor& out, const Tensor& in, const Tensor& offsets);
  /// out[i,:] = in[rows[i],:], and its gradient out[rows[i],:] += in[i,:] for distinct rows (out cleared by the op).
  void (*gather_rows)(Exec&, Tensor& out, const Tensor& in, const Tensor& rows);
  void (*scatter_rows)(Exec&, Tensor& out, const Tensor& in, const Tensor& rows);
  /// out[:, to : to+n] = in[:, from : from+n], rounded where the types differ; out's other columns stay. Used for one
  /// part of a fused projection.
  void (*copy_columns)(Exec&, Tensor& out, int64_t to, const Tensor& in, int64_t from, int64_t n);
  /// out[T,C] = in / (1 - p) where an element is kept, else 0. Element c of row t is kept when uniform_from of word c %
  /// 4 of Philox counter (rows[t][0], rows[t][1], place, c / 4) is at least p. rows[T,2] int32, key a key_tensor().
  void (*dropout)(Exec&, Tensor& out, const Tensor& in, const Tensor& rows, const Tensor& key, int place, double p);
  /// First non-finite element: index[0] (int32) = its flat position or -1.
  void (*find_nonfinite)(Exec&, Tensor& index, const Tensor& in);
  /// found: one Difference (as int32 words) of a and b, both fp32.
  void (*find_difference)(Exec&, Tensor& found, const Tensor& a, const Tensor& b);

  // ---- matmul -------------------------------------------------------------------------------------------------------
  /// c[M,N] = op(a)[M,K] . op(b)[K,N] (+ c when accumulate). a and b share a type; c is that type or fp32. Per element
  /// one FMA chain over ascending k in fp32 (fp64), starting at c when accumulate. Match::kPeer (not fp64): four chains
  /// over quarters of K (rounded up), added in order, then c.
  void (*matmul)(Exec&, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, bool accumulate);
  /// c[M,N] = a[M,K] . b[N,K]^T + bias[N], one rounding; bias has c's type. The CPU's chains start at the bias; kPeer
  /// adds it after the four.
  void (*matmul_bias)(Exec&, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias);
  /// matmul_bias (bias undefined: matmul), whose chains go on in the columns of a part: over its R columns of u, by its
  /// rows of `up`. c has a's type.
  void (*matmul_low_rank)(Exec&, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias, LowRankTerm& term);
  /// c[M,N] = scale op(a)[M,K] . op(b)[K,N], rounded once, kNN or kNT. c has a's type.
  void (*matmul_scaled)(Exec&, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, double scale);
  /// c[M,N] = a[M,K] . b[K,N] + u[M,R] . v[R,N]: one chain over K and then R, one rounding. c has a's type.
  void (*matmul_two)(Exec&, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& u, const Tensor& v);

  // ---- norm ---------------------------------------------------------------------------------------------------------
  /// y[T,C] = x * rstd * w, rstd[T] fp32 = 1/sqrt(mean(x^2) + eps). x may be wider than y (fp32 residual).
  void (*rms_norm_fwd)(Exec&, Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w, double eps);
  /// sum = round(a + b) in a's type, then y, rstd = its norm, in one pass: the bits of `binary` and rms_norm_fwd.
  void (*add_rms_norm_fwd)(Exec&, Tensor& sum, Tensor& y, Tensor& rstd, const Tensor& a, const Tensor& b,
                           const Tensor& w, double eps);
  /// dx[T,C] = rstd (w dy - xhat mean(w dy xhat)) in x's type, dw[C] fp32 += column sums of dy xhat, where
  /// xhat = x * rstd; dw (dqw, dkw) undefined: frozen. `before` is the gradient that x has from elsewhere, of dx's
  /// shape and type, not its memory; undefined: none. Else dx = round(before + round(dx)), the bits of `binary` after.
  void (*rms_norm_bwd)(Exec&, Tensor& dx, Tensor& dw, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& rstd, const Tensor& before);
  /// The same over each query and key head of qkv rows (Qwen3): qw[D], kw[D], rstd[T,H+G]; values are copied.
  void (*qk_norm_fwd)(Exec&, Tensor& out, Tensor& rstd, const Tensor& qkv, const Tensor& qw, const Tensor& kw,
                      Heads heads, double eps);
  void (*qk_norm_bwd)(Exec&, Tensor& dqkv, Tensor& dqw, Tensor& dkw, const Tensor& dout, const Tensor& qkv,
                      const Tensor& qw, const Tensor& kw, const Tensor& rstd, Heads heads);

  // ---- attention ----------------------------------------------------------------------------------------------------
  /// Rotates query and key heads of qkv rows: (x1, x2) = halves of a head, angle from table[positions[t]] with
  /// table[max_positions, D/2, 2] fp32 = (cos, sin). inverse = true is the gradient. out may alias in.
  void (*rope)(Exec&, Tensor& out, const Tensor& qkv, const Tensor& table, const Tensor& positions, Heads heads,
               bool inverse);
  /// rope and, of its result, kv_write in one pass. out may alias qkv.
  void (*rope_kv)(Exec&, Tensor& out, Tensor& pages, const Tensor& qkv, const Tensor& table, const Tensor& positions,
                  const Tensor& slots, Heads heads);
  /// Causal attention over packed sequences, offsets[S+1] int32. out[T,H*D]; lse[T,H] fp32 (fp64), natural log of the
  /// softmax denominator of the scaled scores (scale 1/sqrt(D)). Key blocks of kAttentionTile from key 0, ascending. No
  /// sequence is longer than `longest`: offsets may be on a device, launches are planned on the host.
  void (*attention_fwd)(Exec&, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, int64_t longest,
                        Heads heads);
  void (*attention_bwd)(Exec&, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                        const Tensor& lse, const Tensor& offsets, int64_t longest, Heads heads);
  /// KV cache of one layer: pages[2, P, kAttentionTile, G*D] (keys, values), any floating type. Writes k and v of qkv
  /// row t into slot slots[t] (int32) = page * kAttentionTile + offset; negative slots are skipped.
  void (*kv_write)(Exec&, Tensor& pages, const Tensor& qkv, const Tensor& slots, Heads heads);
  /// Copies pages from[i] to to[i] (both int32 [N]); a negative `from` is skipped.
  void (*kv_copy)(Exec&, Tensor& pages, const Tensor& from, const Tensor& to);
  /// Query rows against the cached keys of their sequences: table[B,max_pages] int32, lengths[B] int32 (keys to read,
  /// the current token included; 0 = inactive row, output zero). On the CPU bit-equal to attention_fwd when the cache
  /// has qkv's type; elsewhere equal within rounding. `ahead`[B] int32, undefined where all are 0 (as inactive rows
  /// are): of the rows right before row b so many are of its sequence, from its first row on, with the same row of the
  /// table and one key less each. These are guesses, whose keys a device may read once for all, and whose values, which
  /// must be finite, it may multiply by 0 for a row that does not see them.
  void (*attention_decode)(Exec&, Tensor& out, const Tensor& qkv, const Tensor& pages, const Tensor& table,
                           const Tensor& lengths, const Tensor& ahead, Heads heads);
  /// rope_kv and attention_decode of its result, where no row reads what another one writes. slots[b] is the place of
  /// the last of the lengths[b] keys of row b, negative where there are none. `rotated`, of qkv's shape, is room for
  /// the result of rope_kv, of which nothing need be left. On a device the kernel ahead may write qkv, and nothing else
  /// that is read here.
  void (*rope_attention_decode)(Exec&, Tensor& out, Tensor& pages, Tensor& rotated, const Tensor& qkv,
                                const Tensor& angles, const Tensor& positions, const Tensor& slots, const Tensor& table,
                                const Tensor& lengths, Heads heads);

  // ---- experts ------------------------------------------------------------------------------------------------------
  // E experts, K slots of a row (the experts it goes to), R = T K grouped rows: those of expert 0 first, in the order
  // of (t, slot). What belongs to expert e is rows [offsets[e], offsets[e+1]) of them; some experts may have none.
  /// Of logits[T,E], fp32 (or fp64), the K largest of each row, largest first, of equal ones the lower index first:
  /// experts[T,K] int32 and weights[T,K] = their softmax over all E, divided by its sum over the K when `normalise`.
  void (*route)(Exec&, Tensor& weights, Tensor& experts, const Tensor& logits, bool normalise);
  /// dlogits[T,E] (overwritten): w_j (dw_j - sum_i w_i dw_i) for those chosen; for others 0 when `normalise`, else
  /// -p sum_i w_i dw_i.
  void (*route_bwd)(Exec&, Tensor& dlogits, const Tensor& dweights, const Tensor& logits, const Tensor& weights,
                    const Tensor& experts, bool normalise);
  /// Experts that were chosen elsewhere: given[T,K] uint8, distinct in a row, each below E. Replaces what `route` left:
  /// experts = given, weights as there, with the same bits where it had chosen the same in the same order. A row that
  /// begins with kNotGiven stays as it is.
  void (*route_given)(Exec&, Tensor& weights, Tensor& experts, const Tensor& logits, const Tensor& given,
                      bool normalise);
  /// same[T] int32: 1 where a row of experts[T,K] has the experts of given[T,K] (uint8), in any order, else 0.
  void (*same_routes)(Exec&, Tensor& same, const Tensor& experts, const Tensor& given);
  /// offsets[E+1]; tokens[R]: the row that a grouped row is a copy of; rows[T,K]: the grouped row of each slot.
  void (*group_rows)(Exec&, Tensor& offsets, Tensor& tokens, Tensor& rows, const Tensor& experts);
  /// One matmul an expert: a's (kTN: a's and b's) grouped rows with the expert's own N of the weight's E N rows.
  /// kNT c[R,N] = a[R,K] . w[E N,K]^T; kNN c[R,K] = a[R,N] . w[E N,K]; kTN c[E N,K] = a[R,N]^T . b[R,K] (+ c when
  /// accumulate, which is kTN's alone), 0 for an expert without rows.
  void (*grouped_matmul)(Exec&, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& offsets, Trans trans,
                         bool accumulate);
  /// out[T,C] = sum over slots j, ascending, of weights[T,K] (undefined: 1) times row rows[t,j] of in[R,C]: one FMA
  /// chain in fp32 (fp64), one rounding.
  void (*combine_rows)(Exec&, Tensor& out, const Tensor& in, const Tensor& weights, const Tensor& rows);
  /// din[R,C] = weight times the dout row of its token; dweights[T,K] = dot of that row with in's. No two slots share a
  /// grouped row, so nothing is added to memory.
  void (*combine_rows_bwd)(Exec&, Tensor& din, Tensor& dweights, const Tensor& dout, const Tensor& in,
                           const Tensor& weights, const Tensor& rows);

  // ---- vocab --------------------------------------------------------------------------------------------------------
  /// out[t,:] = table[ids[t],:]; its gradient dtable[ids[t],:] += dout[t,:] in fp32 (fp64), tokens ascending.
  void (*embedding_fwd)(Exec&, Tensor& out, const Tensor& table, const Tensor& ids);
  void (*embedding_bwd)(Exec&, Tensor& dtable, const Tensor& dout, const Tensor& ids);
  /// Of fp32 logits[T,V] (fp64 in gradient checks): logprob[t] = z[target] - lse, z = logits * inv_temperature,
  /// entropy[t] = lse - sum p z, lse[t]. Vocabulary reduced in fixed chunks in a fixed order, the order `sample` uses.
  void (*logprob_fwd)(Exec&, Tensor& logprob, Tensor& entropy, Tensor& lse, const Tensor& logits, const Tensor& targets,
                      double inv_temperature);
  /// dlogits[T,V] = scale * inv_temperature * (dlogprob (1[v=target] - p) - dentropy p (log p + entropy)), rounded once
  /// to dlogits' type; scale is state.loss_scale read from device memory. dlogits may alias logits when the types
  /// agree. Undefined dentropy means zero, undefined state means scale 1.
  void (*logprob_bwd)(Exec&, Tensor& dlogits, const Tensor& logits, const Tensor& lse, const Tensor& entropy,
                      const Tensor& targets, const Tensor& dlogprob, const Tensor& dentropy, const Tensor& state,
                      double inv_temperature);

  // ---- sampling -----------------------------------------------------------------------------------------------------
  /// Per row of fp32 logits[B,V]: log-softmax(logits / temperature) of the sampled token before any filtering goes to
  /// logprobs[B]; the token is drawn by inverse CDF among those kept by top-k, then top-p. counters[B,3] int32 are
  /// (prompt, sample, position), key a key_tensor().
  void (*sample)(Exec&, Tensor& tokens, Tensor& logprobs, const Tensor& logits, const Tensor& counters,
                 const Tensor& key, SamplingRule rule);

  // ---- optim --------------------------------------------------------------------------------------------------------
  /// state is a state_tensor(). Adds the squares of grad (fp32) to sum_squares; not_finite = 1 where one is inf or NaN.
  void (*grad_stats)(Exec&, Tensor& state, const Tensor& grad);
  /// Decides the step from the accumulated statistics: overflow, norm, clip factor, next loss scale and counters;
  /// clears the statistics. grad_factor uses the scale the gradients were made with. max_norm 0 = no clipping.
  void (*step_decide)(Exec&, Tensor& state, ScalerRule scaler, double max_norm);
  /// Decoupled AdamW: g = grad_factor grad; m += (1 - beta1)(g - m); v += (1 - beta2)(g^2 - v); with t = adam_step,
  /// master = (1 - lr weight_decay) master - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).
  void (*adamw)(Exec&, Tensor& master, Tensor& m, Tensor& v, Tensor& compute, const Tensor& grad, const Tensor& state,
                AdamWRule rule);  // and compute = round(master) where it is another tensor; nothing on overflow
};

/// Keys per attention block and rows per KV page.
inline constexpr int kAttentionTile = 64;

/// The entry behind a kernel member, or an Error "[op] no kernel registered for <backend>".
template <class Fn>
Fn* require(Fn* fn, const char* op, const Exec& exec) {
  check(fn != nullptr, "[", op, "] no kernel registered for ", exec.backend().name());
  return fn;
}

/// Calls a kernel by member name: MANTISSA_RUN(exec, matmul, c, a, b, Trans::kNT, false).
#define MANTISSA_RUN(exec, kernel, ...) \
  ::mantissa::require((exec).kernels().kernel, #kernel, (exec))((exec), __VA_ARGS__)

}  // namespace mantissa
