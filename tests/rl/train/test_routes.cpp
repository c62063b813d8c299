// Routes of the rollout in training: their order in a batch, the count of those that agree, what the config refuses.
#include "rl/train/routes.h"

#include <gtest/gtest.h>

#include "core/notice.h"
#include "core/registry.h"
#include "tests/support/message.h"
#include "tests/support/tiny_model.h"

namespace mantissa {
namespace {

constexpr uint8_t kNone = kNotGiven;

std::shared_ptr<const TokenRoutes::Bytes> bytes(TokenRoutes::Bytes values) {
  return std::make_shared<TokenRoutes::Bytes>(std::move(values));
}

/// Two layers, two slots. A prompt of two tokens with a response of two, and one of one with a response of one.
TrainBatch batch() {
  TrainBatch b;
  b.ids = {5, 9, 2, 7, /**/ 4, 1};
  b.offsets = {0, 4, 6};
  b.scored = {1, 2, /**/ 4};
  b.prompts = {10, 11};
  b.samples = {0, 3};
  b.routes.push_back({bytes({0, 1, 2, 0, /**/ 1, 0, 0, 2}), bytes({2, 1, 1, 2})});
  b.routes.push_back({bytes({0, 2, 1, 0}), bytes({})});
  return b;
}

TEST(Routes, OfABatchAreLayerByLayer) {
  EXPECT_EQ(given_routes(batch(), tiny_mixture()),
            (std::vector<uint8_t>{0, 1, /**/ 1, 0, /**/ 2, 1, /**/ kNone, kNone, /*|*/ 0, 2, /**/ kNone, kNone,
                                  2, 0, /**/ 0, 2, /**/ 1, 2, /**/ kNone, kNone, /*|*/ 1, 0, /**/ kNone, kNone}));
}

TEST(Routes, ThatDoNotFitTheirTokensAreNamed) {
  const auto error = [](const TrainBatch& b) { return message_of([&] { given_routes(b, tiny_mixture()); }); };
  TrainBatch b = batch();
  b.routes[1].response = bytes({0, 1, 0, 1});
  EXPECT_EQ(error(b), "[routes] prompt 11, sample 3: 1 tokens of 4 routes are needed: got 8 bytes");
  b.routes[1] = {};
  EXPECT_EQ(error(b), "[routes] prompt 11, sample 3: 1 tokens of 4 routes are needed: got none");
  b = batch();
  b.routes[0].response = bytes({2, 1, 3, 2});
  EXPECT_EQ(error(b), "[routes] prompt 10, sample 0, token 2: an expert is not below 3");
}

TEST(Routes, ThatAgreeAreCountedAtScoredTokens) {
  RouteCounts counts;
  const std::vector<int32_t> same = {0, 1, 1, 0, 0, 0, /**/ 0, 1, 0, 0, 1, 1};
  counts.add(batch(), tensor_from<int32_t>(cpu(), same, {2, 6}));
  EXPECT_EQ(counts.pairs, 6);
  EXPECT_EQ(counts.same, 4);
  counts.add(batch(), tensor_from<int32_t>(cpu(), std::vector<int32_t>(12, 1), {2, 6}));
  EXPECT_EQ(counts.pairs, 12);
  EXPECT_EQ(counts.same, 10);
}

TEST(Routes, ReplayIsRefusedWhereNothingCanBeReplayed) {
  MoeConfig config;
  EXPECT_FALSE(config.resolve(tiny_model(), Match::kFast, "m"));
  config.replay = "rollout";
  EXPECT_TRUE(config.resolve(tiny_mixture(), Match::kFast, "m"));
  EXPECT_TRUE(config.resolve(tiny_mixture(), Match::kPeer, "m"));
  EXPECT_EQ(message_of([&] { config.resolve(tiny_model(), Match::kFast, "m"); }),
            "moe.replay: rollout needs a mixture of experts: m has none");
  ModelConfig many = tiny_mixture();
  many.experts.count = 255;
  EXPECT_TRUE(config.resolve(many, Match::kFast, "m"));
  many.experts.count = 256;
  EXPECT_EQ(message_of([&] { config.resolve(many, Match::kFast, "m"); }),
            "moe.replay: rollout records an expert as a byte, so that a layer may have at most 255: m has 256");

  std::string said;
  set_notice_sink([&](const std::string& text) { said = text; });
  EXPECT_FALSE(config.resolve(tiny_mixture(), Match::kExact, "m"));
  set_notice_sink({});
  EXPECT_EQ(said.rfind("moe.replay: none, since", 0), 0u) << said;
}

}  // namespace
}  // namespace mantissa
