// AdamW with the loss scaler: the state machine step by step, unscale before clip, skips that advance
// nothing, schedules.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/registry.h"
#include "nn/optimizer.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// Two units: a matrix (decayed) and a norm (not decayed) in the first, a matrix in the second.
class Training {
 public:
  explicit Training(Dtype compute, OptimConfig optim = {}, ScalerConfig scaler = {}, int64_t total = 100) {
    ParamLayout& layout = params.layout;
    const int first = layout.add_unit("layer"), second = layout.add_unit("head");
    matrix = layout.add(first, "layer.matrix", {2, 3}, true);
    norm = layout.add(first, "layer.norm", {3}, false);
    head = layout.add(second, "head", {4}, true);
    layout.finish();
    params.compute = ParamBuffer(exec, layout, compute);
    fill(params.compute, 1.0);
    optimizer.emplace(exec, params, optim, scaler, total);
  }

  void fill(const ParamBuffer& buffer, double value) {
    for (const ParamId id : {matrix, norm, head}) {
      Tensor t = buffer[id];
      MANTISSA_RUN(exec, fill, t, value);
    }
  }
  /// A step with scaled gradients `value` everywhere.
  StepReport step(float value) {
    optimizer->zero_grad();
    fill(params.grad, value);
    return optimizer->step();
  }
  float scale() const { return optimizer->read_state().loss_scale; }
  float master(ParamId id) const { return params.master[id].data<float>()[0]; }

  Exec exec{cpu()};
  ParamSet params;
  ParamId matrix, norm, head;
  std::optional<Optimizer> optimizer;
};

ScalerConfig quick_scaler() {
  ScalerConfig s;
  s.init_scale = 8;
  s.growth_interval = 3;
  s.min_scale = 2;
  s.max_skips_in_row = 4;
  return s;
}

// ---- scaler -----------------------------------------------------------------------------------------------

TEST(Scaler, ModesByComputeType) {
  const auto start = [](const char* mode, Dtype compute) {
    ScalerConfig config;
    config.mode = mode;
    return resolve_scaler(config, compute);
  };
  EXPECT_TRUE(start("auto", Dtype::kF16).rule.dynamic);
  EXPECT_EQ(start("auto", Dtype::kF16).scale, 65536.0f);
  for (const Dtype wide : {Dtype::kBF16, Dtype::kF32}) {
    EXPECT_FALSE(start("auto", wide).rule.dynamic);
    EXPECT_EQ(start("auto", wide).scale, 1.0f);
  }
  EXPECT_TRUE(start("dynamic", Dtype::kBF16).rule.dynamic);
  EXPECT_FALSE(start("static", Dtype::kF32).rule.dynamic);
  EXPECT_EQ(start("static", Dtype::kF32).scale, 65536.0f);
  EXPECT_EQ(start("off", Dtype::kF16).scale, 1.0f);
  EXPECT_FALSE(start("off", Dtype::kF16).rule.dynamic);
  EXPECT_THROW(start("on", Dtype::kF16), Error);
  ScalerConfig below;
  below.init_scale = 1;
  below.min_scale = 2;
  EXPECT_EQ(message_of([&] { resolve_scaler(below, Dtype::kF16); }),
            "scaler.init_scale: must be at least scaler.min_scale = 2, got 1");
}

TEST(Scaler, GrowsAfterCleanStepsOnly) {
  Training t(Dtype::kF16, {}, quick_scaler());
  const float after[] = {8, 8, 16, 16, 16, 32};
  for (int i = 0; i < 6; ++i) {
    const float before = t.scale();
    const StepReport report = t.step(1.0f);
    EXPECT_FALSE(report.skipped);
    EXPECT_EQ(report.loss_scale, before) << "the report names the scale the gradients were made with";
    EXPECT_EQ(t.scale(), after[i]) << "step " << i;
  }
  EXPECT_EQ(t.optimizer->read_state().good_steps, 0);
}

TEST(Scaler, OverflowRestartsTheCount) {
  Training t(Dtype::kF16, {}, quick_scaler());
  t.step(1.0f);
  t.step(1.0f);
  EXPECT_EQ(t.optimizer->read_state().good_steps, 2);
  const StepReport skipped = t.step(kInf);
  EXPECT_TRUE(skipped.skipped);
  EXPECT_FALSE(std::isfinite(skipped.grad_norm));
  EXPECT_EQ(skipped.skips_in_row, 1);
  EXPECT_EQ(t.scale(), 4.0f);
  EXPECT_EQ(t.optimizer->read_state().good_steps, 0);
  t.step(1.0f);
  t.step(1.0f);
  EXPECT_EQ(t.scale(), 4.0f) << "two clean steps after an overflow are not three";
  t.step(1.0f);
  EXPECT_EQ(t.scale(), 8.0f);
}

