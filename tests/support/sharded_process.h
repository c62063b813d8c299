// One process of a run in miniature, for tests of what several do together: a small model trained on sequences that are
// shared out, and what is compared of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/registry.h"
#include "nn/model.h"
#include "nn/optimizer.h"
#include "tests/support/ranks.h"

namespace mantissa {

inline ModelConfig small_config(bool tied) {
  ModelConfig c;
  c.architecture = "qwen3";
  c.vocab_size = 61;
  c.width = 24;
  c.layers = 3;
  c.heads = {.query = 4, .kv = 2, .size = 8};
  c.feed_forward = 40;
  c.max_positions = 64;
  c.qk_norm = true;
  c.tied_head = tied;
  return c;
}

/// A mixture of eight experts in the first and the last of its layers.
inline ModelConfig small_mixture(bool tied) {
  ModelConfig c = small_config(tied);
  c.architecture = "qwen3_moe";
  c.experts = {.count = 8, .per_token = 3, .feed_forward = 16, .normalise = true, .dense_layers = {1}};
  return c;
}

inline constexpr int kSequences = 6, kLength = 11;

/// One process of a run, or all of it: trains on the sequences whose number modulo the processes is its own. Its
/// `overlap`: sums gradients in the backward of the last of them. With weights in parts, or experts that a row of the
/// comm shares out, those who have fewer join.
class ShardedProcess {
 public:
  ShardedProcess(Comm& comm, Dtype compute, bool tied = false, uint64_t seed = 3,
                 Placement placement = Placement::kDevice, Sharding sharding = Sharding::kOptimizer)
      : ShardedProcess(comm, compute, small_config(tied), seed, placement, sharding) {}
  ShardedProcess(Comm& comm, Dtype compute, const ModelConfig& config, uint64_t seed = 3,
                 Placement placement = Placement::kDevice, Sharding sharding = Sharding::kOptimizer)
      : comm_(comm) {
    const Shard shard{comm.rank(), comm.size(), comm.row().size()};
    model = random_model(config, cpu(), compute, true, seed, shard, placement, sharding);
    model->decoder->share_experts(comm.row());
    OptimConfig optim;
    optim.lr = 1e-3;
    optim.weight_decay = 0.1;
    optim.eps = 1e-4;  // the noise of summation stays noise where gradients are tiny
    optim.grad_clip = 0.5;
    ScalerConfig scaler;
    scaler.init_scale = 64;
    optimizer.emplace(exec, model->params, optim, scaler, 100, comm);
    if (model->params.in_parts()) windows = std::make_unique<ParamWindows>(exec, comm, model->params);
  }

  /// The mean loss over all sequences; gradients are left in params.grad.
  double forward_backward(uint64_t step) {
    begin_gradients();
    double loss = 0;
    const int ranks = comm_.size(), rounds = (sequences + ranks - 1) / ranks;
    const bool together = windows || model->decoder->shares_experts();
    for (int round = 0; round < rounds; ++round) {
      const int s = comm_.rank() + round * ranks;
      const bool last = overlap && (together ? round + 1 == rounds : s + ranks >= sequences);
      if (s < sequences)
        loss += sequence(step, s, last);
      else if (together)
        join(last);
    }
    if (windows) windows->clear();
    if (overlap) optimizer->begin_sum(0);
    return comm_.reduce({loss})[0];
  }
  StepReport step(uint64_t number) {
    last_loss = forward_backward(number);
    return optimizer->step();
  }

  /// All of a buffer on rank 0, parameter by parameter.
  std::vector<float> values(const ParamBuffer& parts) {
    const ParamBuffer whole = gather_whole(exec, comm_, model->params, parts);
    std::vector<float> out;
    if (!comm_.main()) return out;
    for (size_t i = 0; i < model->params.layout.params().size(); ++i)
      for (const float x : to_host_float(whole[ParamId{int(i)}])) out.push_back(x);
    return out;
  }

  int sequences = kSequences;
  Recompute recompute = Recompute::kNone;
  bool overlap = false;
  bool renew = false;      // gradients are written where they can be, over what is not a number
  std::vector<int> begun;  // what backward called whole_from with
  Exec exec{cpu()};
  std::unique_ptr<Model> model;
  std::optional<Optimizer> optimizer;
  std::unique_ptr<ParamWindows> windows;  // null: weights are whole
  double last_loss = 0;

