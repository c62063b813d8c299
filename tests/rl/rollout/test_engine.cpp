// The rollout engine on a tiny random model: results that do not depend on how the work was scheduled,
// log-probs equal to those of the training path bit for bit, and clear errors.
#include "rl/rollout/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/notice.h"
#include "tests/support/engine_test.h"

namespace mantissa {
namespace {

TEST_F(EngineTest, ResultsDoNotDependOnTheSchedule) {
  for (const Dtype dtype : kTypes) {
    for (const Match match : {Match::kExact, Match::kPeer}) {
      SCOPED_TRACE(testing::Message() << name_of(dtype) << (match == Match::kPeer ? " peer" : ""));
      const EnginePrecision p = precision(dtype, match);
      const Results roomy = run(dtype, requests_, options_, p);
      EXPECT_EQ(stats_.preemptions, 0);
      EXPECT_EQ(stats_.prefill_tokens, 5 + 64 + 100 + 1 + 130 + 63);
      int64_t decoded = 0;
      for (const auto& group : roomy)
        for (const Completion& c : group) decoded += int64_t(c.ids.size()) - 1;
      EXPECT_EQ(stats_.decode_tokens, decoded);
      EXPECT_LE(stats_.decode_steps, 29);

      for (const int64_t max_batch : {1, 3, 7}) expect_same(run(dtype, requests_, options_, p, max_batch), roomy);
      expect_same(run(dtype, requests_, options_, p, 64, 4 * kAttentionTile), roomy);
      EXPECT_GT(stats_.preemptions, 0);
      EXPECT_LE(stats_.peak_pages, 4);

      std::vector<Request> reversed(requests_.rbegin(), requests_.rend());
      Results backwards = run(dtype, reversed, options_, p, 5);
      std::reverse(backwards.begin(), backwards.end());
      expect_same(backwards, roomy);
      for (size_t i = 0; i < requests_.size(); ++i) expect_same(run(dtype, {requests_[i]}, options_, p)[0], roomy[i]);
    }
  }
}

TEST_F(EngineTest, SamplesThatFitABatchRunTogether) {
  options_.stop = {};
  for (const int n : {1, 3, 8}) {
    for (Request& r : requests_) r.n = n;
    run(Dtype::kF32, requests_, options_, precision(Dtype::kF32));
    EXPECT_EQ(stats_.decode_steps, 29) << n << " samples of each prompt";
    run(Dtype::kF32, {requests_[0]}, options_, precision(Dtype::kF32));
    EXPECT_EQ(stats_.decode_steps, 29) << n << " samples of one short prompt";
  }
}

TEST_F(EngineTest, TheScheduleDoesNotDependOnEarlierRolloutsOrFreeMemory) {
  RolloutConfig config;
  config.max_batch = 64;
  const auto fresh = [&] { return Engine(model(Dtype::kF32), config, precision(Dtype::kF32)); };
  Engine first = fresh(), resumed = fresh();
  const std::vector<Request> few(requests_.begin(), requests_.begin() + 3);
  first.generate(few, options_);
  EXPECT_GT(first.kv_cache_limit(), 0);
  first.set_kv_cache_limit(6);  // as if memory had been short at the start
  const Results got = first.generate(requests_, options_);
  EXPECT_LE(first.stats().peak_pages, 6);
  EXPECT_GT(first.stats().preemptions, 0);
  first.generate(few, options_);  // the pool is larger than these need
  resumed.set_kv_cache_limit(first.kv_cache_limit());
  expect_same(resumed.generate(requests_, options_), got);
  resumed.generate(few, options_);
  EXPECT_EQ(resumed.stats().decode_steps, first.stats().decode_steps);
  EXPECT_EQ(resumed.stats().preemptions, first.stats().preemptions);
  EXPECT_EQ(first.kv_cache_limit(), 6);
  first.set_kv_cache_limit(1);
  try {
    first.generate(requests_, options_);
    FAIL() << "no sequence fits";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the limit that the first rollout set is 64"), std::string::npos) << e.what();
  }
}

TEST_F(EngineTest, SaysWhereTheForwardPassOverflowed) {
  std::string said;
  set_notice_sink([&](const std::string& text) { said = text; });
  run(Dtype::kF32, requests_, options_, precision(Dtype::kF32));
  EXPECT_EQ(said, "");
  const Model& overflows = model(Dtype::kF32);
  overflows.params.compute[overflows.decoder->params().final_norm].data<float>()[0] = INFINITY;
  run(Dtype::kF32, requests_, options_, precision(Dtype::kF32));
  set_notice_sink({});
  expect_message(said, {"18 of 18 samples", "not finite", "overflowed in fp32"});
}

TEST_F(EngineTest, SaysHowManyPagesWantOfMemoryTook) {
  const ModelConfig& c = model(Dtype::kF32).config;
  const double page = double(c.layers * 2 * kAttentionTile * c.heads.kv * c.heads.size * int64_t(sizeof(float)));
  const MemoryInfo memory = exec_.backend().memory();
  RolloutConfig config;
  config.max_batch = 64;
  config.memory_fraction = 6.5 * page / double(memory.capacity - memory.in_use);
  Engine engine(model(Dtype::kF32), config, precision(Dtype::kF32));
  engine.set_kv_cache_limit(int64_t{1} << 40);  // there was more when the run began
  expect_same(engine.generate(requests_, options_), run(Dtype::kF32, requests_, options_, precision(Dtype::kF32)));
  EXPECT_EQ(engine.stats().peak_pages, 6);
  EXPECT_GT(engine.stats().lost_pages, 0);
  engine.generate({requests_.data(), 1}, options_);
  EXPECT_EQ(engine.stats().lost_pages, 0) << "these fit";
  EXPECT_EQ(engine.kv_cache_limit(), int64_t{1} << 40);
}

TEST_F(EngineTest, PreemptionIsExactWhenTheCacheRounds) {
  EnginePrecision p = precision(Dtype::kF32);
  p.kv_cache = Dtype::kBF16;
  const Results roomy = run(Dtype::kF32, requests_, options_, p);
  expect_same(run(Dtype::kF32, requests_, options_, p, 64, 4 * kAttentionTile), roomy);
  EXPECT_GT(stats_.preemptions, 0);
  // The rounding is real: it shows in the log-probs.
  EXPECT_NE(run(Dtype::kF32, requests_, options_, precision(Dtype::kF32))[4][0].rollout_logprobs,
            roomy[4][0].rollout_logprobs);
}

TEST_F(EngineTest, LogprobsEqualTheTrainingPath) {
  for (const Dtype dtype : kTypes) {
    SCOPED_TRACE(name_of(dtype));
    const Results same = run(dtype, requests_, options_, precision(dtype));
    expect_same(score(dtype, same), same);

    const Results peer = run(dtype, requests_, options_, precision(dtype, Match::kPeer));
    const Results scored = score(dtype, peer);
    int different = 0;
    for (size_t i = 0; i < peer.size(); ++i)
      for (size_t j = 0; j < peer[i].size(); ++j)
        for (size_t t = 0; t < peer[i][j].ids.size(); ++t) {
          const float mu = peer[i][j].rollout_logprobs[t], old = scored[i][j].rollout_logprobs[t];
          different += mu != old;
          EXPECT_NEAR(mu, old, logprob_bound(dtype));
        }
    EXPECT_GT(different, 0);
  }
}

/// One row needs a 17th page, where the page table was wide enough for 16; so many others need nothing then that only
/// what changed is sent.
TEST_F(EngineTest, RowsThatOutgrowThePageTableKeepTheirBits) {
  config_.max_positions = 2048;
  RandomStream random(3, 2);
  Prompt& longest = prompts_[0];
  while (longest.ids.size() < 1010) longest.ids.push_back(int32_t(random.below(61)));
  requests_ = {{&longest, 1, 0}, {&prompts_[3], 600, 0}};
  RolloutConfig config;
  config.max_batch = 601;
  config.cache_tokens = 700 * kAttentionTile;
  Engine engine(model(Dtype::kF16), config, precision(Dtype::kF16));
  options_.stop = StopRule(std::vector<int32_t>{});
  for (int i = 0; i < 2; ++i) {  // the second begins narrow again
    const Results got = engine.generate(requests_, options_);
    expect_same(score(Dtype::kF16, got), got);
  }
}

/// Two of three experts in each layer.
class EngineRoutes : public EngineTest {
 protected:
  EngineRoutes() {
    config_ = tiny_mixture();
    options_.record_routes = true;
    options_.stop = StopRule(std::vector<int32_t>{});
  }
};

TEST_F(EngineRoutes, AreThoseOfTrainingUnderAnySchedule) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    const Results roomy = run(dtype, requests_, options_, precision(dtype));
    expect_routes_of_training(dtype, roomy);
    std::set<uint8_t> seen;
    for (const std::vector<Completion>& group : roomy)
      for (const Completion& c : group) {
        EXPECT_EQ(c.routes.prompt, group[0].routes.prompt) << "held once for all samples";
        seen.insert(c.routes.response->begin(), c.routes.response->end());
      }
    EXPECT_EQ(seen.size(), 3u) << "all experts are used";
    expect_routes_of_training(dtype, run(dtype, requests_, options_, precision(dtype), 3));
    expect_routes_of_training(dtype, run(dtype, requests_, options_, precision(dtype), 64, 4 * kAttentionTile));
    EXPECT_GT(stats_.preemptions, 0);

