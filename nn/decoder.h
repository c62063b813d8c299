// The decoder: the one model definition, for training, scoring, rollout. It holds parameter ids; the forward context
// names the set to read, where gradients go and what attention works on.
//
//   embedding -> layers x [norm -> qkv -> (qk_norm) -> rope -> attention -> o -> +; norm -> gate_up -> swiglu -> down
//     -> +, or a mixture of experts in their place (nn/moe.h)] -> norm -> hidden[T,C]; the head
//     (token_logprobs for training and scoring, logits for rollout) is separate.
#pragma once

#include <functional>
#include <span>

#include "autograd/ops.h"
#include "nn/adapter.h"
#include "nn/config.h"
#include "nn/param_windows.h"

namespace mantissa {

/// Where the keys and values of a rollout live: one pages tensor a layer (layout in core/kernels.h, kv_write).
struct KvCache {
  std::vector<Tensor> layers;
};

/// Which keys the query rows attend to. S sequences have their rows back to back; a sequence's last row is its newest
/// token. `cache` with `slots` stores the rows' keys and values; `table` selects where keys are read:
///   packed    offsets                         the rows' own (training, scoring)
///   prefill   offsets, cache, slots           the rows' own, stored for later
///   decode    cache, slots, table, lengths    the cache's, one row a sequence
///   guesses   the same, ahead                 the cache's, a row for the newest token and one for each guess behind it
struct AttentionInputs {
  Tensor offsets;       // [S+1] int32: where sequences begin; undefined: one row each
  int64_t longest = 0;  // no sequence has more rows; 0: not known
  KvCache* cache = nullptr;
  Tensor slots;    // [T] int32 cache slots, see kv_write
  Tensor table;    // [S,max_pages] int32; undefined: keys are the rows' own
  Tensor lengths;  // [S] int32: keys of each sequence, those of its rows included
  Tensor ahead;    // [T] int32, see Kernels::attention_decode
};

/// What one forward pass works on. T tokens packed back to back.
struct ForwardContext {
  Tape* tape = nullptr;
  const ParamSet* params = nullptr;
  ParamWindows* windows = nullptr;   // of params, where its compute copy is in parts: weights and gradients are theirs
  const Adapter* adapter = nullptr;  // null: none
  bool rollout = false;              // reads the sets' rollout copies
  const ParamBuffer* grads = nullptr;  // fp32 sinks, of the adapter where there is one; null: no parameter gradients
  ops::DropoutKeys dropout;            // of what the adapter reads; p 0: none
  Dtype residual = Dtype::kF32;        // type of the residual stream (precision.residual)

  Tensor ids;        // [T] int32
  Tensor positions;  // [T] int32
  AttentionInputs attention;

  /// Where the forward leaves Routes::offsets of every layer (undefined where there are no experts); null: nowhere.
  std::vector<Tensor>* expert_offsets = nullptr;
  /// See ops::route: here of all layers that have experts, so that each tensor has one dimension more, the first.
  ops::RouteExchange routes;
  /// Called in backward with a unit of the set that `grads` belongs to: its gradient and those of all units after it
  /// are whole, as far as this pass adds to them. Once a layer, from the last to the first, when the attention of the
  /// layer before it comes next, whose many small blocks leave room for others (of the first layer, when it is done);
  /// null: not at all.
  std::function<void(int unit)> whole_from;

  const ParamBuffer& weights() const { return rollout ? params->for_rollout() : params->compute; }
};

/// Ids of a decoder's parameters. Fused: qkv rows are [query | key | value], gate_up rows are [gate | up].
struct DecoderParams {
  struct Layer {
    ParamId input_norm, qkv, qkv_bias, q_norm, k_norm, o, post_norm, gate_up, down;  // invalid where there is none
    ParamId router;  // with it gate_up and down have the rows of all experts, one after the other
    ParamId operator[](Projection which) const {
      return which == Projection::kQkv      ? qkv
             : which == Projection::kO      ? o
             : which == Projection::kGateUp ? gate_up
                                            : down;
    }
  };
  ParamId embedding;
  std::vector<Layer> layers;
  ParamId final_norm;
  ParamId head;                         // its own, or the embedding when tied
  std::vector<std::vector<int>> units;  // of the embedding, each layer, norm and head

