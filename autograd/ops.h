// Every differentiable op (autograd/<family>.cpp): checks, forward by kernel, and the gradient right below it, in the
// same function or, where a fused op shares it, in record_<op>. A record keeps what its gradient reads ("Saves") and
// nothing else. Shapes: T tokens, S sequences, C width, F feed-forward width, V vocabulary, H/G/D heads. Errors are
// "[op] rule: got value". Unless said otherwise outputs have the type of the first input.
#pragma once

#include <utility>
#include <vector>

#include "autograd/tape.h"
#include "core/comm.h"

namespace mantissa::ops {

// ---- matmul (matmul.cpp) --------------------------------------------------------------------------------------------
/// y[T,N] = x[T,K] . w[N,K]^T (+ bias[N]). x, w and bias share a type; the sum is rounded once.
/// dx = dy . w, dw += dy^T . x, dbias += column sums. Saves x, w.
Var linear(Tape& tape, const Var& x, const Var& w, const Var& bias = {});
/// The same with a recipe at Recompute::kMlp: the gate/up projection.
Var linear_recomputable(Tape& tape, const Var& x, const Var& w, const Var& bias = {});

/// A low-rank update of a linear layer, one for each of P parts of its outputs, of rank r.
struct LowRank {
  Var a;                           // [P r, K], part after part
  Var b;                           // [outputs of all parts, r], part after part
  std::vector<ColumnRange> parts;  // of y, ascending; outputs between them are linear()'s
  double scale = 1.0;              // s
  Var input;                       // undefined: x; else what A reads in its place (x after a dropout)
};
/// linear() and the update: u = round(s x . a^T); y = round(bias + x . w^T + u_p . b_p^T on the outputs of part p), one
/// chain in the accumulator's type over K and then r. du_p = round(s dy_p . b_p), da += du^T . x, db_p += dy_p^T . u_p,
/// dx = round(dy . w + du . a). Saves x, w, a, b, u. `recomputable`: with the recipe of linear_recomputable.
Var linear_low_rank(Tape& tape, const Var& x, const Var& w, const Var& bias, const LowRank& update,
                    bool recomputable = false);

// ---- norm (norm.cpp) ------------------------------------------------------------------------------------------------
/// y = x * rstd * w, rstd = 1/sqrt(mean(x^2) + eps) over the last dimension, in fp32, one rounding, to w's type.
/// dx = rstd (w dy - xhat mean(w dy xhat)), dw += sum over rows of dy xhat. Saves x, w, rstd; recipe at kElementwise.
Var rms_norm(Tape& tape, const Var& x, const Var& w, double eps);
/// {sum, y}: sum = a + b as add() has it, y = rms_norm(sum), in one pass; both ops' records, that of the addition under
/// the scope `add_scope`. b has w's type.
std::pair<Var, Var> add_rms_norm(Tape& tape, const Var& a, const Var& b, const Var& w, double eps,
                                 const std::string& add_scope);
/// RMSNorm of every query and key head of qkv rows [H*D | G*D | G*D] (Qwen3); value heads pass unchanged. qw[D], kw[D];
/// gradients as rms_norm has them. Saves qkv, weights, rstd.
Var qk_norm(Tape& tape, const Var& qkv, const Var& qw, const Var& kw, Heads heads, double eps);

// ---- attention (attention.cpp) --------------------------------------------------------------------------------------
/// Rotary position embedding of query and key heads; table[max_positions, D/2, 2] fp32 (cos, sin), positions[T] int32
/// in [0, max_positions) (the caller checks). The gradient is the inverse rotation.
Var rope(Tape& tape, const Var& qkv, const Tensor& table, const Tensor& positions, Heads heads);
/// The same, and the rotated keys and the values go to their slots of a layer's KV cache (Kernels::kv_write).
Var rope_kv(Tape& tape, const Var& qkv, const Tensor& table, const Tensor& positions, Heads heads, Tensor& pages,
            const Tensor& slots);
/// Causal grouped-query attention over packed sequences; offsets[S+1] int32, qkv[T,(H+2G)D] -> [T,H*D]. Saves qkv,
/// output and log-sum-exp. No sequence is longer than `longest` (0: not known, T is taken); a device plans its launches
/// by that number. Errors: a head size that is no multiple of 8, query heads that G does not divide.
Var attention(Tape& tape, const Var& qkv, const Tensor& offsets, Heads heads, int64_t longest = 0);
/// Rows against the keys of their sequences in the cache: pages, table[B,max_pages], lengths[B] and ahead[B] as in
/// core/kernels.h. No gradient: the tape must not record.
Var attention_decode(Tape& tape, const Var& qkv, const Tensor& pages, const Tensor& table, const Tensor& lengths,
                     const Tensor& ahead, Heads heads);
/// attention_decode of what rope_kv makes, where no row reads what another one writes: rotated rows are seen nowhere.
Var rope_attention_decode(Tape& tape, const Var& qkv, const Tensor& angles, const Tensor& positions, Heads heads,
                          Tensor& pages, const Tensor& slots, const Tensor& table, const Tensor& lengths);

// ---- experts (moe.cpp) ----------------------------------------------------------------------------------------------
/// Where the T rows of a layer go: E experts, K slots a row, R = T K grouped rows (core/kernels.h, "experts"). Indices
/// alone: no gradient flows through them.
struct Routes {
  Tensor experts;  // [T,K] int32, the likeliest first
  Tensor offsets;  // [E+1] int32: which grouped rows an expert has
  Tensor tokens;   // [R] int32: the row of x that a grouped row is
  Tensor rows;     // [T,K] int32: the grouped row of each slot
};
struct Routing {
  Var weights;  // [T,K] fp32 (fp64 when x is)
  Routes routes;
};
/// What routes have to do with those of another forward of the same tokens. Undefined: nothing.
struct RouteExchange {
  Tensor chosen = {};   // [T,K] int32: receives the experts that the logits choose
  Tensor given = {};    // [T,K] uint8: those that another forward chose, of at most kNotGiven experts
  bool replay = false;  // rows go to the given experts, unless they begin with kNotGiven
  Tensor same = {};     // [T] int32: receives 1 where the logits choose the given ones, in any order, else 0
};
/// Logits x[T,C] . w[E,C]^T in fp32, never rounded; softmax; the `slots` largest, of equal logits the lower index;
/// their weights divided by their sum when `normalise`. Saves x, w and the logits; gradients are made in fp32. Of no
/// rows nothing is computed. Under replay the given experts take the place of the largest, in their order: weights and
/// gradients are as if the logits had chosen them.
Routing route(Tape& tape, const Var& x, const Var& w, int64_t slots, bool normalise, const RouteExchange& other = {});
/// The rows of each expert, together: x[T,C] -> [R,C]. The gradient adds a row's slots in their order in fp32 and is
/// rounded once. Recipe at kElementwise.
Var group_rows(Tape& tape, const Var& x, const Routes& routes);
/// linear() with a weight for each expert: x[R,K], w[E N,K] -> [R,N]. An expert without rows adds nothing to its
/// gradient. Saves x, w; recipe at kMlp.
Var grouped_linear(Tape& tape, const Var& x, const Var& w, const Routes& routes);
/// Rows to other ranks and from them (Comm::all_to_all): x has those for rank 0 first, sent[r] for rank r; the result
/// those from rank 0 first, received[r] from rank r. The gradient goes the way back. All ranks call it together, and
/// on a tape that records all of them play it, whether an input of theirs needs a gradient or not.
Var exchange_rows(Tape& tape, const Var& x, Comm& ranks, const std::vector<int64_t>& received,
                  const std::vector<int64_t>& sent);
/// y[R,C] -> [T,C]: weights times the rows of a token, added in slot order in fp32, rounded once. dy = weight dout
/// (rounded), dweight = dout . y in fp32. Saves y and weights.
Var combine(Tape& tape, const Var& y, const Var& weights, const Routes& routes);

// ---- elementwise (elementwise.cpp) ----------------------------------------------------------------------------------
/// a + b of equal shapes; the result has a's type (residual streams may be wider than branches). The same for sub, mul,
/// minimum, maximum and less_equal.
Var add(Tape& tape, const Var& a, const Var& b);
Var sub(Tape& tape, const Var& a, const Var& b);
Var mul(Tape& tape, const Var& a, const Var& b);
/// Elementwise minimum and maximum; on a tie the gradient goes to a.
Var minimum(Tape& tape, const Var& a, const Var& b);
Var maximum(Tape& tape, const Var& a, const Var& b);
/// scale * x + shift.
Var affine(Tape& tape, const Var& x, double scale, double shift = 0.0);
Var exp(Tape& tape, const Var& x);
/// min(max(x, low), high); gradient 1 inside (ends included), 0 outside.
Var clamp(Tape& tape, const Var& x, double low, double high);
/// 1 where low <= x <= high, else 0; a constant (no gradient).
Var within(Tape& tape, const Var& x, double low, double high);
/// 1 where a <= b, else 0; a constant (no gradient).
Var less_equal(Tape& tape, const Var& a, const Var& b);
/// The same value as a constant: no gradient flows through.
Var stop_gradient(const Var& x);
/// x rounded to `dtype` (x itself when it has it); the gradient is rounded back.
Var cast(Tape& tape, const Var& x, Dtype dtype);
/// What a dropout's mask depends on, beside the place in the model: see Kernels::dropout.
struct DropoutKeys {
  double p = 0;
  Tensor rows;  // [T,2] int32
  Tensor key;   // a key_tensor()
};
/// x / (1 - p) where an element is kept, else 0; dx the same of dy. `place` tells one mask from another.
Var dropout(Tape& tape, const Var& x, const DropoutKeys& keys, int place);
/// silu(gate) * up on gate_up[T,2F] = [gate | up]. Saves gate_up; recipe at kElementwise.
Var swiglu(Tape& tape, const Var& gate_up);
/// Sum of all elements, shape [1], in the accumulator type (fp32; fp64 of fp64).
Var sum(Tape& tape, const Var& x);
/// x[T] -> [S]: sums over segments offsets[S+1] (int32, ascending from 0 to T).
Var segment_sum(Tape& tape, const Var& x, const Tensor& offsets);
/// Its transpose x[S] -> [T]: every element of a segment gets its value. `tokens` is T = offsets[S], given because
/// offsets may lie on a device.
Var segment_expand(Tape& tape, const Var& x, const Tensor& offsets, int64_t tokens);

// ---- vocab (vocab.cpp) ----------------------------------------------------------------------------------------------
/// table[V,C] rows of ids[T] (int32; validated by the caller: ids come from the tokenizer or a checked batch).
Var embedding(Tape& tape, const Var& table, const Tensor& ids);
/// rows[N] (int32, distinct) of x[T,C]: the tokens that are scored.
Var gather_rows(Tape& tape, const Var& x, const Tensor& rows);

struct TokenLogprobs {
  Var logprobs;  // [T] fp32 (fp64 when hidden is)
  Var entropy;   // [T] the same
};
struct HeadOptions {
  double temperature = 1.0;
  /// Type the hidden states and head weights are multiplied in; the products are fp32 logits. fp64 hidden states stay.
  Dtype dtype = Dtype::kF32;
  /// One StepState: its loss_scale multiplies the gradient before the first cast to 16 bits. Undefined = scale 1.
  Tensor state;
  /// Tokens per chunk of logits; memory is chunk * V * 4 bytes, half as much again for 16-bit gradients. 0: as
  /// head_chunk() says.
  int64_t chunk = 0;
};
/// The number of tokens that a chunk has: `chosen`, or by itself, where that is 0: 256 on the CPU, where they stay in
/// the cache; elsewhere, where small products waste the device, as many as take 2.5 GiB of logits, from 2048 to 16384.
int64_t head_chunk(const Backend& backend, int64_t vocab, int64_t chosen = 0);
/// Log-prob of targets[T] and entropy of softmax(hidden[T,C] . w[V,C]^T / temperature), in chunks of tokens. Forward
/// saves hidden and log-sum-exp, and the logits where all tokens are one chunk; else backward makes each chunk again,
/// and logits for all tokens never exist. Under Match::kPeer logits are rounded to the head's type. The gradients of
/// hidden and w carry the loss scale. But for Match::kPeer neither values nor gradients depend on `chunk`.
TokenLogprobs token_logprobs(Tape& tape, const Var& hidden, const Var& w, const Tensor& targets,
                             const HeadOptions& options);

}  // namespace mantissa::ops
