// Rollouts and whole runs with distributed.experts: what one process does.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/registry.h"
#include "rl/estimate.h"
#include "tests/support/message.h"
#include "tests/support/rank_runs.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;
using nlohmann::json;

constexpr const char* kGrpo = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic_moe"}
precision: {train: fp32, rollout: fp32, match: exact}
exact: {check: all}
rollout: {n: 4, max_new_tokens: 24}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm, kl_coef: 0.01}
train: {steps: 2, prompts_per_step: 6, mini_batch_size: 12, micro_batch_tokens: 96}
optim: {lr: 1.0e-4}
checkpoint: {keep: 0}
)";

Strings shared(int experts) {
  return {str("distributed.experts=", experts)};
}

class ExpertRuns : public RankRuns {
 protected:
  ExpertRuns() : RankRuns(kGrpo) {}

  void check_begin(const mantissa::Run& run, int) const override {
    EXPECT_EQ(run.model->decoder->shares_experts(), run.config.distributed.experts > 1);
  }
  void expect_same(const std::string& one, const std::string& some) const {
    const std::vector<json> a = lines(one), b = lines(some);
    ASSERT_EQ(a.size(), 2u);
    ASSERT_EQ(b.size(), 2u);
    EXPECT_EQ(b[0]["rollout/digest"], a[0]["rollout/digest"]);  // then weights differ in last bits
    for (size_t i = 0; i < 2; ++i) {
      for (const char* key : {"critic/score/mean", "response_length/mean"}) EXPECT_EQ(b[i][key], a[i][key]) << key;
      EXPECT_GT(double(b[i]["exact/checked_tokens"]), 0);
      EXPECT_EQ(double(b[i]["exact/differing_tokens"]), 0);
      for (const auto& [key, value] : a[i].items()) {
        if (!key.starts_with("actor/") && !key.starts_with("moe/")) continue;
        EXPECT_NEAR(double(b[i][key]), double(value), 1e-5 * std::abs(double(value)) + 1e-6) << key;
      }
    }
    expect_near(one, some);
  }
  /// Adam's first moment is made of gradients, the masters of updates. Adam divides by the gradient's own size, so that
  /// a weight whose gradient is next to nothing may go either way by the learning rate.
  void expect_near(const std::string& one, const std::string& some) const {
    EXPECT_LT(apart(one, some, "adam_m.safetensors"), 1e-6);
    EXPECT_LT(apart(one, some, "master.safetensors"), 2e-5);
  }
};