TEST(Scaler, FloorSkipsInRowAndDiagnosis) {
  Training t(Dtype::kF16, {}, quick_scaler());
  const float after[] = {4, 2, 2, 2};
  for (int i = 0; i < 4; ++i) {
    const StepReport report = t.step(std::nanf(""));
    EXPECT_EQ(report.skips_in_row, i + 1);
    EXPECT_EQ(t.scale(), after[i]);
  }
  EXPECT_EQ(t.step(1.0f).skips_in_row, 0);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(t.step(kInf).skips_in_row, i + 1);
  try {
    t.step(kInf);
    FAIL() << "five skips in a row must stop the run";
  } catch (const Error& e) {
    const std::string text = e.what();
    for (const char* part : {"5 steps in a row", "max_skips_in_row = 4", "9 skips and 1 steps", "loss scale is now 2",
                             "as low as scaler.min_scale lets it go", "non-finite tensor", "learning rate"})
      EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
}

TEST(Scaler, AScaleThatNeverFallsNamesWhy) {
  ScalerConfig config = quick_scaler();
  config.backoff_factor = 1;
  for (const double min_scale : {2.0, 8.0}) {
    config.min_scale = min_scale;
    Training t(Dtype::kF16, {}, config);
    for (int i = 0; i < 4; ++i) t.step(kInf);
    EXPECT_NE(message_of([&] {
                t.step(kInf);
              }).find("is now 8, which scaler.backoff_factor: 1 never lowers: lower backoff_factor."),
              std::string::npos);
  }
}

TEST(Scaler, CeilingHolds) {
  ScalerConfig config;
  config.init_scale = double(1 << 24);
  config.growth_interval = 1;
  Training t(Dtype::kF16, {}, config);
  t.step(1.0f);
  EXPECT_EQ(t.scale(), float(1 << 24));
}

TEST(Scaler, FixedScalesSkipButNeverMove) {
  for (const char* mode : {"off", "static"}) {
    ScalerConfig config = quick_scaler();
    config.mode = mode;
    Training t(Dtype::kF16, {}, config);
    const float fixed = mode == std::string("off") ? 1.0f : 8.0f;
    for (int i = 0; i < 5; ++i) t.step(1.0f);
    EXPECT_EQ(t.scale(), fixed);
    EXPECT_TRUE(t.step(kInf).skipped);
    EXPECT_EQ(t.scale(), fixed);
  }
}

// ---- step -------------------------------------------------------------------------------------------------

TEST(Optimizer, UnscalesThenClips) {
  // 13 elements of gradient 3 (scaled by 8): the norm is 3 sqrt(13), clipped to 1. Clipping the scaled
  // gradient first would give another factor.
  OptimConfig optim;
  optim.lr = 0.1;
  optim.grad_clip = 1.0;
  Training t(Dtype::kF16, optim, quick_scaler());
  const StepReport report = t.step(24.0f);
  const double norm = 3.0 * std::sqrt(13.0);
  EXPECT_NEAR(report.grad_norm, norm, 1e-5);
  EXPECT_NEAR(t.optimizer->read_state().grad_factor, 1.0 / norm / 8.0, 1e-8);
  EXPECT_NEAR(t.params.m[t.head].data<float>()[0], 0.1 * 3.0 / norm, 1e-7);  // (1 - beta1) g

  optim.grad_clip = 0;
  Training free(Dtype::kF16, optim, quick_scaler());
  free.step(24.0f);
  EXPECT_NEAR(free.params.m[free.head].data<float>()[0], 0.1 * 3.0, 1e-6);
  optim.grad_clip = 100;
  Training below(Dtype::kF16, optim, quick_scaler());
  below.step(24.0f);
  EXPECT_NEAR(below.params.m[below.head].data<float>()[0], 0.1 * 3.0, 1e-6);
}

TEST(Optimizer, FollowsAdamW) {
  OptimConfig optim;
  optim.lr = 0.01;
  optim.weight_decay = 0.1;
  optim.grad_clip = 0;
  Training t(Dtype::kF32, optim);
  EXPECT_TRUE(t.params.master.flat().same_as(t.params.compute.flat()));
  double decayed = 1.0, plain = 1.0, m = 0, v = 0;
  for (int step = 1; step <= 5; ++step) {
    const double g = 0.5 * step;
    t.step(float(g));
    m = 0.9 * m + 0.1 * g;
    v = 0.95 * v + 0.05 * g * g;
    const double move = 0.01 * (m / (1 - std::pow(0.9, step))) / (std::sqrt(v / (1 - std::pow(0.95, step))) + 1e-8);
    decayed = decayed * (1 - 0.01 * 0.1) - move;
    plain -= move;
    EXPECT_NEAR(t.master(t.matrix), decayed, 1e-6);
    EXPECT_NEAR(t.master(t.head), decayed, 1e-6);
    EXPECT_NEAR(t.master(t.norm), plain, 1e-6) << "norms are not decayed";
  }
  // The padding between parameters stays zero.
  for (int64_t i = 6; i < ParamLayout::kAlign; ++i) ASSERT_EQ(t.params.master.flat().data<float>()[i], 0.0f);
}

TEST(Optimizer, CopiesAreRoundedMasters) {
  OptimConfig optim;
  optim.lr = 1e-4;
  Training t(Dtype::kBF16, optim);
  t.params.rollout = ParamBuffer(t.exec, t.params.layout, Dtype::kF16);
  t.step(1.0f);
  const float master = t.master(t.head);
  EXPECT_NE(master, 1.0f);
  EXPECT_EQ(t.params.compute[t.head].data<BFloat16>()[0].bits, bfloat16_from_float(master).bits);
  EXPECT_EQ(t.params.rollout[t.head].data<Half>()[0].bits, half_from_float(master).bits);
}

TEST(Optimizer, SkippedStepAdvancesNothing) {
  OptimConfig optim;
  optim.lr = 0.1;
  optim.warmup_steps = 10;
  Training t(Dtype::kF16, optim, quick_scaler());
  EXPECT_NEAR(t.step(1.0f).lr, 0.01, 1e-9);
  const float master = t.master(t.matrix), m = t.params.m[t.matrix].data<float>()[0],
              v = t.params.v[t.matrix].data<float>()[0];
  t.optimizer->zero_grad();
  t.params.grad[t.head].data<float>()[3] = std::nanf("");  // one element is enough
  EXPECT_TRUE(t.optimizer->step().skipped);
  EXPECT_EQ(t.optimizer->read_state().adam_step, 1);
  EXPECT_EQ(t.master(t.matrix), master);
  EXPECT_EQ(t.params.m[t.matrix].data<float>()[0], m);
  EXPECT_EQ(t.params.v[t.matrix].data<float>()[0], v);
  EXPECT_NEAR(t.step(1.0f).lr, 0.02, 1e-9) << "the schedule counts completed steps";
}

TEST(Optimizer, UnscaledStepsAreBitEqualAcrossPowersOfTwo) {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    std::vector<float> results;
    for (const double scale : {1.0, 65536.0}) {
      OptimConfig optim;
      optim.lr = 0.01;
      ScalerConfig scaler;
      scaler.mode = "static";
      scaler.init_scale = scale;
      Training t(dtype, optim, scaler);
      for (int i = 0; i < 3; ++i) t.step(float(0.37 * scale));
      results.push_back(t.master(t.matrix));
    }
    EXPECT_EQ(results[0], results[1]);
  }
}

