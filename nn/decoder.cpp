#include "nn/decoder.h"

#include <algorithm>

#include "autograd/support.h"
#include "nn/moe.h"
#include "nn/rope.h"

namespace mantissa {
namespace {

/// A weight as the tape sees it: its gradient, if any is wanted, adds into the context's sinks. Beside an adapter it is
/// frozen.
Var param(const ForwardContext& ctx, ParamId id) {
  if (!id.valid()) return {};
  if (ctx.windows) return ctx.tape->param(ctx.windows->weight(id), ctx.grads ? ctx.windows->gradient(id) : Tensor());
  return ctx.tape->param(ctx.weights()[id], ctx.grads && !ctx.adapter ? ctx.grads->sink(id) : Sink());
}

Var adapter_param(const ForwardContext& ctx, ParamId id) {
  const ParamSet& set = ctx.adapter->params;
  const ParamBuffer& values = ctx.rollout ? set.for_rollout() : set.compute;
  return ctx.tape->param(values[id], ctx.grads ? ctx.grads->sink(id) : Sink());
}

/// The part of one layer: `index` counts those with experts.
ops::RouteExchange of_layer(const ops::RouteExchange& all, int64_t index) {
  const auto part = [index](const Tensor& t) {
    if (!t.defined()) return Tensor();
    check(index < t.size(0), "[decoder] routes of ", t.size(0), " layers with experts: the model has more");
    const Tensor layer = t.slice(index, index + 1);
    return layer.view(t.shape().rank() == 2 ? Shape{t.size(1)} : Shape{t.size(1), t.size(2)});
  };
  return {part(all.chosen), part(all.given), all.replay, part(all.same)};
}

}  // namespace

DecoderParams::DecoderParams(const ModelConfig& c, ParamLayout& layout, Shard shard) {
  check(shard.experts == 1 || c.experts.count > 0, "distributed.experts: must be 1 for a model without experts, ",
        c.architecture, ", got ", shard.experts);
  check(shard.experts == 1 || c.experts.count % shard.experts == 0,
        "distributed.experts: must divide the number of experts of the model, ", c.experts.count, ", got ",
        shard.experts);
  const Shape width{c.width}, head_size{c.heads.size};
  const int64_t attention = int64_t(c.heads.query) * c.heads.size;

  units.push_back({layout.add_unit("embedding")});
  embedding = layout.add(units[0][0], "embedding.weight", {c.vocab_size, c.width}, true);
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string name = str("layers.", i);
    const int unit = layout.add_unit(name);
    units.push_back({unit});
    const auto matrix = [&](const char* part, int64_t rows, int64_t columns) {
      return layout.add(unit, name + part, {rows, columns}, true);
    };
    /// `rows` of each expert.
    const auto of_experts = [&](const char* part, int64_t rows, int64_t columns) {
      const int64_t here = c.experts.count / shard.experts * rows, place = shard.rank % shard.experts;
      return layout.add_rows(units.back().back(), name + part, {here, columns}, true, place * here,
                             c.experts.count * rows);
    };
    const auto vector = [&](const char* part, Shape shape) { return layout.add(unit, name + part, shape, false); };
    Layer layer;
    layer.input_norm = vector(".input_norm.weight", width);
    layer.qkv = matrix(".qkv.weight", c.heads.row(), c.width);
    if (c.qkv_bias) layer.qkv_bias = vector(".qkv.bias", {c.heads.row()});
    if (c.qk_norm) {
      layer.q_norm = vector(".q_norm.weight", head_size);
      layer.k_norm = vector(".k_norm.weight", head_size);
    }
    layer.o = matrix(".o.weight", c.width, attention);
    layer.post_norm = vector(".post_norm.weight", width);
    if (c.experts.in_layer(i)) {
      layer.router = matrix(".router.weight", c.experts.count, c.width);
      units.back().push_back(layout.add_unit(name + ".experts", true));
      layer.gate_up = of_experts(".gate_up.weight", 2 * c.experts.feed_forward, c.width);
      layer.down = of_experts(".down.weight", c.width, c.experts.feed_forward);
    } else {
      layer.gate_up = matrix(".gate_up.weight", 2 * c.feed_forward, c.width);
      layer.down = matrix(".down.weight", c.width, c.feed_forward);
    }
    layers.push_back(layer);
  }
  const int unit = layout.add_unit("head");
  units.push_back({unit});
  final_norm = layout.add(unit, "final_norm.weight", width, false);
  head = c.tied_head ? embedding : layout.add(unit, "head.weight", {c.vocab_size, c.width}, true);
  layout.finish(shard.world_size);
}

Decoder::Decoder(const ModelConfig& config, ParamLayout& layout, Backend& backend, Shard shard)
    : config_(config), params_(config, layout, shard) {
  rope_table_ = rope_table(config, backend);
}

int Decoder::unit_of(const ForwardContext& ctx, int layer) const {
  return ctx.adapter ? layer : ctx.params->layout[params_.layers[size_t(layer)].o].unit;
}