    RolloutConfig drafting;
    drafting.max_batch = 64;
    drafting.draft = "history";
    Engine engine(model(dtype), drafting, precision(dtype));
    engine.generate(requests_, options_);
    const Results drafted = engine.generate(requests_, options_);
    expect_same(drafted, roomy);
    expect_routes_of_training(dtype, drafted);
    EXPECT_GT(engine.stats().accepted, 100);
  }
}

TEST_F(EngineRoutes, AreRecordedWhereAskedFor) {
  options_.record_routes = false;
  const Results without = run(Dtype::kF32, requests_, options_, precision(Dtype::kF32));
  EXPECT_FALSE(without[0][0].routes.recorded());
  options_.record_routes = true;
  expect_same(run(Dtype::kF32, requests_, options_, precision(Dtype::kF32)), without);
}

TEST_F(EngineTest, RoutesOfDenseModelsAreNone) {
  options_.record_routes = true;
  EXPECT_FALSE(run(Dtype::kF32, requests_, options_, precision(Dtype::kF32))[0][0].routes.recorded());
}

TEST_F(EngineTest, DraftsSaveStepsAndKeepTheBits) {
  for (const Dtype dtype : kTypes) {
    SCOPED_TRACE(name_of(dtype));
    expect_drafts_to_keep_bits(dtype);
  }
  RolloutConfig config;
  config.draft = "history";
  const std::string said =
      message_of([&] { Engine(model(Dtype::kF16), config, precision(Dtype::kF16, Match::kFast)); });
  EXPECT_NE(said.find("rollout.draft: history needs rollout and training to agree bit for bit"), std::string::npos)
      << said;
  EXPECT_NE(said.find("; got fast"), std::string::npos) << said;
}

