// Updates on a tiny model: sequences without loss and gradient leave the packing and nothing else, and the first
// update's own forward gives the same old log-probs as a pass of its own.
#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "core/registry.h"
#include "rl/algorithm/policy_loss.h"
#include "rl/train/trainer.h"
#include "tests/support/tiny_model.h"

namespace mantissa {
namespace {

/// What trains: each one from the same weights.
struct Learner {
  explicit Learner(Dtype dtype = Dtype::kF32, int64_t head_chunk = 0)
      : model(random_model(tiny_model(), cpu(), dtype, is_16bit(dtype), 17)),
        optimizer(exec, model->params, {.lr = 1e-3, .weight_decay = 0.1}, {}, 100),
        trainer(exec, single_comm(), *model, optimizer,
                {.logprobs = {.lm_head = dtype, .residual = dtype, .head_chunk = head_chunk}, .recompute = {}}) {}

  UpdateReport update(MiniBatch& mini, OldLogprobs old = OldLogprobs::kScored) {
    if (old == OldLogprobs::kScored) trainer.fill_old_logprobs(mini);
    const auto loss = [](Tape& tape, const LossInputs& in) { return policy_loss(tape, in, AlgorithmConfig()); };
    return trainer.update(mini, loss, old);
  }
  std::vector<float> grads() const { return to_host<float>(model->params.grad.flat()); }
  std::vector<float> weights() const {
    const ParamSet& w = model->params;
    return to_host<float>((w.master.defined() ? w.master : w.compute).flat());
  }

  Exec exec{cpu()};
  std::unique_ptr<Model> model;
  Optimizer optimizer;
  Trainer trainer;
};

/// Six responses to six prompts; three of them have no loss: by advantage, by mask, by both.
class Update : public testing::Test {
 protected:
  Update() {
    RandomStream random(5, 1);
    const auto draw = [&](size_t count) {
      std::vector<int32_t> ids;
      for (size_t i = 0; i < count; ++i) ids.push_back(int32_t(random.below(61)));
      return ids;
    };
    for (size_t i = 0; i < 6; ++i) {
      prompts_[i].ids = draw(3 + i);
      completions_[i].ids = draw(4 + 3 * i);
      for (size_t t = 0; t < completions_[i].ids.size(); ++t)
        completions_[i].rollout_logprobs.push_back(-4 + 0.1f * random.normal());
    }
    const double advantages[] = {1, 0, -0.5, 2, 0, 0.25};
    const float masks[] = {1, 1, 1, 0, 0, 1};
    for (size_t i = 0; i < 6; ++i)
      sequences_.push_back(
          {.prompt = &prompts_[i], .completion = &completions_[i], .advantage = advantages[i], .loss_mask = masks[i]});
  }
  MiniBatch mini_batch(Packed packed) const { return make_mini_batches(sequences_, 6, 40, {}, packed).front(); }

