// Rollouts shared out over ranks: every rank ends with all samples, counters and values.
#include "rl/data_parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "core/random.h"
#include "core/registry.h"
#include "nn/model.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

/// A sample that tells where it was made.
RolloutSample sample_of(size_t group, int number) {
  RolloutSample sample;
  for (int i = 0; i <= number; ++i) sample.completion.ids.push_back(int32_t(10 * group) + i);
  sample.completion.rollout_logprobs.assign(sample.completion.ids.size(), -0.5f * float(group));
  sample.completion.finish = number % 2 ? Finish::kStop : Finish::kLength;
  sample.completion.policy_version = int64_t(group) + 7;
  sample.completion.text = number == 0 ? "" : str("text ", group, '\0', number);
  sample.reward = 0.25 * number;
  sample.rewards = {sample.reward, NAN};
  sample.correct = number == 1;
  sample.extracted = std::string(size_t(number), '4');
  sample.status = number % 2 ? GradeStatus::kTimeout : GradeStatus::kParsed;
  sample.verdict = number % 2 ? GradeStatus::kParsed : GradeStatus::kError;
  if (group % 2) {  // recorded routes, in the first sample of no token
    sample.completion.routes.prompt = std::make_shared<TokenRoutes::Bytes>(5, uint8_t(group));
    sample.completion.routes.response = std::make_shared<TokenRoutes::Bytes>(size_t(number), uint8_t(group + 1));
  }
  return sample;
}

TEST(DataParallel, AllRanksGetAllSamples) {
  for (const size_t count : {size_t(0), size_t(1), size_t(2), size_t(7)}) {
    const Strings errors = run_ranks(3, [&](Comm& comm) {
      std::vector<RolloutGroup> groups(count);
      for (size_t g = 0; g < count; ++g)
        for (int i = 0; i < 3; ++i)
          if ((g * g) % 3 == size_t(comm.rank())) groups[g].samples.push_back(sample_of(g, i));
      share_samples(groups, comm);
      for (size_t g = 0; g < count; ++g) {
        ASSERT_EQ(groups[g].samples.size(), 3u);
        for (int i = 0; i < 3; ++i) {
          const RolloutSample &got = groups[g].samples[size_t(i)], want = sample_of(g, i);
          EXPECT_EQ(got.completion.ids, want.completion.ids);
          EXPECT_EQ(got.completion.rollout_logprobs, want.completion.rollout_logprobs);
          EXPECT_EQ(got.completion.finish, want.completion.finish);
          EXPECT_EQ(got.completion.policy_version, want.completion.policy_version);
          EXPECT_EQ(got.completion.text, want.completion.text);
          EXPECT_EQ(got.reward, want.reward);
          EXPECT_EQ(got.correct, want.correct);
          ASSERT_EQ(got.rewards.size(), 2u);
          EXPECT_EQ(got.rewards[0], want.reward);
          EXPECT_TRUE(std::isnan(got.rewards[1]));
          EXPECT_EQ(got.extracted, want.extracted);
          EXPECT_EQ(got.status, want.status) << "it says whether the sample is trained on";
          EXPECT_EQ(got.verdict, want.verdict) << "it says whether an evaluation counts it";
          const TokenRoutes &routes = got.completion.routes, &expected = want.completion.routes;
          ASSERT_EQ(routes.recorded(), g % 2 == 1);
          if (!routes.recorded()) continue;
          EXPECT_EQ(*routes.prompt, *expected.prompt);
          EXPECT_EQ(*routes.response, *expected.response);
          EXPECT_EQ(routes.prompt, groups[g].samples[0].completion.routes.prompt) << "held once";
        }
      }
    });
    EXPECT_EQ(errors, Strings(3)) << count;
  }
}

TEST(DataParallel, EveryGroupHasOneRank) {
  for (const bool none : {true, false}) {
    const Strings errors = run_ranks(2, [&](Comm& comm) {
      std::vector<RolloutGroup> groups(3);
      for (size_t g = 0; g < (none ? 2 : 3); ++g)
        if (!none || comm.rank() == 1) groups[g].samples.push_back(sample_of(g, 0));
      share_samples(groups, comm);
    });
    for (const std::string& error : errors)
      EXPECT_EQ(error, none ? "[ranks] no rank has samples of group 2 of 3"
                            : "[ranks] rank 1 has samples of group 0 of 3, and so has rank 0");
  }
}

std::vector<Prompt> make_prompts(size_t count) {
  std::vector<Prompt> prompts(count);
  RandomStream random(3, 1);
  for (size_t i = 0; i < count; ++i) {
    prompts[i].id = int64_t(i);
    for (uint32_t t = 0; t < 3 + 20 * (i % 5); ++t) prompts[i].ids.push_back(int32_t(random.below(61)));
  }
  return prompts;
}

