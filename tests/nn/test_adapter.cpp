// Adapters on a decoder: bits beside the model without one, gradients, padding, merging; what an optimizer holds.
#include "nn/adapter.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "core/registry.h"
#include "nn/adapt.h"
#include "nn/optimizer.h"
#include "tests/support/tiny_model.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

const std::vector<int32_t> kIds = {5, 17, 60, 3, 3, 41, 8, 22, 9, 30};
const std::vector<int32_t> kTargets = {17, 60, 3, 3, 41, 8, 22, 9, 30, 1};

std::unique_ptr<Model> model_of(Dtype dtype, const AdapterConfig* adapter = nullptr) {
  ModelConfig config = tiny_model();
  config.qkv_bias = true;
  auto model = random_model(config, cpu(), dtype, false, 17);
  if (!adapter) return model;
  add_adapter(*model, *adapter);
  draw_adapter(*model, "kaiming", 4);
  return model;
}

/// Values other than zero in B, so that the update does something.
void fill_b(const Model& model) {
  const ParamSet& set = model.adapter->params;
  uint64_t stream = 0;
  for (const AdapterPart& part : adapter_parts(model.config, *model.adapter)) {
    RandomStream random(6, stream++);
    Tensor b(cpu(), {part.rows.size(), model.adapter->config.padded_rank()}, set.compute.dtype());
    dispatch_floating(b.dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (int64_t i = 0; i < b.numel(); ++i)
        b.data<T>()[i] =
            round_to<T>(Compute<T>(i % b.size(1) < model.adapter->config.rank ? 0.2f * random.uniform() - 0.1f : 0.0f));
    });
    set.compute.store(set.layout, part.b, part.b_row, b);
  }
}

struct Scored {
  std::vector<float> logprobs;
  double loss = 0;
};

Scored score(const Model& model, const ParamBuffer* grads = nullptr, Recompute recompute = Recompute::kNone,
             std::function<void(int)> whole_from = {}) {
  Exec exec(cpu());
  Tape tape(exec, grads != nullptr, recompute);
  const Dtype dtype = model.params.compute.dtype();
  ForwardContext ctx;
  ctx.tape = &tape;
  ctx.params = &model.params;
  ctx.adapter = model.adapter.get();
  ctx.grads = grads;
  ctx.whole_from = std::move(whole_from);
  ctx.residual = dtype;
  const int64_t tokens = int64_t(kIds.size());
  std::vector<int32_t> positions;
  for (int32_t t = 0; t < int32_t(tokens); ++t) positions.push_back(t);
  ctx.ids = tensor_from<int32_t>(cpu(), kIds, {tokens});
  ctx.positions = tensor_from<int32_t>(cpu(), positions, {tokens});
  ctx.attention.offsets = tensor_from<int32_t>(cpu(), std::vector<int32_t>{0, 4, int32_t(tokens)}, {3});
  ops::HeadOptions head;
  head.dtype = dtype;
  const Var logprobs =
      model.decoder->logprobs(ctx, model.decoder->forward(ctx), tensor_from<int32_t>(cpu(), kTargets, {tokens}), head)
          .logprobs;
  const Var loss = ops::affine(tape, ops::sum(tape, logprobs), -1.0 / double(tokens));
  Scored out{to_host_float(logprobs.value()), 0};
  out.loss = loss.dtype() == Dtype::kF64 ? to_host<double>(loss.value())[0] : double(to_host_float(loss.value())[0]);
  if (grads) tape.backward(loss);
  return out;
}

AdapterConfig all_linear(int64_t rank) {
  return {.rank = rank, .alpha = 12, .targets = parse_targets({"all-linear"}, "test")};
}

TEST(Adapters, AFreshOneChangesNoBit) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    const AdapterConfig config = all_linear(5);
    EXPECT_EQ(score(*model_of(dtype)).logprobs, score(*model_of(dtype, &config)).logprobs);
    const auto moved = model_of(dtype, &config);
    fill_b(*moved);
    EXPECT_NE(score(*model_of(dtype)).logprobs, score(*moved).logprobs);
  }
}