TEST_F(EngineTest, RepeatsAndDependsOnKeys) {
  const EnginePrecision p = precision(Dtype::kF32);
  const Results first = run(Dtype::kF32, requests_, options_, p);
  expect_same(run(Dtype::kF32, requests_, options_, p), first);
  EXPECT_NE(first[0][0].ids, first[0][1].ids);
  GenerateOptions other = options_;
  other.keys.seed = 43;
  EXPECT_NE(run(Dtype::kF32, requests_, other, p)[0][0].ids, first[0][0].ids);
  other = options_;
  other.keys.step = 6;
  EXPECT_NE(run(Dtype::kF32, requests_, other, p)[0][0].ids, first[0][0].ids);
  // Samples are numbered from first_sample.
  const Results later = run(Dtype::kF32, {{&prompts_[2], 2, 1}}, options_, p);
  expect_same(later[0], {first[2][1], first[2][2]});
}

TEST_F(EngineTest, GreedyAndFilters) {
  const EnginePrecision p = precision(Dtype::kF16);
  options_.sampling.temperature = 0;
  const Results greedy = run(Dtype::kF16, requests_, options_, p);
  for (const auto& group : greedy) {
    expect_same(group, {group[0], group[0], group[0]});
  }
  // Greedy reports log-probs at temperature 1; keeping one token, or next to none of the mass, is greedy.
  options_.sampling.temperature = 1;
  expect_same(score(Dtype::kF16, greedy), greedy);
  options_.sampling.top_k = 1;
  expect_same(run(Dtype::kF16, requests_, options_, p), greedy);
  options_.sampling.top_k = 0;
  options_.sampling.top_p = 1e-4;
  expect_same(run(Dtype::kF16, requests_, options_, p), greedy);
}

