// A micro-batch on the device holds what the host's holds.
#include "rl/train/device_batch.h"

#include <gtest/gtest.h>

#include "core/backend.h"
#include "core/registry.h"

namespace mantissa {
namespace {

TrainBatch small_batch() {
  TrainBatch b;
  b.ids = {5, 9, 2, 7, 0, 5, 9, 2, 8};
  b.positions = {0, 1, 2, 3, 4, 0, 1, 2, 3};
  b.offsets = {0, 5, 9};
  b.scored = {2, 3, 7};
  b.targets = {7, 0, 8};
  b.response_offsets = {0, 2, 3};
  b.rollout_logprobs = {-1, -2, -3};
  b.advantages = {1, -1};
  b.loss_mask = {1, 0};
  return b;
}

TEST(DeviceBatch, HoldsWhatTheHostHolds) {
  const TrainBatch b = small_batch();
  const DeviceBatch d(cpu(), b);
  EXPECT_EQ(to_host<int32_t>(d.ids), b.ids);
  EXPECT_EQ(to_host<int32_t>(d.positions), b.positions);
  EXPECT_EQ(to_host<int32_t>(d.offsets), b.offsets);
  EXPECT_EQ(to_host<int32_t>(d.scored), b.scored);
  EXPECT_EQ(to_host<int32_t>(d.targets), b.targets);
  EXPECT_EQ(to_host<float>(d.rollout_logprobs), b.rollout_logprobs);
  EXPECT_EQ(to_host<float>(d.advantages), b.advantages);
  EXPECT_EQ(to_host<float>(d.mask), b.loss_mask);
  EXPECT_EQ(to_host<float>(d.inverse_lengths), (std::vector<float>{0.5f, 1}));
  EXPECT_EQ(d.longest, 5);
}

TEST(DeviceBatch, LeavesUndefinedWhatWasNotScored) {
  TrainBatch b = small_batch();
  const DeviceBatch none(cpu(), b);
  EXPECT_FALSE(none.loss_inputs(none.pieces[0]).old_logprobs.defined());
  EXPECT_FALSE(none.loss_inputs(none.pieces[0]).reference_logprobs.defined());
  b.old_logprobs = {-1, -2, -5};
  const DeviceBatch d(cpu(), b);
  ASSERT_EQ(d.pieces.size(), 1u);
  const LossInputs in = d.loss_inputs(d.pieces[0]);
  EXPECT_EQ(to_host<float>(in.old_logprobs), b.old_logprobs);
  EXPECT_EQ(to_host<float>(in.rollout_logprobs), b.rollout_logprobs);
  EXPECT_EQ(to_host<int32_t>(in.response_offsets), b.response_offsets);
}

TEST(DeviceBatch, IsCutBetweenSequences) {
  TrainBatch b;
  b.ids = b.positions = std::vector<int32_t>(20);
  b.offsets = {0, 4, 8, 15, 17, 20};
  b.response_offsets = {0, 2, 4, 9, 10, 12};
  b.scored = b.targets = std::vector<int32_t>(12);
  b.rollout_logprobs = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  b.advantages = b.loss_mask = {0, 1, 2, 3, 4};
  const DeviceBatch d(cpu(), b, 4);  // 2 + 2, then 5 by itself, then 1 + 2
  ASSERT_EQ(d.pieces.size(), 3u);
  EXPECT_EQ(to_host<int32_t>(d.pieces[0].response_offsets), (std::vector<int32_t>{0, 2, 4}));
  EXPECT_EQ(to_host<int32_t>(d.pieces[1].response_offsets), (std::vector<int32_t>{0, 5}));
  EXPECT_EQ(to_host<int32_t>(d.pieces[2].response_offsets), (std::vector<int32_t>{0, 1, 3}));
  const LossInputs last = d.loss_inputs(d.pieces[2]);
  EXPECT_EQ(to_host<float>(last.rollout_logprobs), (std::vector<float>{9, 10, 11}));
  EXPECT_EQ(to_host<float>(last.advantages), (std::vector<float>{3, 4}));
  EXPECT_EQ(to_host<float>(last.inverse_lengths), (std::vector<float>{1, 0.5f}));
}

}  // namespace
}  // namespace mantissa
