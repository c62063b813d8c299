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
  EXPECT_EQ(to_host<int32_t>(d.response_offsets), b.response_offsets);
  EXPECT_EQ(to_host<float>(d.rollout_logprobs), b.rollout_logprobs);
  EXPECT_EQ(to_host<float>(d.advantages), b.advantages);
  EXPECT_EQ(to_host<float>(d.mask), b.loss_mask);
  EXPECT_EQ(to_host<float>(d.inverse_lengths), (std::vector<float>{0.5f, 1}));
  EXPECT_EQ(d.longest, 5);
}

TEST(DeviceBatch, LeavesUndefinedWhatWasNotScored) {
  TrainBatch b = small_batch();
  EXPECT_FALSE(DeviceBatch(cpu(), b).loss_inputs().old_logprobs.defined());
  EXPECT_FALSE(DeviceBatch(cpu(), b).loss_inputs().reference_logprobs.defined());
  b.old_logprobs = {-1, -2, -5};
  const LossInputs in = DeviceBatch(cpu(), b).loss_inputs();
  EXPECT_EQ(to_host<float>(in.old_logprobs), b.old_logprobs);
  EXPECT_EQ(to_host<float>(in.rollout_logprobs), b.rollout_logprobs);
  EXPECT_EQ(to_host<int32_t>(in.response_offsets), b.response_offsets);
}

}  // namespace
}  // namespace mantissa