/// Of several parts of a matrix, of one, of all.
TEST(Adapters, WhatIsTrainedIsCountedWithoutPadding) {
  for (const int world_size : {1, 3})
    for (const int64_t rank : {1, 5, 16, 17}) {
      const ModelConfig model = tiny_model();
      const Adapter adapter(model, {.rank = rank, .targets = parse_targets({"all-linear"}, "test")}, world_size);
      int64_t count = 0;
      for (const AdapterPart& part : adapter_parts(model, adapter)) count += rank * (part.inputs + part.rows.size());
      EXPECT_EQ(adapter.trained(), count) << "rank " << rank << ", world size " << world_size;
    }
}

TEST(Adapters, GradientsThatAreWrittenHaveTheBitsOfThoseAddedToZeros) {
  for (const Strings& names : {Strings{"all-linear"}, Strings{"q_proj", "v_proj", "up_proj"}, Strings{"o_proj"}}) {
    const AdapterConfig config{.rank = 3, .alpha = 12, .targets = parse_targets(names, "test")};
    const auto model = model_of(Dtype::kF16, &config);
    fill_b(*model);
    const ParamLayout& layout = model->adapter->params.layout;
    Exec exec(cpu());
    const ParamBuffer added(exec, layout, Dtype::kF32), written(exec, layout, Dtype::kF32);
    for (size_t p = 0; p < layout.params().size(); ++p) {
      Tensor stale = written[ParamId{int(p)}];
      MANTISSA_RUN(exec, fill, stale, double(NAN));
    }
    written.set_fresh(true);
    for (int pass = 0; pass < 2; ++pass) {  // the second adds
      score(*model, &added);
      score(*model, &written);
      EXPECT_EQ(to_host<float>(written.flat()), to_host<float>(added.flat())) << names[0] << ", pass " << pass;
    }
  }
}

TEST(Adapters, GradientsAgreeWithDifferencesInFp64) {
  for (const Strings& names : {Strings{"all-linear"}, Strings{"q_proj", "v_proj", "up_proj"}}) {
    const AdapterConfig config{
        .rank = 3, .alpha = 12, .rank_stabilized = true, .targets = parse_targets(names, "test")};
    const auto model = model_of(Dtype::kF64, &config);
    fill_b(*model);
    const ParamSet& set = model->adapter->params;
    Exec exec(cpu());
    const ParamBuffer grads(exec, set.layout, Dtype::kF64);
    score(*model, &grads);
    int compared = 0;
    for (size_t p = 0; p < set.layout.params().size(); ++p) {
      const Tensor weights = set.compute[ParamId{int(p)}], grad = grads[ParamId{int(p)}];
      for (int64_t i = 0; i < weights.numel(); i += 1 + weights.numel() / 9) {
        double& x = weights.data<double>()[i];
        const double was = x, step = 1e-5;
        x = was + step;
        const double above = score(*model).loss;
        x = was - step;
        const double below = score(*model).loss;
        x = was;
        EXPECT_NEAR(grad.data<double>()[i], (above - below) / (2 * step), 1e-7)
            << set.layout.params()[p].name << " " << i;
        compared += grad.data<double>()[i] != 0;
      }
    }
    EXPECT_GT(compared, 15);
  }
}

TEST(Adapters, EveryRecomputeTierGivesTheSameBits) {
  const AdapterConfig config = all_linear(8);
  const auto model = model_of(Dtype::kF16, &config);
  fill_b(*model);
  Exec exec(cpu());
  const ParamSet& set = model->adapter->params;
  const ParamBuffer plain(exec, set.layout, Dtype::kF32);
  const std::vector<float> logprobs = score(*model, &plain).logprobs;
  for (const Recompute tier : {Recompute::kElementwise, Recompute::kMlp, Recompute::kFull}) {
    const ParamBuffer grads(exec, set.layout, Dtype::kF32);
    EXPECT_EQ(score(*model, &grads, tier).logprobs, logprobs);
    EXPECT_EQ(to_host<float>(grads.flat()), to_host<float>(plain.flat()));
  }
}

TEST(Adapters, UnitsAreWholeWhenBackwardSaysSo) {
  const AdapterConfig config = all_linear(8);
  const auto model = model_of(Dtype::kF16, &config);
  fill_b(*model);
  Exec exec(cpu());
  const ParamLayout& layout = model->adapter->params.layout;
  const ParamBuffer grads(exec, layout, Dtype::kF32);
  std::vector<std::vector<float>> seen;
  const auto from = [&](int unit) {
    return to_host<float>(grads.flat().slice(layout.extent(unit).begin, layout.numel()));
  };
  score(*model, &grads, Recompute::kNone, [&](int unit) {
    EXPECT_EQ(unit, layout.units() - 1 - int(seen.size()));
    seen.push_back(from(unit));
  });
  ASSERT_EQ(int(seen.size()), layout.units());
  for (int unit = 0; unit < layout.units(); ++unit) EXPECT_EQ(seen[size_t(layout.units() - 1 - unit)], from(unit));
}

