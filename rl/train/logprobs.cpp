#include "rl/train/logprobs.h"

namespace mantissa {
namespace {

/// All but what the tokens are.
ForwardContext context_of(Tape& tape, const Model& model, const LogprobOptions& options, const ParamBuffer* grads) {
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.params = options.reference && model.reference.compute.defined() ? &model.reference : &model.params;
  ctx.windows = options.windows;
  ctx.adapter = options.reference ? nullptr : model.adapter.get();
  ctx.grads = grads;
  ctx.dropout = options.dropout;
  ctx.residual = options.residual;
  ctx.expert_offsets = options.expert_offsets;
  ctx.whole_from = options.whole_from;
  return ctx;
}

ForwardContext context_of(Tape& tape, const Model& model, const DeviceBatch& batch, const LogprobOptions& options,
                          const ParamBuffer* grads) {
  ForwardContext ctx = context_of(tape, model, options, grads);
  ctx.ids = batch.ids;
  ctx.positions = batch.positions;
  ctx.attention.offsets = batch.offsets;
  ctx.attention.longest = batch.longest;
  ctx.routes = {.given = batch.routes, .replay = options.replay_routes, .same = options.same_routes};
  return ctx;
}

ops::HeadOptions head(const LogprobOptions& options, const Tensor& state) {
  return {.temperature = options.temperature, .dtype = options.lm_head, .state = state, .chunk = options.head_chunk};
}

/// Hidden states of the scored tokens, [N,C].
Var scored_hidden(const Model& model, const ForwardContext& ctx, const DeviceBatch& batch) {
  const Var hidden = model.decoder->forward(ctx);
  return batch.scored.numel() == batch.ids.numel() ? hidden : ops::gather_rows(*ctx.tape, hidden, batch.scored);
}

}  // namespace

ops::TokenLogprobs batch_logprobs(Tape& tape, const Model& model, const DeviceBatch& batch,
                                  const LogprobOptions& options, const ParamBuffer* grads, const Tensor& state) {
  const ForwardContext ctx = context_of(tape, model, batch, options, grads);
  return model.decoder->logprobs(ctx, scored_hidden(model, ctx, batch), batch.targets, head(options, state));
}

void batch_backward(Tape& tape, const Model& model, const DeviceBatch& batch, const LogprobOptions& options,
                    const ParamBuffer& grads, const Tensor& state, const PieceLoss& loss) {
  Exec& exec = tape.exec();
  ForwardContext ctx = context_of(tape, model, batch, options, &grads);
  const Var hidden = scored_hidden(model, ctx, batch);
  Tensor dhidden = exec.empty(hidden.shape(), hidden.dtype());
  for (const HeadPiece& piece : batch.pieces) {
    Tape pass(exec, true);
    pass.set_observer(tape.observer());
    ctx.tape = &pass;
    const Var rows = pass.leaf(hidden.value().slice(piece.first_token, piece.end_token));
    const Tensor targets = batch.targets.slice(piece.first_token, piece.end_token);
    pass.backward(loss(pass, piece, model.decoder->logprobs(ctx, rows, targets, head(options, state))));
    Tensor drows = dhidden.slice(piece.first_token, piece.end_token);
    if (const Tensor grad = rows.grad(); grad.defined())
      exec.backend().copy(drows.raw(), grad.raw(), drows.bytes());
    else
      exec.backend().zero(drows.raw(), drows.bytes());
  }
  tape.backward(std::span(&hidden, 1), std::span(&dhidden, 1));
}

void join_logprobs(Tape& tape, const Model& model, const LogprobOptions& options, const ParamBuffer* grads) {
  model.decoder->join(context_of(tape, model, options, grads));
}

}  // namespace mantissa
