// The estimate of a run's memory against the peak that the run reports, and what it leaves alone.
#include "rl/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/registry.h"
#include "core/rehearsal.h"
#include "rl/rollout/drafts.h"
#include "rl/run.h"
#include "tests/support/message.h"
#include "tests/support/ranks.h"
#include "tests/support/run_test.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;
using nlohmann::json;

/// Micro-batches of about 15 sequences; the KL term keeps those in that have no advantage.
constexpr const char* kGrpo = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic"}
rollout: {n: 4, max_new_tokens: 32}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm, kl_coef: 0.01}
train: {steps: 1, prompts_per_step: 8, mini_batch_size: 32, micro_batch_tokens: 512}
checkpoint: {every: 0, export_model: false}
)";

const Strings kSft = {"train.mode=sft", "train.mini_batch_size=8", "data.solution_key=solution"};

class Estimate : public RunTest {
 protected:
  Estimate() : RunTest(kGrpo) {}

  RunConfig config(Strings overrides = {}) const {
    overrides.insert(overrides.begin(), "data.limit=0");
    return RunTest::config("run", overrides);
  }

  /// The peak that a run on the CPU reports.
  double measured(const RunConfig& config) const {
    cpu().reset_peak();
    mantissa::Run run(config, {.overwrite = true});
    train(run, [] { return false; });
    std::ifstream in(dir_ / "run" / (run.sft() ? "sft.jsonl" : "metrics.jsonl"));
    json last;
    for (std::string line; std::getline(in, line);) last = json::parse(line);
    response_length_ = last.value("response_length/mean", 0.0);
    return last.at("perf/max_memory_allocated_gb");
  }

  void expect_within_a_tenth(const Strings& overrides) const {
    const RunConfig c = config(overrides);
    const double gb = measured(c);
    const MemoryEstimate e =
        estimate_memory(c, {.like = &cpu(), .response_length = int64_t(std::ceil(response_length_))});
    EXPECT_NEAR(double(e.peak) * 1e-9, gb, 0.1 * gb) << e.text();
  }

  static size_t part(const std::vector<MemoryPart>& parts, const std::string& name) {
    const auto it = std::ranges::find(parts, name, &MemoryPart::name);
    return it == parts.end() ? 0 : it->bytes;
  }

  mutable double response_length_ = 0;
};

TEST_F(Estimate, OfARolloutIsWithinATenth) {
  expect_within_a_tenth({});
}

TEST_F(Estimate, OfAMixedRunUnderPeerIsWithinATenth) {
  expect_within_a_tenth({"precision.train=bf16", "precision.rollout=fp16", "precision.match=peer",
                         "train.recompute=mlp", "algorithm.kl_coef=0.1"});
}

TEST_F(Estimate, OfFullRecomputationIsWithinATenth) {
  expect_within_a_tenth({"train.recompute=full", "train.head_chunk=64"});
}

TEST_F(Estimate, OfAnAdapterIsWithinATenth) {
  expect_within_a_tenth({"lora.rank=16", "lora.alpha=32"});
}

TEST_F(Estimate, OfAnAdapterToGoOnFromIsWithinATenth) {
  measured(config({"lora.rank=16", "checkpoint.export_model=true"}));
  for (const char* from : {"adapter", "checkpoints/step_1"}) {
    const fs::path kept = dir_ / "step_1";  // the name that a checkpoint must have
    fs::remove_all(kept);
    fs::copy(dir_ / "run" / from, kept, fs::copy_options::recursive);
    expect_within_a_tenth({"lora.init=" + kept.string(), "train.recompute=auto", "checkpoint.export_model=true"});
  }
}

TEST_F(Estimate, OfStateOnTheHostIsWithinATenthWhereTheDeviceIsTheHost) {
  expect_within_a_tenth({"distributed.offload=optimizer"});
}

TEST_F(Estimate, OfAWarmStartIsWithinATenth) {
  expect_within_a_tenth({kSft[0], kSft[1], kSft[2]});
  expect_within_a_tenth({kSft[0], kSft[1], kSft[2], "train.micro_batch_tokens=256", "precision.train=fp32"});
}