void Decoder::tell_whole(const ForwardContext& ctx, int layer) const {
  if (ctx.grads && ctx.whole_from && layer < int(params_.layers.size()))
    ctx.tape->when_played([whole_from = ctx.whole_from, unit = unit_of(ctx, layer)] { whole_from(unit); });
}

std::vector<int> Decoder::units_of(int step) const {
  std::vector<int> units = params_.units[size_t(step)];
  if (config_.tied_head && step == last_step()) units.push_back(params_.units[0][0]);
  return units;
}

void Decoder::begin(ParamWindows& windows, int step) const {
  if (step == 0) windows.clear();  // weights have moved since the last pass
  windows.use(units_of(step), step < last_step() ? params_.units[size_t(step) + 1] : std::vector<int>());
}

void Decoder::begin_backward(ParamWindows& windows, int step) const {
  if (step > 0) windows.use(units_of(step), step > 1 ? params_.units[size_t(step) - 1] : std::vector<int>());
  for (const int unit : units_of(step)) windows.open(unit);
}

void Decoder::reduce(ParamWindows& windows, int step) const {
  for (const int unit : params_.units[size_t(step)]) windows.reduce(unit);
}

void Decoder::enter(const ForwardContext& ctx, int step) const {
  if (!ctx.windows) return;
  if (ctx.grads) ctx.tape->when_played([this, windows = ctx.windows, step] { reduce(*windows, step); });
  begin(*ctx.windows, step);
}

void Decoder::leave(const ForwardContext& ctx, int step) const {
  if (ctx.windows && ctx.grads)
    ctx.tape->when_played([this, windows = ctx.windows, step] { begin_backward(*windows, step); });
}

void Decoder::join(ForwardContext ctx) const {
  Tape& tape = *ctx.tape;
  ctx.ids = tape.exec().empty({0}, Dtype::kI32);
  const Var end = forward(ctx);
  leave(ctx, last_step());
  if (!tape.recording()) return;
  const Tensor none = tape.exec().empty(end.shape(), end.dtype());
  tape.backward(std::span(&end, 1), std::span(&none, 1));
}

int64_t Decoder::most_in_use(const ParamLayout& layout) const {
  int64_t most = 0;
  for (int step = 0; step <= last_step(); ++step) {
    std::vector<int> used = units_of(step);
    if (step < last_step())
      used.insert(used.end(), params_.units[size_t(step) + 1].begin(), params_.units[size_t(step) + 1].end());
    int64_t all = 0;
    for (const int unit : used) all += layout.size(unit);
    most = std::max(most, all);
  }
  return most;
}

Var Decoder::forward(const ForwardContext& ctx) const {
  Tape& tape = *ctx.tape;
  const bool joins = ctx.ids.numel() == 0;
  if (ctx.expert_offsets) ctx.expert_offsets->resize(params_.layers.size());
  Var x;
  {
    Tape::Scope scope(tape, "embedding");
    enter(ctx, 0);
    x = joins ? Var(tape.exec().empty({0, config_.width}, ctx.weights().dtype()))
              : ops::cast(tape, ops::embedding(tape, param(ctx, params_.embedding), ctx.ids), ctx.residual);
    leave(ctx, 0);
  }
  Stream stream{x, {}, {}};
  for (int i = 0; i < int(params_.layers.size()); ++i) {
    enter(ctx, i + 1);
    if (i == 0) tell_whole(ctx, i);
    if (tape.recompute() == Recompute::kFull && tape.recording()) {
      // The body outlives this call: it holds the context by value and runs on the tape it is given.
      stream.x = tape.checkpoint(
          [this, ctx, i](Tape& inner, std::span<const Var> inputs) {
            ForwardContext replay = ctx;
            replay.tape = &inner;
            const Stream out = layer(replay, i, {inputs[0], {}, {}});
            if (!out.branch.defined()) return std::vector<Var>{out.x};
            const Tape::ScopeAs scope(inner, out.scope);
            return std::vector<Var>{ops::add(inner, out.x, out.branch)};
          },
          {stream.x})[0];
    } else {
      stream = layer(ctx, i, std::move(stream));
    }
    leave(ctx, i + 1);
  }
  Tape::Scope scope(tape, "head");
  enter(ctx, last_step());
  if (joins) return stream.x;
  return add_norm(ctx, std::move(stream), params_.final_norm).second;
}

std::pair<Var, Var> Decoder::add_norm(const ForwardContext& ctx, Stream in, ParamId weight) const {
  const Var w = param(ctx, weight);
  if (!in.branch.defined()) return {in.x, ops::rms_norm(*ctx.tape, in.x, w, config_.norm_eps)};
  return ops::add_rms_norm(*ctx.tape, in.x, in.branch, w, config_.norm_eps, in.scope);
}

