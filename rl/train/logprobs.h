// The log-prob routine of the training path: one packed micro-batch through the decoder to the log-probs and entropies
// of its scored tokens. Training, the scoring of rollouts, and the programs `score` and `bench` all take this path.
#pragma once

#include <functional>

#include "nn/model.h"
#include "rl/train/device_batch.h"

namespace mantissa {

struct LogprobOptions {
  double temperature = 1.0;
  Dtype lm_head = Dtype::kF32;                    // see ops::HeadOptions
  Dtype residual = Dtype::kF32;                   // type of the residual stream
  int64_t head_chunk = 0;                         // tokens whose logits exist at once; 0: see ops::HeadOptions
  std::vector<Tensor>* expert_offsets = nullptr;  // see ForwardContext
  ParamWindows* windows = nullptr;                // of the set that is read, where it is in parts
  bool replay_routes = false;                     // rows go to the experts of batch.routes (moe.replay)
  Tensor same_routes = {};                        // receives where the model's own agree with them (ops::route)
  bool reference = false;  // score with the reference of a KL term: Model::reference, or a model without its adapter
  ops::DropoutKeys dropout = {};                  // training with lora.dropout
  std::function<void(int unit)> whole_from = {};  // see ForwardContext
};

/// Log-probs and entropies of batch.targets at batch.scored, [N] each. `grads` are the sinks of parameter gradients
/// (null: none); `state` is a StepState whose loss scale multiplies them (undefined: 1). That ids and positions are in
/// range is for the caller to check.
ops::TokenLogprobs batch_logprobs(Tape& tape, const Model& model, const DeviceBatch& batch,
                                  const LogprobOptions& options, const ParamBuffer* grads = nullptr,
                                  const Tensor& state = {});
/// Takes part in batch_logprobs() of other ranks and, on a tape that records, in its backward, with no token of its own
/// (Decoder::join).
void join_logprobs(Tape& tape, const Model& model, const LogprobOptions& options, const ParamBuffer* grads = nullptr);

/// The loss of a piece of a batch, recorded on the tape that it is given: pieces' losses add up to the batch's.
using PieceLoss = std::function<Var(Tape&, const HeadPiece&, const ops::TokenLogprobs&)>;

/// Forward, loss and backward of a batch: the gradients of the sum of its pieces' losses are added to `grads`. `tape`
/// is fresh. The decoder runs forward on all of it, then each piece goes forward and back through head and loss, then
/// the decoder back: a piece's logits are still there when their gradient is made, and those of one piece at a time.
void batch_backward(Tape& tape, const Model& model, const DeviceBatch& batch, const LogprobOptions& options,
                    const ParamBuffer& grads, const Tensor& state, const PieceLoss& loss);

}  // namespace mantissa