/// A GPU that is not there, in several processes: the parts that need no rehearsal are known numbers.
TEST_F(Estimate, PartsOfAnAbsentGpu) {
  const RunConfig c = config({"run.device=cuda", "precision.rollout=bf16"});
  const MemoryEstimate one = estimate_memory(c, {}), two = estimate_memory(c, {.ranks = 2});
  const size_t parameters = part(one.held, "weights, fp16") / 2;
  EXPECT_GT(parameters, 500'000u);
  EXPECT_EQ(part(one.held, "weights of rollouts, bf16"), 2 * parameters);
  EXPECT_EQ(part(one.held, "reference of the KL term"), 2 * parameters);
  EXPECT_EQ(part(one.held, "masters, fp32"), 4 * parameters);
  EXPECT_EQ(part(one.held, "moments, fp32"), 8 * parameters);
  EXPECT_EQ(part(one.held, "gradients, fp32"), 4 * parameters);
  EXPECT_NEAR(double(part(two.held, "moments, fp32")), double(4 * parameters), 1e4);
  EXPECT_NEAR(double(part(two.held, "gradients, fp32")), double(4 * parameters), 1e4);
  EXPECT_GT(part(one.held, "recorded graphs"), 0u);
  EXPECT_EQ(one.capacity, 80'000'000'000u);
  size_t sum = 0;
  for (const MemoryPart& p : one.held) sum += p.bytes;
  for (const MemoryPart& p : one.update) sum += p.bytes;
  EXPECT_EQ(one.peak, sum);
}

/// A decode step with guesses has as many rows as one of more sequences, but fewer pages.
TEST_F(Estimate, GuessesTakeTheRowsThatTheyMay) {
  const auto sampling = [&](const std::string& draft, int64_t n, int64_t rows, const std::string& device) {
    const MemoryEstimate e =
        estimate_memory(config({"precision.match=exact", "rollout.draft=" + draft, str("rollout.n=", n),
                                str("rollout.max_batch=", rows), "rollout.cache_tokens=65536", "run.device=" + device}),
                        {.like = device == "cpu" ? &cpu() : nullptr});
    return double(part(e.rollout, "activations, logits, workspaces"));
  };
  const int64_t most = 4 * (1 + Drafts::kMost);  // of the 4 responses to each of 8 prompts
  for (const char* device : {"cpu", "cuda"}) {
    const double rows_256 = sampling("none", 32, 256, device), rows_of_most = sampling("none", most, 4096, device);
    EXPECT_NEAR(sampling("history", 4, 256, device), rows_256, 0.01 * rows_256) << device;
    EXPECT_NEAR(sampling("history", 4, 4096, device), rows_of_most, 0.01 * rows_of_most) << device;
    EXPECT_LT(sampling("none", 4, 256, device), 0.9 * rows_256) << device << ": rows are what counts";
  }
}

TEST_F(Estimate, OffloadedStateIsCountedOnTheHost) {
  const MemoryEstimate e = estimate_memory(config({"distributed.offload=optimizer", "run.device=cuda"}), {});
  const size_t parameters = part(e.held, "weights, fp16") / 2;
  EXPECT_EQ(part(e.held, "masters, fp32"), 0u);
  EXPECT_EQ(part(e.host, "masters, fp32"), 4 * parameters);
  EXPECT_EQ(part(e.host, "moments, fp32"), 8 * parameters);
}

TEST_F(Estimate, WritesNothingAndSaysWhatIsWrong) {
  estimate_memory(config(), {});
  EXPECT_FALSE(fs::exists(dir_ / "run"));
  const RunConfig c = config({"model.path=" + (dir_ / "none").string()});
  EXPECT_THROW(estimate_memory(c, {}), Error);
}

TEST_F(Estimate, NamesTheLargestPart) {
  const std::string text = estimate_memory(config({"run.device=cuda", "lora.rank=4"}), {}).text();
  EXPECT_NE(text.find("largest: recorded graphs"), std::string::npos) << text;
  EXPECT_NE(text.find("perf/max_memory_allocated_gb"), std::string::npos) << text;
}

// ---- train.recompute: auto --------------------------------------------------------------------------------

/// A warm start has no KV cache, whose size would depend on the memory there is.
class RecomputeAuto : public Estimate {
 protected:
  RunConfig sft(const std::string& tier) const {
    return config({kSft[0], kSft[1], kSft[2], "train.recompute=" + tier});
  }
  MemoryEstimate estimate(const std::string& tier, size_t capacity) const {
    return estimate_memory(sft(tier), {.like = &cpu(), .capacity = capacity});
  }
  /// The most in use in an update under each tier.
  std::vector<TierPeak> peaks() const { return estimate("auto", 1000).tiers; }
  /// The least memory of which nine tenths are `bytes`.
  static size_t just_fits(size_t bytes) { return (bytes + 8) / 9 * 10; }
};

TEST_F(RecomputeAuto, TakesTheFirstTierThatFits) {
  const std::vector<TierPeak> all = peaks();
  ASSERT_EQ(all.size(), std::size(kRecomputeTiers));
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].tier, kRecomputeTiers[i].name);
    EXPECT_TRUE(i == 0 || all[i].bytes < all[i - 1].bytes) << all[i].tier << " needs less than the tier before it";
    EXPECT_EQ(all[i].bytes, estimate(all[i].tier, 1000).peak) << "what the tier needs where it is asked for";

    const MemoryEstimate e = estimate("auto", just_fits(all[i].bytes));
    EXPECT_EQ(e.tiers.back().tier, all[i].tier);
    EXPECT_EQ(e.tiers.size(), i + 1);
    EXPECT_EQ(e.peak, all[i].bytes);
    EXPECT_NE(e.text().find("train.recompute: auto takes " + all[i].tier + ": an update needs "), std::string::npos)
        << e.text();
    EXPECT_EQ(e.text().find("no tier fits"), std::string::npos) << e.text();
    const size_t next = std::min(i + 1, all.size() - 1);
    EXPECT_EQ(estimate("auto", just_fits(all[i].bytes) - 10).tiers.back().tier, all[next].tier);
  }
  const std::string text = estimate("auto", 1'000'000).text();
  EXPECT_NE(text.find("auto takes full"), std::string::npos) << text;
  EXPECT_NE(text.find(", mlp 0.0"), std::string::npos) << text;
  EXPECT_NE(text.find("nine tenths of 0.00100 GB: no tier fits"), std::string::npos) << text;
  EXPECT_NE(text.find("GB: does not fit"), std::string::npos) << text;
  EXPECT_EQ(estimate("mlp", 1000).choice(), "") << "there was nothing to choose";
}

