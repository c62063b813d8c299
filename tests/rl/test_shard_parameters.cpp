// Whole runs with distributed.shard: parameters: what one process does, and the same bits as with whole weights.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/file.h"
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
model: {path: "builtin:arithmetic"}
rollout: {n: 4, max_new_tokens: 24}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm}
train: {steps: 2, prompts_per_step: 6, mini_batch_size: 12, micro_batch_tokens: 96}
optim: {lr: 1.0e-4}
checkpoint: {keep: 0}
)";

class ShardParameters : public RankRuns {
 protected:
  ShardParameters() : RankRuns(kGrpo) {}

  void check_begin(const mantissa::Run& run, int ranks) const override {
    EXPECT_EQ(run.model->params.in_parts(), ranks > 1 && run.config.distributed.shard == "parameters");
  }
  void check_end(const mantissa::Run& run) const override {
    EXPECT_EQ(run.gathers_by_unit.value_or(false), run.config.distributed.gather == "unit");
    EXPECT_FALSE(run.model->params.in_parts() && run.model->params.rollout.defined()) << "gathered for rollouts alone";
  }
};

const Strings kExact = {"precision.match=exact", "exact.check=all"};

TEST_F(ShardParameters, ARunIsThatOfOneProcess) {
  const Strings common = with(kExact, {"precision.train=fp32", "precision.rollout=fp32", "algorithm.kl_coef=0.01"});
  train("one", 1, common);
  for (const int ranks : {2, 3}) {
    SCOPED_TRACE(ranks);
    const std::string name = str("ranks_", ranks);
    train(name, ranks, with(common, {"distributed.shard=parameters"}));
    const std::vector<json> one = lines("one"), some = lines(name);
    ASSERT_EQ(some.size(), 2u);
    EXPECT_EQ(some[0]["rollout/digest"], one[0]["rollout/digest"]);  // then weights differ in last bits
    for (size_t i = 0; i < 2; ++i) {
      for (const char* key : {"critic/score/mean", "response_length/mean"}) EXPECT_EQ(some[i][key], one[i][key]) << key;
      EXPECT_GT(double(some[i]["exact/checked_tokens"]), 0);
      EXPECT_EQ(double(some[i]["exact/differing_tokens"]), 0);
      for (const char* key : {"actor/grad_norm", "actor/pg_loss", "actor/entropy"})
        EXPECT_NEAR(double(some[i][key]), double(one[i][key]), 1e-5 * std::abs(double(one[i][key])) + 1e-6) << key;
    }
    EXPECT_LT(apart("one", name), 1e-6);
  }
}

