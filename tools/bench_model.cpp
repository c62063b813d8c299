// Measurements of a whole model: forward and backward, decode steps, rollouts.
#include <algorithm>
#include <optional>

#include "core/random.h"
#include "nn/optimizer.h"
#include "rl/train/logprobs.h"
#include "tools/bench.h"

namespace mantissa {
namespace {

/// Elements of parameter `index` that `rows` rows are multiplied with: of a mixture's experts no more than they go to.
double elements_met(const Model& model, int index, double rows) {
  const ExpertsConfig& experts = model.config.experts;
  const double elements = double(model.params.layout[ParamId{index}].shape.numel());
  for (const DecoderParams::Layer& layer : model.decoder->params().layers)
    if (layer.router.valid() && (index == layer.gate_up.index || index == layer.down.index))
      return elements * std::min(1.0, rows * double(experts.per_token) / double(experts.count));
  return elements;
}

}  // namespace

/// Forward and backward of one micro-batch, the mean negative log-likelihood of every next token; `update`: and all
/// that makes it an optimizer step, over all ranks.
void Bench::time_training(bool update) {
  const ModelConfig& c = model().config;
  const int64_t s = flags_.sequences, l = flags_.length;
  check(l <= c.max_positions, "--length must be at most the model's max_position_embeddings ", c.max_positions,
        ": got ", l);
  RandomStream random(1, 1);
  TrainBatch batch;
  batch.offsets = batch.response_offsets = {0};
  for (int64_t i = 0; i < s; ++i) {
    for (int64_t t = 0; t < l; ++t) {
      batch.scored.push_back(int32_t(batch.ids.size()));
      batch.ids.push_back(int32_t(random.below(uint32_t(c.vocab_size))));
      batch.targets.push_back(int32_t(random.below(uint32_t(c.vocab_size))));
      batch.positions.push_back(int32_t(t));
    }
    batch.offsets.push_back(int32_t(batch.ids.size()));
    batch.response_offsets.push_back(int32_t(batch.ids.size()));
  }
  const DeviceBatch sent(exec_.backend(), batch, ops::head_chunk(exec_.backend(), c.vocab_size));
  TrainConfig config;
  config.recompute = flags_.recompute;
  LogprobOptions options{.lm_head = dtype_, .residual = dtype_};
  std::optional<Optimizer> optimizer;
  const bool states = flags_.states || update;
  if (states) optimizer.emplace(exec_, model().trained(), OptimConfig{.lr = 0}, ScalerConfig(), 1000000, comm_);
  const ParamSet& trained = model().trained();
  std::optional<ParamWindows> windows;
  if (trained.in_parts()) {
    check(update, "bench: --shard parameters is of update");
    windows.emplace(exec_, comm_, trained);
    options.windows = &*windows;
  }
  const ParamBuffer grads = states ? trained.grad : ParamBuffer(exec_, trained.layout, Dtype::kF32);
  const auto pass = [&](bool overlap) {
    if (update) optimizer->renew_grad();
    options.whole_from = {};
    if (update && overlap) options.whole_from = [&](int unit) { optimizer->begin_sum(unit); };
    {
      Tape tape(exec_, true, config.recompute_tier());
      batch_backward(tape, model(), sent, options, grads, {},
                     [&](Tape& head, const HeadPiece&, const ops::TokenLogprobs& scored) {
                       return ops::affine(head, ops::sum(head, scored.logprobs), -1.0 / double(s * l * comm_.size()));
                     });
    }
    if (windows) windows->clear();
    if (!update) return;
    optimizer->step();
  };
  const auto body = [&] { pass(flags_.overlap); };
  if (update && flags_.deterministic && comm_.size() > 1 && !windows) {
    pass(false);  // chooses the plans of products
    std::vector<float> sums[2];
    for (const bool overlap : {false, true}) {
      pass(overlap);
      for (int unit = 0; unit < trained.layout.units(); ++unit)
        for (const float x : to_host<float>(trained.reduced.unit(unit))) sums[overlap].push_back(x);
    }
    check(sums[0] == sums[1], "bench update: sums of gradients beside backward differ from those after it");
  }
  double weights = c.tied_head ? double(c.vocab_size * c.width) : 0.0;  // elements of matrices that are multiplied by
  const std::vector<ParamInfo>& params = model().params.layout.params();
  for (size_t i = 0; i < params.size(); ++i)
    if (params[i].decay && params[i].name != "embedding.weight") weights += elements_met(model(), int(i), 1);
  const double attention =
      double(c.layers) * 2 * double(l) * double(c.heads.query) * c.heads.size;  // 2 causal products
  const double flops = 3 * double(s * l) * (2 * weights + attention);
  const double ideal = 1000.0 * flops / gemm_ceiling();
  report(update ? "update" : "train",
         str("S=", s, ",L=", l, ",recompute=", flags_.recompute, flags_.states ? ",states" : "",
             update && !flags_.overlap ? ",no-overlap" : "", windows ? ",shard=parameters" : "",
             update && flags_.offload ? ",offload" : ""),
         time(body), double(s * l), ideal);
}

double Bench::weight_bytes() {
  double elements = 0;
  const std::vector<ParamInfo>& params = model().params.layout.params();
  for (size_t i = 0; i < params.size(); ++i)
    if (params[i].name != "embedding.weight" || model().config.tied_head)
      elements += elements_met(model(), int(i), double(flags_.batch));
  return elements * double(size_of(dtype_));
}

double Bench::kv_bytes(double tokens) {
  const ModelConfig& c = model().config;
  return tokens * double(c.layers) * 2 * double(c.heads.kv) * c.heads.size * double(size_of(dtype_));
}

std::vector<Prompt> Bench::random_prompts(int64_t count, int64_t tokens, uint64_t stream) {
  RandomStream random(1, stream);
  std::vector<Prompt> prompts(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    Prompt& p = prompts[size_t(i)];
    p.id = i;
    for (int64_t t = 0; t < tokens; ++t) p.ids.push_back(int32_t(random.below(uint32_t(model().config.vocab_size))));
  }
  return prompts;
}

EnginePrecision Bench::engine_precision() {
  EnginePrecision precision = flags_.model.engine(model());
  precision.match = match();
  return precision;
}

/// The engine itself: prompts of random tokens, no stop token. A step is timed from one poll of `cancelled` to the
/// next.
void Bench::decode() {
  const ModelConfig& c = model().config;
  check(flags_.context + flags_.steps + 2 <= c.max_positions,
        "--context and --steps must fit the model's max_position_embeddings ", c.max_positions, ": got ",
        flags_.context, " and ", flags_.steps);
  copy_ceiling();
  const std::vector<Prompt> prompts = random_prompts(flags_.batch, flags_.context, 2);
  RolloutConfig rollout;
  rollout.memory_fraction = 0.9;
  rollout.max_batch = flags_.batch;
  // The first token comes from the prefill, and the first decode step warms up.
  rollout.sampling.max_new_tokens = flags_.steps + 2;
  Engine engine(model(), rollout, engine_precision(), flags_.deterministic);
  std::vector<double> ms;
  int64_t seen = 0;
  Clock::time_point last;
  GenerateOptions options = generate_options(engine, rollout, {}, 0);
  options.cancelled = [&] {
    const Clock::time_point now = Clock::now();
    if (engine.stats().decode_steps > seen && seen > 0) ms.push_back(milliseconds(now - last));
    seen = engine.stats().decode_steps;
    last = now;
    return false;
  };
  exec_.backend().reset_peak();
  engine.generate(requests_for(prompts, 1), options);
  const double kv = double(flags_.batch) * kv_bytes(double(flags_.context) + double(flags_.steps) / 2);
  const double ideal = 1000.0 * (weight_bytes() + kv) / copy_ceiling();
  report("decode", str("B=", flags_.batch, ",context=", flags_.context), ms, double(flags_.batch), ideal);
}

/// The engine from the first prefill to the last token: prompts of random tokens, no stop token, so every sample has
/// --steps tokens. The masters, moments and gradients of training lie beside it, as in a run. tokens_per_s counts
/// generated tokens; the ideal reads the weights once a step and every sample's cache up to its length.
void Bench::rollout() {
  const ModelConfig& c = model().config;
  check(flags_.length + flags_.steps <= c.max_positions,
        "--length and --steps must fit the model's max_position_embeddings ", c.max_positions, ": got ", flags_.length,
        " and ", flags_.steps);
  copy_ceiling();
  const Optimizer optimizer(exec_, model().params, OptimConfig(), ScalerConfig(), 1000000, comm_);
  const std::vector<Prompt> prompts = random_prompts(flags_.sequences, flags_.length, 3);
  const std::vector<Request> requests = requests_for(prompts, flags_.n);
  RolloutConfig config;
  config.memory_fraction = 0.75;  // leaves the activations of training what they need
  config.max_batch = flags_.batch;
  config.sampling.max_new_tokens = flags_.steps;
  Engine engine(model(), config, engine_precision(), flags_.deterministic);
  GenerateOptions options = generate_options(engine, config, {}, 0);
  options.sampling.max_new_tokens = 2;
  engine.generate(requests, options);  // warm-up: the plans of products; graphs are recorded in the first run
  options.sampling.max_new_tokens = flags_.steps;
  exec_.backend().reset_peak();
  std::vector<double> ms;
  for (int64_t i = 0; i < flags_.repeat; ++i) {
    const Clock::time_point start = Clock::now();
    engine.generate(requests, options);
    ms.push_back(milliseconds(Clock::now() - start));
  }
  const double samples = double(flags_.sequences * flags_.n), tokens = samples * double(flags_.steps);
  const double kv = tokens * kv_bytes(double(flags_.length) + double(flags_.steps) / 2);
  const double steps = tokens / double(std::min(flags_.batch, flags_.sequences * flags_.n));
  const double ideal = 1000.0 * (weight_bytes() * steps + kv) / copy_ceiling();
  report("rollout",
         str("prompts=", flags_.sequences, ",n=", flags_.n, ",length=", flags_.length, ",new=", flags_.steps,
             ",B=", flags_.batch),
         ms, tokens, ideal);
}

}  // namespace mantissa