  Prompt prompts_[6];
  Completion completions_[6];
  std::vector<TrainSequence> sequences_;
};

TEST_F(Update, IsTheSameWithoutSequencesThatHaveNoLoss) {
  MiniBatch all = mini_batch(Packed::kAll), part = mini_batch(Packed::kWithLoss);
  EXPECT_EQ(all.sequences, 4);
  EXPECT_EQ(all.tokens, 4 + 7 + 10 + 19);
  EXPECT_EQ(all.forwarded, all.tokens);
  EXPECT_EQ(part.sequences, all.sequences);
  EXPECT_EQ(part.tokens, all.tokens);
  EXPECT_EQ(part.forwarded, 4 + 10 + 19);
  size_t packed = 0;
  for (const TrainBatch& batch : part.micro) packed += batch.loss_mask.size();
  EXPECT_EQ(packed, 3u);

  Learner one, other;
  const UpdateReport want = one.update(all), got = other.update(part);
  EXPECT_NEAR(got.loss, want.loss, 1e-6);
  EXPECT_NEAR(got.stats.at("actor/pg_loss"), want.stats.at("actor/pg_loss"), 1e-6);
  EXPECT_NEAR(got.step.grad_norm, want.step.grad_norm, 1e-5 * want.step.grad_norm);
  const std::vector<float> want_grads = one.grads(), got_grads = other.grads();
  const std::vector<float> want_weights = one.weights(), got_weights = other.weights();
  double largest = 0;
  for (const float g : want_grads) largest = std::max(largest, std::abs(double(g)));
  for (size_t i = 0; i < want_grads.size(); ++i) ASSERT_NEAR(got_grads[i], want_grads[i], 1e-5 * largest) << i;
  for (size_t i = 0; i < want_weights.size(); ++i) ASSERT_NEAR(got_weights[i], want_weights[i], 1e-5) << i;

  // What needs a forward is a mean over the tokens that had one.
  MiniBatch only = mini_batch(Packed::kWithLoss);
  only.tokens = only.forwarded;
  Learner third;
  EXPECT_FLOAT_EQ(float(got.stats.at("actor/entropy")), float(third.update(only).stats.at("actor/entropy")));
}

/// Sequences of 4 to 19 tokens go through the head together, one by one, and one by one in chunks of their own.
TEST_F(Update, IsTheSameWhateverGoesThroughTheHeadTogether) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    Learner together(dtype, 1000);
    MiniBatch all = mini_batch(Packed::kAll);
    const UpdateReport want = together.update(all, OldLogprobs::kOwnForward);
    for (const int64_t chunk : {19, 12, 3}) {
      Learner learner(dtype, chunk);
      MiniBatch mini = mini_batch(Packed::kAll);
      const UpdateReport got = learner.update(mini, OldLogprobs::kOwnForward);
      EXPECT_GT(mini.device[0].pieces.size(), all.device[0].pieces.size()) << chunk;
      EXPECT_EQ(learner.grads(), together.grads()) << chunk;
      EXPECT_EQ(learner.weights(), together.weights()) << chunk;
      for (size_t i = 0; i < mini.micro.size(); ++i)
        EXPECT_EQ(mini.micro[i].old_logprobs, all.micro[i].old_logprobs) << chunk;
      EXPECT_NEAR(got.loss, want.loss, 1e-6) << chunk;
      ASSERT_EQ(got.stats.size(), want.stats.size());
      for (const auto& [name, value] : want.stats) EXPECT_NEAR(got.stats.at(name), value, 1e-5) << name;
    }
  }
}

TEST_F(Update, AMiniBatchWithoutLossStillTakesItsStep) {
  std::vector<std::vector<float>> weights;
  for (const Packed packed : {Packed::kAll, Packed::kWithLoss}) {
    Learner learner;
    MiniBatch first = mini_batch(Packed::kWithLoss);
    learner.update(first);
    const std::vector<float> before = learner.weights();
    std::vector<TrainSequence> idle = sequences_;
    for (TrainSequence& s : idle) s.advantage = 0;
    MiniBatch second = make_mini_batches(idle, 6, 40, {}, packed).front();
    EXPECT_EQ(second.micro.empty(), packed == Packed::kWithLoss);
    const UpdateReport report = learner.update(second);
    EXPECT_FALSE(report.empty || report.step.skipped);
    EXPECT_EQ(report.step.grad_norm, 0);
    for (const float g : learner.grads()) ASSERT_EQ(g, 0.0f);
    weights.push_back(learner.weights());
    EXPECT_NE(weights.back(), before) << "momentum and decay move the weights";
  }
  EXPECT_EQ(weights[0], weights[1]);
}

TEST_F(Update, OwnForwardIsTheScoringPass) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    MiniBatch scored = mini_batch(Packed::kAll), own = mini_batch(Packed::kAll);
    Learner one(dtype), other(dtype);
    const UpdateReport want = one.update(scored), got = other.update(own, OldLogprobs::kOwnForward);
    EXPECT_EQ(got.stats, want.stats);
    EXPECT_EQ(got.stats.at("actor/ppo_kl"), 0);
    EXPECT_EQ(got.stats.at("actor/pg_clipfrac"), 0);
    EXPECT_EQ(other.weights(), one.weights());
    ASSERT_EQ(own.micro.size(), scored.micro.size());
    for (size_t i = 0; i < own.micro.size(); ++i) EXPECT_EQ(own.micro[i].old_logprobs, scored.micro[i].old_logprobs);
  }
}

TEST_F(Update, OldLogprobsOutliveAnOverflow) {
  MiniBatch scored = mini_batch(Packed::kAll), own = mini_batch(Packed::kAll);
  Learner learner(Dtype::kF16);
  learner.trainer.fill_old_logprobs(scored);
  learner.trainer.inject_overflow("layers.0.down.weight");
  EXPECT_TRUE(learner.update(own, OldLogprobs::kOwnForward).step.skipped);
  for (size_t i = 0; i < own.micro.size(); ++i) EXPECT_EQ(own.micro[i].old_logprobs, scored.micro[i].old_logprobs);
}

}  // namespace
}  // namespace mantissa