TEST_F(ShardParameters, WithOneMicroBatchARankTheBitsAreThoseOfWholeWeights) {
  for (const Strings& kind :
       {with(kExact, {"train.recompute=full", "distributed.offload=optimizer"}),
        Strings{"precision.train=bf16", "precision.rollout=fp16", "precision.match=fast", "algorithm.kl_coef=0.1"},
        with(kExact, {"model.path=builtin:arithmetic_moe"})}) {
    const Strings common =
        with(kind, {"train.micro_batch_tokens=4096", "train.prompts_per_step=8", "train.mini_batch_size=16",
                    "eval.every=1", "eval.n=2", "eval.limit=3",
                    "eval.files=" + (fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl").string()});
    for (const char* shard : {"optimizer", "parameters"})
      train(shard, 2, with(common, {str("distributed.shard=", shard)}));
    EXPECT_EQ(read_file(in_checkpoint("parameters")), read_file(in_checkpoint("optimizer")));
    EXPECT_EQ(read_file(dir_ / "parameters/model/model.safetensors"),
              read_file(dir_ / "optimizer/model/model.safetensors"));
    const std::vector<json> whole = lines("optimizer"), parts = lines("parameters");
    for (size_t i = 0; i < 2; ++i)
      for (const char* key : {"rollout/digest", "actor/grad_norm", "actor/pg_loss"})
        EXPECT_EQ(parts[i][key], whole[i][key]) << key;
    fs::remove_all(dir_ / "optimizer");
    fs::remove_all(dir_ / "parameters");
  }
}

TEST_F(ShardParameters, RolloutsGatherWeightsByUnitToTheSameBits) {
  const std::string data = (fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl").string();
  for (const Strings& kind :
       {with(kExact, {"rollout.draft=history", "train.epochs=2"}),
        Strings{"precision.match=fast", "precision.train=bf16", "precision.rollout=fp16"},
        Strings{"precision.match=peer", "rollout.cache_tokens=512", "distributed.offload=optimizer"},
        with(kExact, {"model.path=builtin:arithmetic_moe", "precision.rollout=fp32", "precision.train=fp32"})})
    for (const int ranks : {2, 3}) {
      SCOPED_TRACE(str(kind[0], ' ', kind[1], ", ranks: ", ranks));
      // Of two problems to evaluate the third rank has none; groups of different lengths end at different steps.
      const Strings common = with(
          kind, {"distributed.shard=parameters", "eval.every=1", "eval.n=2", "eval.limit=2", "eval.files=" + data});
      for (const char* gather : {"whole", "unit"})
        train(gather, ranks, with(common, {str("distributed.gather=", gather)}));
      const std::vector<json> whole = lines("whole"), unit = lines("unit");
      ASSERT_EQ(unit.size(), 2u);
      for (size_t i = 0; i < 2; ++i)
        for (const char* key : {"rollout/digest", "actor/grad_norm", "actor/pg_loss", "critic/score/mean"})
          EXPECT_EQ(unit[i][key], whole[i][key]) << key;
      EXPECT_EQ(read_file(in_checkpoint("unit")), read_file(in_checkpoint("whole")));
      fs::remove_all(dir_ / "whole");
      fs::remove_all(dir_ / "unit");
    }
}

TEST_F(ShardParameters, CheckpointsInTheBackgroundHaveTheSameBits) {
  const Strings common = with(kExact, {"checkpoint.every=1", "train.steps=3", "distributed.offload=optimizer"});
  for (const char* shard : {"optimizer", "parameters"}) {
    for (const char* background : {"true", "false"})
      train(background, 2, with(common, {str("distributed.shard=", shard), str("checkpoint.background=", background)}));
    for (const char* step : {"step_1", "step_2", "step_3"})
      for (const char* file : {"master", "adam_m", "adam_v"}) {
        const fs::path path = fs::path("checkpoints") / step / (str(file) + ".safetensors");
        EXPECT_EQ(read_file(dir_ / "true" / path), read_file(dir_ / "false" / path)) << shard << ' ' << path;
      }
    fs::remove_all(dir_ / "true");
    fs::remove_all(dir_ / "false");
  }
}

TEST_F(ShardParameters, ResumesOnAnyNumberOfRanksWithEitherSharding) {
  const Strings parts = {"distributed.shard=parameters"}, whole = {"distributed.shard=optimizer"};
  const Strings common = with(kExact, {"precision.train=fp32", "precision.rollout=fp32"});
  train("straight", 1, common);
  int number = 0;
  for (const auto& [first, was, second, becomes] :
       {std::tuple(2, parts, 1, parts), {1, whole, 2, parts}, {2, parts, 2, whole}, {2, whole, 3, parts}}) {
    SCOPED_TRACE(str(first, was[0], ", ", second, becomes[0]));
    const std::string name = str("run_", number++);
    train(name, first, with(common, was), 1);
    EXPECT_EQ(lines(name).size(), 1u);
    train(name, second, with(common, becomes));
    EXPECT_EQ(lines(name).size(), 2u);
    EXPECT_LT(apart("straight", name), 1e-6);
  }
}

TEST_F(ShardParameters, AnOverflowSkipsTheStepOnAllRanks) {
  train("run", 2, {"distributed.shard=parameters", "train.inject_overflow_step=1", "precision.match=fast"});
  const std::vector<json> all = lines("run");
  EXPECT_EQ(double(all[0]["scaler/skipped"]), 1);
  EXPECT_EQ(double(all[1]["scaler/skipped"]), 0);
}

TEST_F(ShardParameters, WhatCannotBeIsRefusedByName) {
  EXPECT_NE(message_of([&] {
              config("run", {"distributed.shard=parameters", "lora.rank=4"});
            }).find("distributed.shard: must be optimizer with an adapter"),
            std::string::npos);
  EXPECT_NE(
      message_of([&] {
        config("run", {"distributed.gather=unit"});
      }).find("distributed.gather: must be auto where weights are whole (distributed.shard: optimizer), got unit"),
      std::string::npos);
  // A GPU that is not there, too small for the weights of all ranks.
  const RunConfig small = config("run", {"run.device=cuda", "distributed.shard=parameters"});
  const MemoryEstimate fits = estimate_memory(small, {.ranks = 8});
  size_t held = 0;
  for (const MemoryPart& part : fits.held)
    if (part.name.ends_with("fp16") || part.name.ends_with("fp32")) held += part.bytes;
  const RunConfig whole =
      config("run", {"run.device=cuda", "distributed.shard=parameters", "distributed.gather=whole"});
  const std::string message = message_of([&] { estimate_memory(whole, {.ranks = 8, .capacity = held}); });
  EXPECT_NE(message.find("distributed.gather: whole: a rollout needs the weights of all ranks"), std::string::npos)
      << message;
}

TEST_F(ShardParameters, RolloutsGatherByUnitWhereWholeWeightsDoNotFit) {
  // Many layers, so that two are little beside all, and all much beside workspaces.
  const fs::path builtin = fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic";
  json shape = json::parse(read_file(builtin / "config.json"));
  for (const auto& [key, value] :
       {std::pair("num_hidden_layers", 40), {"hidden_size", 512}, {"intermediate_size", 2048}})
    shape[key] = value;
  write_file(dir_ / "config.json", shape.dump());
  fs::copy(builtin / "tokenizer.json", dir_ / "tokenizer.json");
  const auto estimate = [&](const char* gather, int64_t cache, size_t capacity) {
    const RunConfig c = config("run", {"run.device=cuda", "distributed.shard=parameters",
                                       "model.path=random:" + (dir_ / "config.json").string(),
                                       str("distributed.gather=", gather), str("rollout.cache_tokens=", cache)});
    return estimate_memory(c, {.ranks = 8, .capacity = capacity});
  };
  const std::string by_unit = "weights of two layers, KV cache, activations; no gradients";
  const MemoryEstimate whole = estimate("auto", 64, 80'000'000'000), unit = estimate("unit", 64, 80'000'000'000);
  EXPECT_EQ(whole.rollout.at(0).name, "all weights, KV cache, activations; no gradients");
  EXPECT_EQ(unit.rollout.at(0).name, by_unit);
  EXPECT_LT(unit.rollout[0].bytes, whole.rollout[0].bytes);
  EXPECT_NE(unit.text().find(by_unit), std::string::npos);

  size_t parts = 0, others = 0;  // held when a rollout begins
  for (const MemoryPart& part : whole.held)
    if (part.name == "weights, fp16")
      parts = part.bytes;
    else if (part.name != "gradients, fp32" && part.name != "recorded graphs")
      others += part.bytes;
  const size_t fits = others + parts + 8 * parts;  // with nothing for a cache
  for (const int64_t cache : {0, 64}) {
    EXPECT_EQ(estimate("auto", cache, fits - 4 * parts).rollout.at(0).name, by_unit);
    EXPECT_NE(estimate("auto", cache, 2 * fits).rollout.at(0).name, by_unit);
  }
}

TEST_F(ShardParameters, TheEstimateCountsParts) {
  const auto held = [&](const char* shard, const char* name) {
    const RunConfig c = config("run", {"run.device=cuda", str("distributed.shard=", shard)});
    const MemoryEstimate e = estimate_memory(c, {.ranks = 4});
    for (const MemoryPart& part : e.held)
      if (part.name == name) return double(part.bytes);
    ADD_FAILURE() << name;
    return 0.0;
  };
  for (const char* name : {"weights, fp16", "gradients, fp32"})
    EXPECT_NEAR(held("parameters", name), held("optimizer", name) / 4, 1024) << name;
  EXPECT_EQ(held("parameters", "moments, fp32"), held("optimizer", "moments, fp32"));
}

}  // namespace
}  // namespace mantissa