Decoder::Stream Decoder::layer(const ForwardContext& ctx, int index, Stream in) const {
  Tape& tape = *ctx.tape;
  const DecoderParams::Layer& ids = params_.layers[size_t(index)];
  const std::string name = str("layers.", index);
  const auto mix = [&](const Var& x) {
    Tensor* offsets = ctx.expert_offsets ? &(*ctx.expert_offsets)[size_t(index)] : nullptr;
    return mixture(tape, x, param(ctx, ids.router), param(ctx, ids.gate_up), param(ctx, ids.down), config_.experts,
                   offsets, *expert_ranks_, of_layer(ctx.routes, config_.experts.before(index)));
  };
  if (ctx.ids.numel() == 0) {
    const Tape::Scope scope(tape, name + ".mlp");
    tell_whole(ctx, index + 1);
    return {ids.router.valid() ? mix(in.x) : in.x, {}, {}};
  }
  Stream middle;
  {
    Tape::Scope scope(tape, name + ".attention");
    const auto [x, normed] = add_norm(ctx, std::move(in), ids.input_norm);
    const Var qkv = project(ctx, index, Projection::kQkv, normed);
    const Var mixed = attention(ctx, index, qkv);
    tell_whole(ctx, index + 1);
    middle = {x, project(ctx, index, Projection::kO, mixed), tape.scope()};
  }
  Tape::Scope scope(tape, name + ".mlp");
  const auto [x, normed] = add_norm(ctx, std::move(middle), ids.post_norm);
  if (ids.router.valid()) return {x, mix(normed), tape.scope()};
  const Var gate_up = project(ctx, index, Projection::kGateUp, normed);
  return {x, project(ctx, index, Projection::kDown, ops::swiglu(tape, gate_up)), tape.scope()};
}

Var Decoder::project(const ForwardContext& ctx, int index, Projection which, const Var& x) const {
  Tape& tape = *ctx.tape;
  const DecoderParams::Layer& ids = params_.layers[size_t(index)];
  const Var w = param(ctx, ids[which]);
  const Var bias = which == Projection::kQkv ? param(ctx, ids.qkv_bias) : Var();
  const bool recomputable = which == Projection::kGateUp;
  const LayerAdapter* updates =
      ctx.adapter && !(ctx.rollout && ctx.adapter->merged) ? &ctx.adapter->layers[size_t(index)] : nullptr;
  if (!updates || (*updates)[which].parts.empty())
    return recomputable ? ops::linear_recomputable(tape, x, w, bias) : ops::linear(tape, x, w, bias);

  const ProjectionAdapter& update = (*updates)[which];
  ops::LowRank low{
      adapter_param(ctx, update.a), adapter_param(ctx, update.b), update.parts, ctx.adapter->config.scale(), {}};
  if (ctx.dropout.p > 0) low.input = ops::dropout(tape, x, ctx.dropout, index * kProjections + int(which));
  return ops::linear_low_rank(tape, x, w, bias, low, recomputable);
}

Var Decoder::attention(const ForwardContext& ctx, int index, const Var& projected) const {
  Tape& tape = *ctx.tape;
  const DecoderParams::Layer& ids = params_.layers[size_t(index)];
  const Heads heads = config_.heads;
  Var qkv = projected;
  if (config_.qk_norm)
    qkv = ops::qk_norm(tape, qkv, param(ctx, ids.q_norm), param(ctx, ids.k_norm), heads, config_.norm_eps);
  const AttentionInputs& in = ctx.attention;
  if (in.table.defined() && !in.ahead.defined())
    return ops::rope_attention_decode(tape, qkv, rope_table_, ctx.positions, heads, in.cache->layers[size_t(index)],
                                      in.slots, in.table, in.lengths);
  if (!in.cache)
    qkv = ops::rope(tape, qkv, rope_table_, ctx.positions, heads);
  else
    qkv = ops::rope_kv(tape, qkv, rope_table_, ctx.positions, heads, in.cache->layers[size_t(index)], in.slots);
  if (in.table.defined())
    return ops::attention_decode(tape, qkv, in.cache->layers[size_t(index)], in.table, in.lengths, in.ahead, heads);
  return ops::attention(tape, qkv, in.offsets, heads, in.longest);
}

Tensor Decoder::logits(const ForwardContext& ctx, const Tensor& hidden, Dtype dtype) const {
  Exec& exec = ctx.tape->exec();
  const Tensor& weight = ctx.windows ? ctx.windows->weight(params_.head) : ctx.weights()[params_.head];
  // Widening operands changes no product and no sum: only a narrower or another 16-bit type needs the operands rounded.
  const bool widens = dtype == Dtype::kF32 && hidden.dtype() == weight.dtype();
  const Dtype operands = widens ? weight.dtype() : dtype;
  const Tensor a = ops::cast_to(exec, hidden, operands), b = ops::cast_to(exec, weight, operands);
  Tensor out = exec.empty({hidden.size(0), config_.vocab_size}, Dtype::kF32);
  MANTISSA_RUN(exec, matmul, out, a, b, Trans::kNT, false);
  return exec.match == Match::kPeer ? ops::cast_to(exec, ops::cast_to(exec, out, dtype), Dtype::kF32) : out;
}

ops::TokenLogprobs Decoder::logprobs(const ForwardContext& ctx, const Var& hidden, const Tensor& targets,
                                     const ops::HeadOptions& options) const {
  Tape::Scope scope(*ctx.tape, "head");
  const ops::TokenLogprobs out = ops::token_logprobs(*ctx.tape, hidden, param(ctx, params_.head), targets, options);
  leave(ctx, last_step());
  return out;
}

}  // namespace mantissa