TEST_F(EngineTest, StopTokensEndAndBelong) {
  const EnginePrecision p = precision(Dtype::kF32);
  options_.stop = StopRule();
  const Results open = run(Dtype::kF32, requests_, options_, p);
  const std::vector<int32_t> ends = {3, 7, 11};
  options_.stop = StopRule(ends);
  const Results stopped = run(Dtype::kF32, requests_, options_, p);
  int stops = 0;
  for (size_t i = 0; i < open.size(); ++i) {
    for (size_t j = 0; j < open[i].size(); ++j) {
      Completion expected = open[i][j];
      EXPECT_EQ(expected.ids.size(), 30u);
      EXPECT_EQ(expected.finish, Finish::kLength);
      const auto stop = std::find_first_of(expected.ids.begin(), expected.ids.end(), ends.begin(), ends.end());
      if (stop != expected.ids.end()) {
        ++stops;
        expected.finish = Finish::kStop;
        expected.ids.erase(stop + 1, expected.ids.end());
        expected.rollout_logprobs.resize(expected.ids.size());
      }
      expect_same({stopped[i][j]}, {expected});
    }
  }
  EXPECT_GT(stops, 0);
}

TEST_F(EngineTest, ResponsesEndAtTheLastPosition) {
  prompts_[0].ids.resize(250, 4);
  options_.stop = StopRule();
  options_.sampling.max_new_tokens = 1000;
  const Results r = run(Dtype::kF32, {requests_[0]}, options_, precision(Dtype::kF32));
  EXPECT_EQ(r[0][0].ids.size(), 6u);
  EXPECT_EQ(r[0][0].finish, Finish::kLength);
}

TEST_F(EngineTest, Cancelled) {
  RolloutConfig config;
  config.max_batch = 4;
  Engine engine(model(Dtype::kF32), config, precision(Dtype::kF32));
  int polls = 0;
  GenerateOptions options = options_;
  options.cancelled = [&] { return ++polls == 5; };
  EXPECT_THROW(engine.generate(requests_, options), Interrupted);
  EXPECT_EQ(polls, 5);
  expect_same(engine.generate(requests_, options_), run(Dtype::kF32, requests_, options_, precision(Dtype::kF32)));
  EXPECT_TRUE(engine.generate({}, options_).empty());
}

TEST_F(EngineTest, Errors) {
  const auto expect_error = [&](const std::string& part, int64_t cache_tokens = 0) {
    const std::string text = error_of(requests_, options_, cache_tokens);
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  // 100 prompt tokens and 30 new ones, the last of which is not fed: 129 tokens, 3 pages.
  expect_error(
      "prompt 12 (100 tokens) with up to 30 new ones needs 192 tokens (3 pages of 64), but "
      "rollout.cache_tokens is 150",
      150);
  expect_error("rollout.cache_tokens: the KV cache must fit into memory, got 2000000000: ", 2000000000);
  const std::vector<int32_t> ids = prompts_[3].ids;
  prompts_[3].ids.clear();
  expect_error("request 3 (prompt 13): the prompt has no tokens");
  prompts_[3].ids.assign(256, 1);
  expect_error("a prompt of 256 tokens leaves no position for a response: the model has 256 positions");
  prompts_[3].ids = {5, 61};
  expect_error("token 1 is 61, ids must lie in [0, 61)");
  prompts_[3].ids = {-1};
  expect_error("token 0 is -1");
  prompts_[3].ids = ids;
  requests_[2].n = 0;
  expect_error("n must be at least 1: got 0");
  requests_[2].n = 1;
  options_.stop = StopRule({61});
  expect_error("stop ids must lie in [0, 61): got 61");
  options_.stop = StopRule();
  options_.sampling.temperature = NAN;
  expect_error("temperature");
  options_.sampling.temperature = 1;
  options_.sampling.top_p = 0;
  expect_error("top_p must lie in (0, 1]: got 0");
  options_.sampling.top_p = 1;
  options_.sampling.max_new_tokens = 0;
  expect_error("max_new_tokens must be at least 1: got 0");
}

}  // namespace
}  // namespace mantissa
