// Runs of a mixture of experts whose rollouts round otherwise than training: how often the routes agree, and what
// moe.replay makes of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <regex>

#include "core/registry.h"
#include "rl/run.h"
#include "rl/train/routes.h"
#include "tests/support/message.h"
#include "tests/support/ranks.h"
#include "tests/support/run_test.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;
using nlohmann::json;

constexpr const char* kPeer = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic_moe"}
precision: {train: bf16, rollout: bf16, match: peer}
rollout: {n: 4, max_new_tokens: 32}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm}
train: {steps: 1, prompts_per_step: 8, mini_batch_size: 16, micro_batch_tokens: 256}
optim: {lr: 5.0e-5}
checkpoint: {export_model: false}
)";

class Replay : public RunTest {
 protected:
  Replay() : RunTest(kPeer) {}

  void run(
      const std::string& name, Comm& comm, const Strings& overrides, const std::string& resume = "",
      const std::function<bool(int64_t)>& stop = [](int64_t) { return false; }) const {
    mantissa::Run run(config(name, overrides), {.resume = resume}, comm);
    mantissa::train(run, [&] { return stop(run.step); });
  }
  /// Without what the clock decides.
  std::vector<json> metrics(const std::string& name) const {
    static const std::regex exempt(R"re(, "(timing_s|perf)/[^"]*": [^,}]*)re");
    std::ifstream in(dir_ / name / "metrics.jsonl");
    std::vector<json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(std::regex_replace(line, exempt, "")));
    return lines;
  }
  std::vector<json> train(const std::string& name, const Strings& overrides = {}) const {
    run(name, single_comm(), overrides);
    return metrics(name);
  }
};

TEST_F(Replay, BringsLogprobsNearerWhereRoutesDisagree) {
  const json none = train("none")[0], replayed = train("replayed", {"moe.replay=rollout"})[0];
  EXPECT_EQ(none["rollout/digest"], replayed["rollout/digest"]) << "the same rollout";
  for (const json& line : {none, replayed}) {
    EXPECT_LT(line["moe/route_agreement"], 1);
    EXPECT_GT(line["moe/route_agreement"], 0.9);
  }
  EXPECT_LT(replayed["rollout_corr/k3_kl"], none["rollout_corr/k3_kl"]);
  EXPECT_LT(replayed["rollout_corr/abs_logprob_diff"], none["rollout_corr/abs_logprob_diff"]);
  EXPECT_NE(replayed["actor/grad_norm"], none["actor/grad_norm"]);

  const json full = train("full", {"moe.replay=rollout", "train.recompute=full"})[0];
  for (const auto& [name, value] : replayed.items()) EXPECT_EQ(full[name], value) << name;
}

TEST_F(Replay, ChangesNoBitWhereRoutesAgree) {
  // On the CPU fast is exact: the rollout's routes are those that training takes, as long as no weight has moved.
  const Strings fast = {"precision.match=fast", "train.steps=2", "train.mini_batch_size=32"};
  Strings with = fast;
  with.push_back("moe.replay=rollout");
  const std::vector<json> none = train("none", fast), replayed = train("replayed", with);
  ASSERT_EQ(none.size(), 2u);
  EXPECT_EQ(replayed, none);
  for (const json& line : none) EXPECT_EQ(line["moe/route_agreement"], 1);
}

TEST_F(Replay, ReachesTheTrainerOnEveryRank) {
  const Strings with = {"moe.replay=rollout"};
  const json alone = train("alone", with)[0];
  for (const char* experts : {"1", "2"}) {
    Strings overrides = with;
    overrides.push_back(str("distributed.experts=", experts));
    EXPECT_EQ(run_ranks(2, [&](Comm& comm) { run(experts, comm, overrides); }), Strings(2));
    const json two = metrics(experts)[0];
    EXPECT_EQ(two["rollout/digest"], alone["rollout/digest"]);
    EXPECT_EQ(two["moe/route_agreement"], alone["moe/route_agreement"]);
    for (const char* name : {"rollout_corr/k3_kl", "actor/grad_norm", "actor/pg_loss"})
      EXPECT_NEAR(two[name].get<double>(), alone[name].get<double>(), 1e-4 * std::abs(alone[name].get<double>()))
          << name << ", experts over " << experts;
  }
}

TEST_F(Replay, AResumedRunGoesOnWithTheSameBits) {
  const Strings with = {"moe.replay=rollout", "train.steps=3", "checkpoint.every=1"};
  const std::vector<json> whole = train("whole", with);
  run("parts", single_comm(), with, "", [](int64_t step) { return step == 1; });
  run("parts", single_comm(), with, "auto");
  EXPECT_EQ(metrics("parts"), whole);
  Strings other = with;
  other[0] = "moe.replay=none";
  other[1] = "train.steps=4";
  EXPECT_NE(message_of([&] { run("parts", single_comm(), other, "auto"); }).find("moe.replay"), std::string::npos);
}

