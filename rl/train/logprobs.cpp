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

}  // namespace

ops::TokenLogprobs batch_logprobs(Tape& tape, const Model& model, const DeviceBatch& batch,
                                  const LogprobOptions& options, const ParamBuffer* grads, const Tensor& state) {
  ForwardContext ctx = context_of(tape, model, options, grads);
  ctx.ids = batch.ids;
  ctx.positions = batch.positions;
  ctx.attention.offsets = batch.offsets;
  ctx.attention.longest = batch.longest;
  Var hidden = model.decoder->forward(ctx);
  if (batch.scored.numel() != batch.ids.numel()) hidden = ops::gather_rows(tape, hidden, batch.scored);
  return model.decoder->logprobs(
      ctx, hidden, batch.targets,
      {.temperature = options.temperature, .dtype = options.lm_head, .state = state, .chunk = options.head_chunk});
}

void join_logprobs(Tape& tape, const Model& model, const LogprobOptions& options, const ParamBuffer* grads) {
  model.decoder->join_experts(context_of(tape, model, options, grads));
}

}  // namespace mantissa