TEST(DataParallel, RolloutsAreTheSameBitsOnAnyNumberOfRanks) {
  // On the CPU a sample does not depend on what is sampled beside it.
  const std::vector<Prompt> prompts = make_prompts(5);
  GenerateOptions options;
  options.sampling.max_new_tokens = 12;
  options.keys = {42, 5};
  std::vector<std::vector<RolloutGroup>> results;
  for (const auto& [number, match] : {std::pair(1, Match::kExact), std::pair(2, Match::kExact),
                                      std::pair(3, Match::kExact), std::pair(3, Match::kFast)}) {
    const int ranks = number;
    EnginePrecision precision;
    precision.match = match;
    std::vector<std::vector<RolloutGroup>> on_rank{size_t(ranks)};
    const Strings errors = run_ranks(ranks, [&](Comm& comm) {
      const auto model = random_model(tiny_model(), cpu(), Dtype::kF16, false, 17);
      Engine engine(*model, RolloutConfig(), precision);
      std::vector<RolloutGroup>& groups = on_rank[size_t(comm.rank())];
      for (const Prompt& prompt : prompts) groups.push_back({prompt, {}});
      sample_own(engine, groups, 3, options, comm);
      share_samples(groups, comm);
    });
    EXPECT_EQ(errors, Strings(size_t(ranks)));
    for (std::vector<RolloutGroup>& groups : on_rank) results.push_back(std::move(groups));
  }
  for (const std::vector<RolloutGroup>& groups : results) {
    ASSERT_EQ(groups.size(), prompts.size());
    for (size_t g = 0; g < groups.size(); ++g)
      for (size_t i = 0; i < 3; ++i) {
        const Completion &one = results[0][g].samples.at(i).completion, &other = groups[g].samples.at(i).completion;
        EXPECT_EQ(one.ids, other.ids);
        EXPECT_EQ(one.rollout_logprobs, other.rollout_logprobs);
        EXPECT_FALSE(one.ids.empty());
      }
  }
}

TEST(DataParallel, UnderExactASlowRankLeavesGroupsToTheOthers) {
  const std::vector<Prompt> prompts = make_prompts(12);
  for (const Match match : {Match::kExact, Match::kFast}) {
    std::vector<size_t> sampled(2);
    std::atomic<bool> first_is_done = false;
    const Strings errors = run_ranks(2, [&](Comm& comm) {
      const auto model = random_model(tiny_model(), cpu(), Dtype::kF16, false, 17);
      RolloutConfig config;
      config.max_batch = 2;
      EnginePrecision precision;
      precision.match = match;
      Engine engine(*model, config, precision);
      GenerateOptions options;
      options.sampling.max_new_tokens = 8;
      options.keys = {42, 5};
      options.cancelled = [&] {  // rank 1 goes on from its first step when rank 0 has nothing left to do
        if (comm.rank() == 1) first_is_done.wait(false);
        return false;
      };
      std::vector<RolloutGroup> groups;
      for (const Prompt& prompt : prompts) groups.push_back({prompt, {}});
      sample_own(engine, groups, 2, options, comm);
      if (comm.rank() == 0) {
        first_is_done = true;
        first_is_done.notify_all();
      }
      for (const RolloutGroup& group : groups) sampled[size_t(comm.rank())] += !group.samples.empty();
      share_samples(groups, comm);
    });
    EXPECT_EQ(errors, Strings(2));
    EXPECT_EQ(sampled[0] + sampled[1], 12u);
    EXPECT_LE(sampled[1], match == Match::kFast ? 6u : 1u);  // under exact: what it took before its first step
    EXPECT_GE(sampled[1], match == Match::kFast ? 6u : 0u);
  }
}

TEST(DataParallel, CountersAndValues) {
  const Strings errors = run_ranks(2, [](Comm& comm) {
    Metrics metrics, own;
    metrics.set("verifier/parsed", 100);
    own.set("verifier/parsed", 1 + comm.rank());
    own.set("verifier/error", 5);
    add_counters(metrics, own, comm);
    EXPECT_EQ(metrics.get("verifier/parsed"), 103);
    EXPECT_EQ(metrics.get("verifier/error"), 10);

    std::vector<int32_t> values;
    if (comm.rank() == 1) values = {4, 5};
    concatenate(values, comm);
    EXPECT_EQ(values, (std::vector<int32_t>{4, 5}));

    IdleTime idle;
    idle.start();
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    idle.meet();
    const double fraction = idle.fraction(comm, 0.2);  // of two ranks' 0.2 s one has waited 0.2 s
    EXPECT_GT(fraction, 0.4);
    EXPECT_LT(fraction, 1.0);
  });
  EXPECT_EQ(errors, Strings(2));
}

}  // namespace
}  // namespace mantissa