TEST_F(Replay, IsRefusedWhereItIsNeedless) {
  const auto error = [&](const Strings& overrides) {
    Strings with = {"moe.replay=rollout"};
    with.insert(with.end(), overrides.begin(), overrides.end());
    return message_of([&] { train("refused", with); });
  };
  EXPECT_EQ(error({"model.path=builtin:arithmetic"}),
            "moe.replay: rollout needs a mixture of experts: builtin:arithmetic has none");
  EXPECT_NE(error({"precision.match=exact"}).find("moe.replay: must be none under precision.match: exact"),
            std::string::npos);
  EXPECT_NE(error({"train.mode=sft", "train.mini_batch_size=4", "data.solution_key=solution"})
                .find("moe.replay: must be none in sft"),
            std::string::npos);
}

/// Weights that change behind a rollout: what training forwards goes to the rollout's experts all the same.
TEST_F(Replay, TrainingGoesToTheExpertsOfTheRollout) {
  mantissa::Run run(config("run", {"precision.match=fast"}), {});
  const std::vector<Request> requests = requests_for(std::span(run.prompts).first(6), 2);
  const auto completions = run.engine->generate(requests, {.sampling = run.config.rollout.sampling,
                                                           .stop = run.stop_rule(),
                                                           .keys = {3, 0},
                                                           .record_routes = true,
                                                           .cancelled = {}});
  std::vector<TrainSequence> sequences;
  for (size_t i = 0; i < completions.size(); ++i)
    for (const Completion& c : completions[i])
      sequences.push_back({.prompt = requests[i].prompt, .completion = &c, .advantage = 1});
  const MiniBatch mini = make_mini_batches(sequences, 64, 4096)[0];
  ASSERT_EQ(mini.micro.size(), 1u);
  const TrainBatch& batch = mini.micro[0];

  Exec& exec = run.exec;
  const ParamLayout& layout = run.model->params.layout;
  for (int layer = 0; layer < 4; ++layer) {  // another scale of what the router reads
    Tensor weight = run.model->params.compute[layout.find(str("layers.", layer, ".o.weight"))];
    MANTISSA_RUN(exec, unary, weight, weight, Unary::kAffine, 0.7, 0.0);
  }
  DeviceBatch device(exec.backend(), batch);
  device.add_routes(exec.backend(), batch, run.model->config);
  const int64_t tokens = int64_t(batch.ids.size());
  const auto forward = [&](bool replay, RouteCounts& counts, std::vector<Tensor>& offsets) {
    LogprobOptions options = run.trainer->options().logprobs;
    options.replay_routes = replay;
    options.same_routes = exec.empty({4, tokens}, Dtype::kI32);
    options.expert_offsets = &offsets;
    Tape tape(exec, false);
    const std::vector<float> logprobs =
        to_host<float>(batch_logprobs(tape, *run.model, device, options).logprobs.value());
    counts.add(batch, options.same_routes);
    double apart = 0;
    for (size_t i = 0; i < logprobs.size(); ++i) apart += std::abs(logprobs[i] - batch.rollout_logprobs[i]);
    return apart / double(logprobs.size());
  };
  RouteCounts own, beside;
  std::vector<Tensor> own_offsets, offsets;
  const double free = forward(false, own, own_offsets), replayed = forward(true, beside, offsets);
  EXPECT_LT(own.same, own.pairs);
  EXPECT_LT(beside.same, beside.pairs) << "the router's choice, not what is taken";
  EXPECT_LT(replayed, free);

  // All tokens but the last of each sequence, which goes where its router says.
  const std::vector<uint8_t> given = given_routes(batch, run.model->config);
  bool differs = false;
  for (size_t layer = 0; layer < 4; ++layer) {
    const std::vector<int32_t> bounds = to_host<int32_t>(offsets[layer]);
    std::vector<int32_t> free_rows(8);
    for (size_t e = 0; e < 8; ++e) free_rows[e] = bounds[e + 1] - bounds[e];
    for (size_t i = layer * size_t(tokens) * 2; i < (layer + 1) * size_t(tokens) * 2; ++i)
      if (given[i] != kNotGiven) --free_rows[given[i]];
    EXPECT_GE(*std::min_element(free_rows.begin(), free_rows.end()), 0) << layer;
    EXPECT_EQ(std::accumulate(free_rows.begin(), free_rows.end(), 0), 2 * std::ssize(sequences)) << layer;
    differs = differs || to_host<int32_t>(own_offsets[layer]) != bounds;
  }
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace mantissa