 private:
  void begin_gradients() {
    if (!renew) return optimizer->zero_grad();
    const ParamBuffer& grad = model->params.grad;
    for (size_t i = 0; i < model->params.layout.params().size() && grad.defined(); ++i) {
      Tensor stale = grad[ParamId{int(i)}];
      MANTISSA_RUN(exec, fill, stale, double(NAN));
    }
    optimizer->renew_grad();
  }
  ForwardContext context(Tape& tape, bool last) {
    ForwardContext ctx;
    ctx.tape = &tape;
    ctx.params = &model->params;
    ctx.grads = &model->params.grad;
    ctx.windows = windows.get();
    if (last)
      ctx.whole_from = [this](int unit) {
        optimizer->begin_sum(unit);
        begun.push_back(unit);
      };
    return ctx;
  }
  void join(bool last) {
    Tape tape(exec, true, recompute);
    model->decoder->join(context(tape, last));
  }
  double sequence(uint64_t step, int number, bool last) {
    RandomStream random(step, uint64_t(number));
    std::vector<int32_t> ids, positions;
    for (int i = 0; i <= kLength; ++i) {
      ids.push_back(int32_t(random.below(61)));
      positions.push_back(i);
    }
    const std::vector<int32_t> targets(ids.begin() + 1, ids.end());
    ids.pop_back();
    positions.pop_back();
    Tape tape(exec, true, recompute);
    ForwardContext ctx = context(tape, last);
    ctx.ids = tensor_from<int32_t>(cpu(), ids, {kLength});
    ctx.positions = tensor_from<int32_t>(cpu(), positions, {kLength});
    ctx.attention.offsets = tensor_from<int32_t>(cpu(), std::vector<int32_t>{0, kLength}, {2});
    ctx.attention.longest = kLength;
    const Var hidden = model->decoder->forward(ctx);
    const Var logprobs = model->decoder
                             ->logprobs(ctx, hidden, tensor_from<int32_t>(cpu(), targets, {kLength}),
                                        {.dtype = Dtype::kF32, .state = optimizer->state()})
                             .logprobs;
    const Var loss = ops::affine(tape, ops::sum(tape, logprobs), -1.0 / (kSequences * kLength));
    tape.backward(loss);
    return to_host_float(loss.value())[0];
  }

  Comm& comm_;
};

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) worst = std::max(worst, std::abs(double(a[i]) - b[i]));
  return worst;
}

/// What is compared of a run of some steps.
struct Outcome {
  std::vector<double> losses, norms;
  std::vector<float> gradient, master, m, v, compute;
};

inline void expect_same(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_EQ(a.gradient, b.gradient);
  EXPECT_EQ(a.master, b.master);
  EXPECT_EQ(a.m, b.m);
  EXPECT_EQ(a.v, b.v);
  EXPECT_EQ(a.compute, b.compute);
}

/// Of a process that was not used before.
inline Outcome train(ShardedProcess& p, Comm& comm) {
  const ParamSet& set = p.model->params;
  Outcome out;
  for (uint64_t step = 0; step < 4; ++step) {
    out.norms.push_back(p.step(step).grad_norm);
    out.losses.push_back(p.last_loss);
    if (step == 0) out.gradient = p.values(set.reduced);
  }
  out.master = p.values(set.master);
  out.m = p.values(set.m);
  out.v = p.values(set.v);
  ParamBuffer weights = set.compute;
  if (set.in_parts()) {
    weights = ParamBuffer(p.exec, set.layout, set.compute.dtype());
    gather_weights(p.exec, comm, set, weights);
  }
  for (size_t i = 0; i < set.layout.params().size(); ++i)
    for (const float x : to_host_float(weights[ParamId{int(i)}])) out.compute.push_back(x);
  return out;
}

inline Outcome train(Comm& comm, Dtype compute, bool tied, Placement placement = Placement::kDevice,
                     Sharding sharding = Sharding::kOptimizer, int sequences = kSequences,
                     Recompute recompute = Recompute::kNone) {
  ShardedProcess p(comm, compute, tied, 3, placement, sharding);
  p.sequences = sequences;
  p.recompute = recompute;
  return train(p, comm);
}

/// Runs fn(comm) on each of some ranks; nothing may be thrown.
inline void on_ranks(int size, const std::function<void(Comm&)>& fn) {
  if (size == 1) return fn(single_comm());
  const std::vector<std::string> errors = run_ranks(size, fn);
  for (size_t r = 0; r < errors.size(); ++r) EXPECT_EQ(errors[r], "") << "rank " << r;
}

}  // namespace mantissa
