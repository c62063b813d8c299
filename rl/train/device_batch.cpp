#include "rl/train/device_batch.h"

#include <algorithm>

#include "core/backend.h"
#include "rl/train/routes.h"

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

/// Pieces without their tensors, whose values go to `offsets`.
std::vector<HeadPiece> cut(const std::vector<int32_t>& response_offsets, int64_t piece_tokens,
                           std::vector<std::vector<int32_t>>& offsets) {
  std::vector<HeadPiece> pieces;
  for (size_t s = 0; s + 1 < response_offsets.size(); ++s) {
    const int64_t begin = response_offsets[s], end = response_offsets[s + 1];
    if (pieces.empty() || (piece_tokens > 0 && end - pieces.back().first_token > piece_tokens)) {
      pieces.push_back({int64_t(s), int64_t(s), begin, begin, {}});
      offsets.push_back({0});
    }
    HeadPiece& piece = pieces.back();
    piece.end_sequence = int64_t(s) + 1;
    piece.end_token = end;
    offsets.back().push_back(int32_t(end - piece.first_token));
  }
  return pieces;
}

}  // namespace

DeviceBatch::DeviceBatch(Backend& backend, const TrainBatch& batch, int64_t piece_tokens) : longest(batch.longest()) {
  std::vector<std::vector<int32_t>> piece_offsets;
  pieces = cut(batch.response_offsets, piece_tokens, piece_offsets);
  Block<int32_t> integers;
  integers.add(ids, batch.ids);
  integers.add(positions, batch.positions);
  integers.add(offsets, batch.offsets);
  integers.add(scored, batch.scored);
  integers.add(targets, batch.targets);
  for (size_t i = 0; i < pieces.size(); ++i) integers.add(pieces[i].response_offsets, piece_offsets[i]);
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

void DeviceBatch::add_routes(Backend& backend, const TrainBatch& batch, const ModelConfig& model) {
  if (batch.routes.empty() || !batch.routes[0].recorded()) return;
  routes =
      tensor_from<uint8_t>(backend, given_routes(batch, model),
                           {model.experts.before(model.layers), int64_t(batch.ids.size()), model.experts.per_token});
}

LossInputs DeviceBatch::loss_inputs(const HeadPiece& piece) const {
  // What the batch does not have, such as the advantages of a warm start, a piece does not have either.
  const auto part = [](const Tensor& all, int64_t begin, int64_t end) {
    return all.defined() && all.numel() > 0 ? all.slice(begin, end) : all;
  };
  const auto tokens = [&](const Tensor& all) { return part(all, piece.first_token, piece.end_token); };
  const auto sequences = [&](const Tensor& all) { return part(all, piece.first_sequence, piece.end_sequence); };
  LossInputs in;
  in.old_logprobs = tokens(old_logprobs);
  in.rollout_logprobs = tokens(rollout_logprobs);
  in.reference_logprobs = tokens(reference_logprobs);
  in.advantages = sequences(advantages);
  in.mask = sequences(mask);
  in.inverse_lengths = sequences(inverse_lengths);
  in.response_offsets = piece.response_offsets;
  return in;
}

}  // namespace mantissa