// ---- schedules --------------------------------------------------------------------------------------------

TEST(LearningRate, Schedules) {
  OptimConfig c;
  c.lr = 2.0;
  EXPECT_EQ(learning_rate(c, 0, 10), 2.0);
  EXPECT_EQ(learning_rate(c, 1000, 10), 2.0);
  c.warmup_steps = 4;
  EXPECT_EQ(learning_rate(c, 0, 10), 0.5);
  EXPECT_EQ(learning_rate(c, 3, 10), 2.0);
  c.schedule = "linear";
  c.min_lr_ratio = 0.1;
  EXPECT_EQ(learning_rate(c, 4, 14), 2.0);
  EXPECT_NEAR(learning_rate(c, 9, 14), 1.1, 1e-12);
  EXPECT_NEAR(learning_rate(c, 14, 14), 0.2, 1e-12);
  EXPECT_NEAR(learning_rate(c, 99, 14), 0.2, 1e-12) << "past the end";
  c.schedule = "cosine";
  EXPECT_EQ(learning_rate(c, 4, 14), 2.0);
  EXPECT_NEAR(learning_rate(c, 9, 14), 1.1, 1e-12);
  EXPECT_NEAR(learning_rate(c, 6, 14), 2.0 * (0.1 + 0.9 * 0.5 * (1 + std::cos(M_PI * 0.2))), 1e-12);
  EXPECT_NEAR(learning_rate(c, 14, 14), 0.2, 1e-12);
  EXPECT_NEAR(learning_rate(c, 4, 3), 2.0, 1e-12) << "a warm-up longer than the run";
  c.schedule = "step";
  EXPECT_THROW(learning_rate(c, 5, 14), Error);
}

}  // namespace
}  // namespace mantissa
