// The log-prob routine of the training path: one packed micro-batch through the decoder to the log-probs and entropies
// of its scored tokens. Training, the scoring of rollouts, and the programs `score` and `bench` all call this one.
#pragma once

#include "nn/model.h"
#include "rl/train/device_batch.h"

namespace mantissa {

struct LogprobOptions {
  double temperature = 1.0;
  Dtype lm_head = Dtype::kF32;   // see ops::HeadOptions
  Dtype residual = Dtype::kF32;  // type of the residual stream
  int64_t head_chunk = 0;        // tokens whose logits exist at once; 0: see ops::HeadOptions
  /// The parameters to score with (null: the model's), e.g. the reference of a KL term.
  const ParamSet* params = nullptr;
  std::vector<Tensor>* expert_offsets = nullptr;  // see ForwardContext
};

/// Log-probs and entropies of batch.targets at batch.scored, [N] each. `grads` are the sinks of parameter gradients
/// (null: none); `state` is a StepState whose loss scale multiplies them (undefined: 1). The caller has checked ids and
/// positions.
ops::TokenLogprobs batch_logprobs(Tape& tape, const Model& model, const DeviceBatch& batch,
                                  const LogprobOptions& options, const ParamBuffer* grads = nullptr,
                                  const Tensor& state = {});

}  // namespace mantissa