TEST(Adapters, TheOptimizerHoldsTheAdapterAlone) {
  const AdapterConfig config = all_linear(5);
  auto model = model_of(Dtype::kF16);
  add_adapter(*model, config, true);
  draw_adapter(*model, "gaussian", 4);
  Exec exec(cpu());
  ParamSet& set = model->trained();
  ASSERT_EQ(&set, &model->adapter->params);
  Optimizer optimizer(exec, set, {.lr = 1e-2, .weight_decay = 0.1}, {.mode = "off"}, 10);
  for (const ParamBuffer* buffer : {&model->params.master, &model->params.m, &model->params.v, &model->params.grad})
    EXPECT_FALSE(buffer->defined());
  EXPECT_EQ(set.m.flat().numel(), set.layout.numel());

  const std::vector<float> base = to_host_float(model->params.compute.flat());
  const double before = score(*model).loss;
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    score(*model, &set.grad);
    EXPECT_FALSE(optimizer.step().skipped);
  }
  EXPECT_LT(score(*model).loss, before);
  EXPECT_EQ(to_host_float(model->params.compute.flat()), base) << "the model is frozen";
  for (const AdapterPart& part : adapter_parts(model->config, *model->adapter)) {  // rank 5 of 16
    for (const float x : to_host_float(set.compute[part.a].slice(part.a_row + 5, part.a_row + 16))) EXPECT_EQ(x, 0.0f);
    const std::vector<float> b = to_host_float(set.compute[part.b]);
    for (size_t i = 0; i < b.size(); ++i) EXPECT_TRUE(i % 16 < 5 || b[i] == 0.0f);
  }
}

TEST(Adapters, MergingAddsTheUpdate) {
  const AdapterConfig config{.rank = 4, .alpha = 6, .targets = parse_targets({"k_proj", "down_proj"}, "test")};
  const auto model = model_of(Dtype::kF32, &config);
  fill_b(*model);
  Exec exec(cpu());
  const std::vector<float> together = score(*model).logprobs;
  const ParamBuffer merged(exec, model->params.layout, Dtype::kF32);
  merge_adapter(exec, *model, model->params.compute, merged);
  const std::vector<float> before = to_host<float>(model->params.compute.flat());
  EXPECT_NE(to_host<float>(merged.flat()), before);
  model->params.compute = merged;
  model->adapter.reset();
  const std::vector<float> alone = score(*model).logprobs;
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(alone[i], together[i], 2e-6) << i;
  // Only rows of what is adapted have moved.
  const DecoderParams::Layer& layer = model->decoder->params().layers[0];
  const ModelConfig& c = model->config;
  const int64_t q = int64_t(c.heads.query) * c.heads.size;
  const auto rows = [&](ParamId id, int64_t begin, int64_t end) {
    const ParamInfo& info = model->params.layout[id];
    const float* of = before.data() + info.element(begin);
    return std::vector<float>(of, of + (end - begin) * info.shape[1]);
  };
  EXPECT_EQ(to_host<float>(merged[layer.qkv].slice(0, q)), rows(layer.qkv, 0, q));
  EXPECT_EQ(to_host<float>(merged[layer.o]), rows(layer.o, 0, c.width));
  EXPECT_NE(to_host<float>(merged[layer.down]), rows(layer.down, 0, c.width));
}

TEST(Adapters, TheSameConfigKeepsItsBuffers) {
  const AdapterConfig config = all_linear(4);
  const auto model = model_of(Dtype::kF16, &config);
  const void* place = model->adapter->params.compute.flat().raw();
  add_adapter(*model, config);
  EXPECT_EQ(model->adapter->params.compute.flat().raw(), place);
  const std::shared_ptr<Adapter> held = model->adapter;
  add_adapter(*model, all_linear(8));
  EXPECT_NE(model->adapter, held);
}

}  // namespace
}  // namespace mantissa
