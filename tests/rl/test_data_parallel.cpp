// Rollouts shared out over ranks: every rank ends with all samples, counters and values.
#include "rl/data_parallel.h"

#include <gtest/gtest.h>

#include "tests/support/ranks.h"

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
  sample.extracted = std::string(size_t(number), '4');
  return sample;
}

TEST(DataParallel, AllRanksGetAllSamples) {
  for (const size_t count : {size_t(0), size_t(1), size_t(2), size_t(7)}) {
    const Strings errors = run_ranks(3, [&](Comm& comm) {
      std::vector<RolloutGroup> groups(count);
      for (const size_t g : own_groups(count, comm))
        for (int i = 0; i < 3; ++i) groups[g].samples.push_back(sample_of(g, i));
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
          EXPECT_EQ(got.extracted, want.extracted);
        }
      }
    });
    EXPECT_EQ(errors, Strings(3)) << count;
  }
}

TEST(DataParallel, EveryGroupHasOneRank) {
  run_ranks(3, [](Comm& comm) {
    for (const size_t g : own_groups(8, comm)) EXPECT_EQ(int(g) % 3, comm.rank());
    EXPECT_EQ(own_groups(8, comm).size(), comm.rank() < 2 ? 3u : 2u);
  });
  EXPECT_EQ(own_groups(3, single_comm()), (std::vector<size_t>{0, 1, 2}));
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
