#include "rl/train/device_batch.h"

#include <algorithm>

#include "core/backend.h"

namespace mantissa {
namespace {

/// Vectors of one type side by side in one block of memory, each at a boundary of 256 bytes as if allocated alone.
template <class T>
class Block {
 public:
  /// `view` will be a tensor of these values.
  void add(Tensor& view, const std::vector<T>& values) {
    parts_.push_back({&view, &values, size_});
    size_ += (values.size() + kBoundary - 1) / kBoundary * kBoundary;
  }
  void send(Backend& backend) {
    std::vector<T> host(size_);
    for (const Part& p : parts_) std::copy(p.values->begin(), p.values->end(), host.begin() + ptrdiff_t(p.begin));
    const Tensor block = tensor_from<T>(backend, host, {int64_t(size_)});
    for (const Part& p : parts_) *p.view = block.slice(int64_t(p.begin), int64_t(p.begin + p.values->size()));
  }

 private:
  static constexpr size_t kBoundary = 256 / sizeof(T);
  struct Part {
    Tensor* view;
    const std::vector<T>* values;
    size_t begin;
  };
  std::vector<Part> parts_;
  size_t size_ = 0;
};

std::vector<float> inverse_of_lengths(const std::vector<int32_t>& offsets) {
  std::vector<float> inverse;
  for (size_t i = 0; i + 1 < offsets.size(); ++i)
    inverse.push_back(1.0f / float(std::max(1, offsets[i + 1] - offsets[i])));
  return inverse;
}

}  // namespace

DeviceBatch::DeviceBatch(Backend& backend, const TrainBatch& batch) : longest(batch.longest()) {
  Block<int32_t> integers;
  integers.add(ids, batch.ids);
  integers.add(positions, batch.positions);
  integers.add(offsets, batch.offsets);
  integers.add(scored, batch.scored);
  integers.add(targets, batch.targets);
  integers.add(response_offsets, batch.response_offsets);
  integers.send(backend);

  const std::vector<float> inverse = inverse_of_lengths(batch.response_offsets);
  Block<float> floats;
  floats.add(rollout_logprobs, batch.rollout_logprobs);
  if (!batch.old_logprobs.empty()) floats.add(old_logprobs, batch.old_logprobs);
  if (!batch.reference_logprobs.empty()) floats.add(reference_logprobs, batch.reference_logprobs);
  floats.add(advantages, batch.advantages);
  floats.add(mask, batch.loss_mask);
  floats.add(inverse_lengths, inverse);
  floats.send(backend);
}

void DeviceBatch::add_token_keys(Backend& backend, const TrainBatch& batch) {
  std::vector<int32_t> keys;
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s)
    for (int32_t t = batch.offsets[s]; t < batch.offsets[s + 1]; ++t) {
      keys.push_back(int32_t(uint32_t(batch.prompts[s])));
      keys.push_back(batch.positions[size_t(t)]);
    }
  token_keys = tensor_from<int32_t>(backend, keys, {int64_t(keys.size()) / 2, 2});
}

LossInputs DeviceBatch::loss_inputs() const {
  LossInputs in;
  in.old_logprobs = old_logprobs;
  in.rollout_logprobs = rollout_logprobs;
  in.reference_logprobs = reference_logprobs;
  in.advantages = advantages;
  in.mask = mask;
  in.inverse_lengths = inverse_lengths;
  in.response_offsets = response_offsets;
  return in;
}

}  // namespace mantissa
