// Packing for several ranks: together they hold each sequence of a mini-batch once, at about equal cost.
#include "rl/train/batcher.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace mantissa {
namespace {

/// Sequences of one prompt token and `length` - 1 response tokens; the response's first token is the sequence's number.
struct Sequences {
  explicit Sequences(const std::vector<int64_t>& lengths) {
    prompt.ids = {1};
    for (size_t i = 0; i < lengths.size(); ++i) {
      Completion& c = completions.emplace_back();
      c.ids.assign(size_t(lengths[i] - 1), 5);
      c.ids[0] = int32_t(1000 + i);
      c.rollout_logprobs.assign(c.ids.size(), -1.0f);
    }
    for (const Completion& c : completions) list.push_back({.prompt = &prompt, .completion = &c});
  }
  Prompt prompt;
  std::vector<Completion> completions;
  std::vector<TrainSequence> list;
};

std::vector<int64_t> mixed_lengths(int64_t n) {
  RandomStream random(5, 0);
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < n; ++i) lengths.push_back(2 + int64_t(random.below(random.below(4) ? 200 : 2000)));
  return lengths;
}

std::multiset<int32_t> numbers_in(const MiniBatch& mini) {
  std::multiset<int32_t> found;
  for (const TrainBatch& batch : mini.micro)
    for (const int32_t id : batch.ids)
      if (id >= 1000) found.insert(id);
  return found;
}

TEST(Batcher, RanksShareEachMiniBatch) {
  const Sequences sequences(mixed_lengths(96));
  const std::vector<MiniBatch> alone = make_mini_batches(sequences.list, 32, 2048);
  for (const int ranks : {2, 3, 5}) {
    std::vector<std::vector<MiniBatch>> shares;
    for (int r = 0; r < ranks; ++r) shares.push_back(make_mini_batches(sequences.list, 32, 2048, {r, ranks}));
    for (size_t m = 0; m < alone.size(); ++m) {
      std::multiset<int32_t> together;
      double least = INFINITY, most = 0;
      int64_t rounds = 0;
      for (const std::vector<MiniBatch>& share : shares) {
        ASSERT_EQ(share.size(), alone.size());
        EXPECT_EQ(share[m].tokens, alone[m].tokens);
        EXPECT_EQ(share[m].sequences, alone[m].sequences);
        EXPECT_EQ(share[m].rounds, shares[0][m].rounds);
        rounds = std::max(rounds, int64_t(share[m].micro.size()));
        together.merge(numbers_in(share[m]));
        double tokens = 0;
        for (const TrainBatch& batch : share[m].micro) tokens += double(batch.ids.size());
        least = std::min(least, tokens), most = std::max(most, tokens);
      }
      EXPECT_EQ(together, numbers_in(alone[m]));
      EXPECT_EQ(rounds, shares[0][m].rounds);
      EXPECT_LT(most - least, 2000) << ranks << " ranks: within the longest sequence of each other";
    }
  }
}

TEST(Batcher, ARankMayBeLeftWithNothing) {
  const Sequences sequences({5, 3});
  const std::vector<MiniBatch> share = make_mini_batches(sequences.list, 2, 100, {2, 3});
  ASSERT_EQ(share.size(), 1u);
  EXPECT_TRUE(share[0].micro.empty());
  EXPECT_EQ(share[0].rounds, 1);
  EXPECT_EQ(share[0].tokens, 6);
}

}  // namespace
}  // namespace mantissa