TEST_F(ExpertRuns, ARunIsThatOfOneProcess) {
  const std::string data = (fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl").string();
  const Strings common = {"eval.every=1", "eval.n=1", "eval.limit=3", "eval.files=" + data};
  train("one", 1, common);
  for (const auto& [ranks, experts] : {std::pair(2, 2), {4, 2}, {4, 4}}) {
    SCOPED_TRACE(str(ranks, " ranks, experts over ", experts));
    const std::string name = str("ranks_", ranks, "_", experts);
    train(name, ranks, with(common, shared(experts)));
    expect_same("one", name);
    ASSERT_EQ(lines(name, "eval.jsonl").size(), 2u);
    EXPECT_EQ(lines(name, "eval.jsonl")[0]["val-core/sanity/acc/mean@1"],
              lines("one", "eval.jsonl")[0]["val-core/sanity/acc/mean@1"]);
  }
}

TEST_F(ExpertRuns, FewGroupsLeaveRanksWithoutAny) {
  // Three ranks of four have no group, and only every second micro-batch round is full.
  const Strings common = {"train.prompts_per_step=1", "rollout.n=6", "train.mini_batch_size=6",
                          "train.micro_batch_tokens=64", "algorithm.dynamic_sampling=false"};
  for (const char* match : {"exact", "fast"}) {
    const Strings all = with(common, {str("precision.match=", match)});
    train("one", 1, all);
    train("four", 4, with(all, shared(2)));
    EXPECT_EQ(lines("four")[0]["rollout/digest"], lines("one")[0]["rollout/digest"]);
    expect_near("one", "four");
    fs::remove_all(dir_ / "one");
    fs::remove_all(dir_ / "four");
  }
}

TEST_F(ExpertRuns, InTheTypesOfAGpuFirstRolloutsHaveTheSameBits) {
  const Strings common = {"precision.train=fp16", "precision.rollout=fp16", "train.recompute=full",
                          "distributed.offload=optimizer", "rollout.draft=history"};
  train("one", 1, common);
  train("some", 4, with(common, shared(2)));
  EXPECT_EQ(lines("some")[0]["rollout/digest"], lines("one")[0]["rollout/digest"]);
  for (const json& line : lines("some")) EXPECT_EQ(double(line["exact/differing_tokens"]), 0);
  train("types", 2, with(shared(2), {"precision.train=fp32", "precision.rollout=fp16", "precision.match=fast"}));
  EXPECT_EQ(lines("types").size(), 2u);
}

TEST_F(ExpertRuns, ResumesOnAnyNumberOfRanksAndExperts) {
  train("straight", 1, {});
  int number = 0;
  for (const auto& [first, was, second, becomes] :
       {std::tuple(2, 2, 1, 1), {1, 1, 2, 2}, {4, 2, 2, 1}, {2, 1, 4, 4}, {4, 4, 2, 2}}) {
    SCOPED_TRACE(str(first, ", ", was, " to ", second, ", ", becomes));
    const std::string name = str("run_", number++);
    train(name, first, shared(was), 1);
    EXPECT_EQ(lines(name).size(), 1u);
    train(name, second, shared(becomes));
    expect_same("straight", name);
  }
}

TEST_F(ExpertRuns, WeightsInPartsBeside) {
  train("one", 1, {});
  for (const auto& [ranks, experts] : {std::pair(4, 2), {2, 2}}) {
    const std::string name = str("ranks_", ranks);
    train(name, ranks, with(shared(experts), {"distributed.shard=parameters"}), 1);
    train(name, ranks, with(shared(experts), {"distributed.shard=parameters"}));
    expect_same("one", name);
  }
  const Strings types = {"precision.train=bf16",         "precision.rollout=fp16",        "precision.match=fast",
                         "distributed.shard=parameters", "distributed.offload=optimizer", "train.recompute=full"};
  train("types", 4, with(shared(2), types));
  EXPECT_EQ(lines("types").size(), 2u);
  train("by_unit", 4, with(shared(2), {"distributed.shard=parameters", "distributed.gather=unit"}));
  expect_same("one", "by_unit");
}

TEST_F(ExpertRuns, AnAdapterOnAttention) {
  const Strings common = {"lora.rank=4", "lora.targets=[q_proj, k_proj, v_proj, o_proj]", "optim.lr=1.0e-3"};
  train("one", 1, common);
  train("some", 4, with(common, shared(2)));
  expect_same("one", "some");
}

TEST_F(ExpertRuns, AnOverflowSkipsTheStepOnAllRanks) {
  for (const char* parameter : {"layers.0.input_norm.weight", "layers.1.gate_up.weight"}) {
    train("run", 4,
          with(shared(2), {"precision.train=fp16", "precision.rollout=fp16", "train.inject_overflow_step=1",
                           str("train.inject_overflow_parameter=", parameter), "precision.match=fast"}));
    const std::vector<json> all = lines("run");
    EXPECT_EQ(double(all[0]["scaler/skipped"]), 1);
    EXPECT_EQ(double(all[1]["scaler/skipped"]), 0);
    fs::remove_all(dir_ / "run");
  }
}

TEST_F(ExpertRuns, AWarmStart) {
  const Strings common = {"train.mode=sft", "train.prompts_per_step=12", "train.mini_batch_size=6"};
  train("one", 1, common);
  train("some", 4, with(common, shared(4)));
  expect_near("one", "some");
}

TEST_F(ExpertRuns, WhatCannotBeIsRefusedByName) {
  const auto refusal = [&](int ranks, const Strings& overrides) {
    for (const std::string& error : run_ranks(ranks, [&](Comm& comm) {
           mantissa::Run run(config("run", with(overrides, {"run.name=x"})), {.resume = ""}, comm);
         }))
      if (error.find("[comm]") == std::string::npos) return error;
    return std::string();
  };
  EXPECT_EQ(refusal(3, shared(2)), "distributed.experts: must divide the number of ranks, 3, got 2");
  EXPECT_EQ(refusal(3, shared(3)), "distributed.experts: must divide the number of experts of the model, 8, got 3");
  EXPECT_EQ(refusal(2, with(shared(2), {"model.path=builtin:arithmetic"})),
            "distributed.experts: must be 1 for a model without experts, qwen3, got 2");
  EXPECT_NE(message_of([&] {
              config("run", with(shared(2), {"lora.rank=4", "lora.rollout=merged_in_place", "precision.match=fast"}));
            }).find("distributed.experts: must be 1 under lora.rollout: merged_in_place"),
            std::string::npos);
}

TEST_F(ExpertRuns, TheEstimateCountsTheExpertsOfARank) {
  const auto held = [&](int experts, const char* name) {
    const RunConfig c = config("run", with(shared(experts), {"run.device=cuda", "precision.match=fast"}));
    const MemoryEstimate e = estimate_memory(c, {.ranks = 8});
    for (const MemoryPart& part : e.held)
      if (part.name == name) return double(part.bytes);
    ADD_FAILURE() << name;
    return 0.0;
  };
  const ModelConfig m = load_model("builtin:arithmetic_moe", cpu(), Dtype::kF32, false)->config;
  const double experts = double(m.layers * m.experts.count * 3 * m.width * m.experts.feed_forward);
  EXPECT_NEAR(held(1, "gradients, fp32") - held(8, "gradients, fp32"), 4 * experts * 7 / 8, 65536);
  EXPECT_NEAR(held(1, "moments, fp32"), held(8, "moments, fp32"), 65536);
}

}  // namespace
}  // namespace mantissa