TEST_F(RecomputeAuto, WhatDoesNotFitIsCountedWithTheLeastCache) {
  const MemoryEstimate e =
      estimate_memory(config({"rollout.cache_tokens=0"}), {.like = &cpu(), .capacity = size_t(1000)});
  EXPECT_GT(e.peak, 1'000'000u);
  EXPECT_NE(e.text().find("GB: does not fit"), std::string::npos) << e.text();
}

TEST_F(RecomputeAuto, CountsWhatAnUpdateNeedsNotWhatARolloutDoes) {
  // Of weights in parts the KV cache is there for rollouts alone.
  const RunConfig c = config({"train.recompute=auto", "distributed.shard=parameters", "rollout.cache_tokens=262144"});
  const MemoryEstimate large = estimate_memory(c, {.ranks = 2, .like = &cpu()});
  ASSERT_GT(large.peak, 2 * large.tiers.back().bytes);
  const MemoryEstimate e = estimate_memory(c, {.ranks = 2, .like = &cpu(), .capacity = large.peak / 2});
  EXPECT_EQ(e.tiers.back().tier, "none") << e.text();
}

TEST_F(RecomputeAuto, OneTierForAllRanksThatFitsIntoTheSmallestDevice) {
  const RunConfig c = sft("auto");
  const size_t of_two = estimate_memory(sft("elementwise"), {.ranks = 2, .like = &cpu()}).peak;
  Recompute taken[2] = {};
  EXPECT_EQ(run_ranks(2,
                      [&](Comm& comm) {
                        const size_t capacity = comm.rank() == 1 ? just_fits(of_two) : 8'000'000'000;
                        taken[comm.rank()] = choose_recompute(c, cpu(), capacity, comm);
                      }),
            Strings(2));
  EXPECT_EQ(taken[0], Recompute::kElementwise);
  EXPECT_EQ(taken[1], Recompute::kElementwise);
}

TEST_F(RecomputeAuto, RanksOnTheCpuHaveItsMemoryTogether) {
  const size_t all = cpu().memory().capacity;
  EXPECT_EQ(estimate_memory(sft("auto"), {.ranks = 4, .like = &cpu()}).capacity, all / 4);
  EXPECT_EQ(capacity_of(Rehearsal("cuda", 1000), 4), 1000u) << "of a GPU each";
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_ranks(2,
                      [&](Comm& comm) {
                        mantissa::Run run(sft("auto"), {}, comm);
                        train(run, [] { return false; });
                      }),
            Strings(2));
  const std::string log = testing::internal::GetCapturedStderr();
  const std::string half = estimate_memory(sft("auto"), {.ranks = 2, .like = &cpu()}).choice();
  EXPECT_NE(log.find(half), std::string::npos) << half << log;
}

TEST_F(RecomputeAuto, ARunTakesItWhenItBegins) {
  mantissa::Run run(sft("auto"), {});
  EXPECT_EQ(run.trainer->options().recompute, Recompute::kFull) << "nothing is known yet";
  testing::internal::CaptureStderr();
  train(run, [] { return false; });
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(run.trainer->options().recompute, Recompute::kNone);
  EXPECT_NE(log.find("train.recompute: auto takes none: an update needs "), std::string::npos) << log;
  EXPECT_EQ(log.find(" problems"), std::string::npos) << "what opening the run had said: " << log;
}

TEST_F(RecomputeAuto, OtherWordsAreRefused) {
  const std::string message = message_of([&] { sft("most"); });
  EXPECT_NE(message.find("train.recompute"), std::string::npos) << message;
  EXPECT_NE(message.find("none, elementwise, mlp, full, auto"), std::string::npos) << message;
}

}  // namespace
}  // namespace mantissa
