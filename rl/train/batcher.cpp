#include "rl/train/batcher.h"

#include <algorithm>
#include <numeric>

namespace mantissa {
namespace {

int64_t length(const TrainSequence& s) {
  return int64_t(s.prompt->ids.size() + s.completion->ids.size());
}

/// Linear layers cost by token, attention by token squared; at about this length both are equal in a small model.
double cost(int64_t tokens) {
  return double(tokens) * (1.0 + double(tokens) / 8192.0);
}

void append(TrainBatch& batch, const TrainSequence& s) {
  const std::vector<int32_t>&prompt = s.prompt->ids, &response = s.completion->ids;
  const int32_t start = int32_t(batch.ids.size());
  batch.ids.insert(batch.ids.end(), prompt.begin(), prompt.end());
  batch.ids.insert(batch.ids.end(), response.begin(), response.end());
  const int32_t total = int32_t(prompt.size() + response.size());
  for (int32_t i = 0; i < total; ++i) batch.positions.push_back(i);
  for (size_t i = 0; i < response.size(); ++i) {
    batch.scored.push_back(start + int32_t(prompt.size() + i) - 1);
    batch.targets.push_back(response[i]);
  }
  const std::vector<float>& mu = s.completion->rollout_logprobs;
  batch.rollout_logprobs.insert(batch.rollout_logprobs.end(), mu.begin(), mu.end());
  batch.offsets.push_back(int32_t(batch.ids.size()));
  batch.response_offsets.push_back(int32_t(batch.scored.size()));
  batch.advantages.push_back(float(s.advantage));
  batch.loss_mask.push_back(s.loss_mask);
  batch.routes.push_back(s.completion->routes);
  batch.prompts.push_back(s.prompt->id);
  batch.samples.push_back(s.sample);
}

std::vector<size_t> longest_first(std::span<const TrainSequence> sequences) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return length(sequences[a]) > length(sequences[b]); });
  return order;
}

/// Each rank's sequences, in the order they had.
std::vector<std::vector<TrainSequence>> share_out(std::span<const TrainSequence> sequences, int ranks) {
  std::vector<double> costs(size_t(ranks), 0.0);
  std::vector<size_t> rank_of(sequences.size());
  for (const size_t index : longest_first(sequences)) {
    rank_of[index] = size_t(std::min_element(costs.begin(), costs.end()) - costs.begin());
    costs[rank_of[index]] += cost(length(sequences[index]));
  }
  std::vector<std::vector<TrainSequence>> shares{size_t(ranks)};
  for (size_t i = 0; i < sequences.size(); ++i) shares[rank_of[i]].push_back(sequences[i]);
  return shares;
}

/// Indices of the sequences of each micro-batch.
using Bins = std::vector<std::vector<size_t>>;

/// Longest first into the cheapest bin that has room; the number of bins grows until all fit.
Bins plan(std::span<const TrainSequence> sequences, int64_t budget) {
  const std::vector<size_t> order = longest_first(sequences);
  const int64_t total = std::accumulate(sequences.begin(), sequences.end(), int64_t(0),
                                        [](int64_t sum, const TrainSequence& s) { return sum + length(s); });
  struct Bin {
    int64_t tokens = 0;
    double cost = 0.0;
    std::vector<size_t> members;
  };
  std::vector<Bin> bins(size_t(std::max<int64_t>(1, (total + budget - 1) / budget)));
  for (size_t index : order) {
    const int64_t tokens = length(sequences[index]);
    Bin* best = nullptr;
    for (Bin& bin : bins)
      if ((bin.tokens == 0 || bin.tokens + tokens <= budget) && (!best || bin.cost < best->cost)) best = &bin;
    if (!best) best = &bins.emplace_back();
    best->tokens += tokens;
    best->cost += cost(tokens);
    best->members.push_back(index);
  }
  Bins members;
  for (Bin& bin : bins)
    if (!bin.members.empty()) members.push_back(std::move(bin.members));
  return members;
}

std::vector<TrainBatch> pack(std::span<const TrainSequence> sequences, const Bins& bins) {
  std::vector<TrainBatch> batches;
  for (const std::vector<size_t>& members : bins) {
    TrainBatch& batch = batches.emplace_back();
    batch.offsets.push_back(0);
    batch.response_offsets.push_back(0);
    for (const size_t index : members) append(batch, sequences[index]);
  }
  return batches;
}

}  // namespace

void shuffle(std::vector<TrainSequence>& sequences, RandomStream& random) {
  for (size_t i = sequences.size(); i > 1; --i) std::swap(sequences[i - 1], sequences[random.below(uint32_t(i))]);
}

std::vector<MiniBatch> make_mini_batches(std::span<const TrainSequence> sequences, int64_t mini_batch_size,
                                         int64_t budget, Share share, Packed packed) {
  std::vector<MiniBatch> result;
  for (size_t begin = 0; begin < sequences.size(); begin += size_t(mini_batch_size)) {
    const auto part = sequences.subspan(begin, std::min(size_t(mini_batch_size), sequences.size() - begin));
    MiniBatch& mini = result.emplace_back();
    std::vector<TrainSequence> forwarded;
    for (const TrainSequence& s : part) {
      const bool idle = packed == Packed::kWithLoss && (s.advantage == 0 || s.loss_mask == 0);
      if (!idle) forwarded.push_back(s);
      if (s.loss_mask == 0) continue;
      const int64_t tokens = int64_t(s.completion->ids.size());
      ++mini.sequences;
      mini.tokens += tokens;
      if (!idle) mini.forwarded += tokens;
    }
    mini.idle = int64_t(part.size() - forwarded.size());
    const std::vector<std::vector<TrainSequence>> shares = share_out(forwarded, share.ranks);
    for (int r = 0; r < share.ranks; ++r) {
      const Bins bins = plan(shares[size_t(r)], budget);
      mini.rounds = std::max(mini.rounds, int64_t(bins.size()));
      if (r == share.rank) mini.micro = pack(shares[size_t(r)], bins);
    }
  }
  return result;
}

}  // namespace mantissa