  DecoderParams() = default;
  /// Registers them in `layout` and finishes it. Allocates no tensor. Experts are those of the shard: throws where they
  /// cannot be shared out so.
  DecoderParams(const ModelConfig& config, ParamLayout& layout, Shard shard = {});
};

class Decoder {
 public:
  /// Registers the parameters in `layout` (and finishes it); builds the rope table on `backend`.
  Decoder(const ModelConfig& config, ParamLayout& layout, Backend& backend, Shard shard = {});

  const ModelConfig& config() const { return config_; }
  /// Final hidden states [T,C] after the last norm, in the weights' type; of no tokens (T = 0, join) [0,C] in
  /// the weights' type. With ctx.windows they go to logprobs() next.
  Var forward(const ForwardContext& ctx) const;
  /// fp32 logits[N,V] of hidden rows (no gradient): the rollout's head. Operands are rounded to `dtype`
  /// (precision.lm_head) where that loses bits; under Match::kPeer the logits are rounded to that type.
  Tensor logits(const ForwardContext& ctx, const Tensor& hidden, Dtype dtype) const;
  /// Log-prob and entropy of targets given hidden states; see ops::token_logprobs.
  ops::TokenLogprobs logprobs(const ForwardContext& ctx, const Var& hidden, const Tensor& targets,
                              const ops::HeadOptions& options) const;

  /// Experts are those that this rank and the others of `row` share out, whose passes go together.
  void share_experts(Comm& row) { expert_ranks_ = &row; }
  bool shares_experts() const { return expert_ranks_->size() > 1; }
  Comm& expert_ranks() const { return *expert_ranks_; }
  /// Takes part, without a token, in a forward pass of other ranks and, on a tape that records, in its backward: for a
  /// rank that has no micro-batch, or nothing left to sample, where weights in parts or shared experts make others need
  /// it. ctx needs no inputs.
  void join(ForwardContext ctx) const;
  /// Most elements of weights that windows of `layout` hold at once in a forward pass.
  int64_t most_in_use(const ParamLayout& layout) const;

  const DecoderParams& params() const { return params_; }

 private:
  // A pass over units: step 0 is the embedding, 1 to L the layers, L + 1 the final norm and the head. Of a set in parts
  // every step has its units' weights, and in backward gradients, which are reduced after the step: those of a tied
  // embedding, which is used in two, after step 0.
  int last_step() const { return int(params_.layers.size()) + 1; }
  std::vector<int> units_of(int step) const;
  void reduce(ParamWindows& windows, int step) const;
  void begin(ParamWindows& windows, int step) const;
  void begin_backward(ParamWindows& windows, int step) const;
  /// Before a step is computed, and after it: nothing where the weights are whole.
  void enter(const ForwardContext& ctx, int step) const;
  void leave(const ForwardContext& ctx, int step) const;
  /// A layer's unit in the set that is trained.
  int unit_of(const ForwardContext& ctx, int layer) const;
  /// Has backward call whole_from with a layer's unit, if there is such a layer, when it comes back to here.
  void tell_whole(const ForwardContext& ctx, int layer) const;
  /// The residual stream is x + branch: the addition waits for the norm that follows, to be one pass with it.
  struct Stream {
    Var x, branch;      // branch undefined: x alone
    std::string scope;  // of the addition: where the branch was made
  };
  Stream layer(const ForwardContext& ctx, int index, Stream in) const;
  /// The one form of every projection, in training, scoring and rollout: w x + bias, and the adapter's update.
  Var project(const ForwardContext& ctx, int layer, Projection which, const Var& x) const;
  /// {x + branch, its norm}. Takes the stream, so that the branch is gone when it was added.
  std::pair<Var, Var> add_norm(const ForwardContext& ctx, Stream in, ParamId weight) const;
  Var attention(const ForwardContext& ctx, int index, const Var& qkv) const;

  ModelConfig config_;
  DecoderParams params_;
  Comm* expert_ranks_ = &single_comm();
  Tensor rope_table_;  // [max_positions, D/2, 2] fp32
};

}  // namespace mantissa
