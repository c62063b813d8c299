#include "rl/train/logprobs.h"

namespace mantissa {

ops::TokenLogprobs batch_logprobs(Tape& tape, const Model& model, const TrainBatch& batch,
                                  const LogprobOptions& options, const ParamBuffer* grads, const Tensor& state) {
  const auto upload = [&](const std::vector<int32_t>& values) {
    return tensor_from<int32_t>(tape.exec().backend(), values, {int64_t(values.size())});
  };
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.weights = options.weights ? options.weights : &model.weights.compute;
  ctx.grads = grads;
  ctx.residual = options.residual;
  ctx.ids = upload(batch.ids);
  ctx.positions = upload(batch.positions);
  ctx.offsets = upload(batch.offsets);
  ctx.longest = batch.longest();
  Var hidden = model.decoder->forward(ctx);
  if (batch.scored.size() != batch.ids.size()) hidden = ops::gather_rows(tape, hidden, upload(batch.scored));
  return model.decoder->logprobs(
      ctx, hidden, upload(batch.targets),
      {.temperature = options.temperature, .dtype = options.lm_head, .state = state, .chunk = options.head_chunk});
}

}  // namespace mantissa
