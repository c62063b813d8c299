// Exact mode: whole runs in which rollout and training agree bit for bit, and what happens when they do not.
#include "rl/exact.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/registry.h"
#include "rl/algorithm/policy_loss.h"
#include "rl/run.h"
#include "rl/train/first_difference.h"
#include "tests/support/message.h"
#include "tests/support/run_test.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;
using nlohmann::json;

/// Two updates a step, several micro-batches each, two epochs.
constexpr const char* kGrpo = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic"}
rollout: {n: 4, max_new_tokens: 32}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm}
train: {steps: 2, prompts_per_step: 4, mini_batch_size: 8, micro_batch_tokens: 128, epochs: 2}
optim: {lr: 5.0e-5}
checkpoint: {export_model: false}
)";

class Exact : public RunTest {
 protected:
  Exact() : RunTest(kGrpo) {}

  std::vector<json> train(const std::string& name, const Strings& overrides = {}) const {
    mantissa::Run run(config(name, overrides), {});
    mantissa::train(run, [] { return false; });
    std::ifstream in(dir_ / name / "metrics.jsonl");
    std::vector<json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
    return lines;
  }
};

TEST_F(Exact, AWholeRunHasNoTokenThatDiffers) {
  for (const char* type : {"fp16", "bf16"}) {
    const Strings types{str("precision.train=", type), str("precision.rollout=", type)};
    const auto with = [&](const std::string& name, Strings more) {
      more.insert(more.end(), types.begin(), types.end());
      return train(type + name, more);
    };
    const std::vector<json> all = with("all", {"precision.match=exact", "exact.check=all"});
    const std::vector<json> sample = with("sample", {}), fast = with("fast", {"precision.match=fast"});
    ASSERT_EQ(all.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      const double tokens = all[i]["response_length/mean"].get<double>() * 16;
      EXPECT_LE(all[i]["exact/checked_tokens"], tokens);
      EXPECT_GT(all[i]["exact/checked_tokens"], sample[i]["exact/checked_tokens"]);
      EXPECT_GT(sample[i]["exact/checked_tokens"], 0);
      EXPECT_FALSE(fast[i].contains("exact/checked_tokens"));
      for (const auto& line : {all[i], sample[i]}) {
        EXPECT_EQ(line["exact/differing_tokens"], 0);
        EXPECT_EQ(line["rollout_corr/k3_kl"], 0);
      }
      // What is trained on is the same: mu is pi_old on the CPU, bit for bit.
      for (const auto& [name, value] : fast[i].items())
        if (name.starts_with("actor/") || name.starts_with("critic/") || name == "rollout/digest") {
          EXPECT_EQ(all[i][name], value) << name;
          EXPECT_EQ(sample[i][name], value) << name;
        }
      EXPECT_EQ(all[i]["rollout_corr/training_ppl"], fast[i]["rollout_corr/training_ppl"]) << "over all sequences";
    }
  }
}

TEST_F(Exact, NorHasThatOfAMixtureOfExperts) {
  for (const char* type : {"fp16", "bf16"}) {
    const std::vector<json> lines =
        train(type, {"model.path=builtin:arithmetic_moe", str("precision.train=", type),
                     str("precision.rollout=", type), "precision.match=exact", "exact.check=all"});
    ASSERT_EQ(lines.size(), 2u);
    for (const json& line : lines) {
      EXPECT_GT(line["exact/checked_tokens"], 0);
      EXPECT_EQ(line["exact/differing_tokens"], 0);
      EXPECT_EQ(line["rollout_corr/k3_kl"], 0);
      EXPECT_EQ(line["moe/route_agreement"], 1);
      EXPECT_LE(line["moe/load_min"], 1);
      EXPECT_GE(line["moe/load_max"], 1);
      EXPECT_LE(line["moe/load_entropy"], 1);
      EXPECT_GT(line["moe/load_entropy"], 0.3);
    }
    EXPECT_GT(lines[0]["actor/grad_norm"], 0);
  }
  const json sampled =
      train("sampled", {"model.path=builtin:arithmetic_moe", "precision.match=exact", "train.steps=1"})[0];
  EXPECT_FALSE(sampled.contains("moe/route_agreement"));  // nothing to measure, and no routes to carry
  EXPECT_TRUE(sampled.contains("moe/load_min"));
}

TEST_F(Exact, TheFirstForwardIsCheckedThoughMiniBatchesWithoutAGradientComeBeforeIt) {
  int seen = 0;
  for (const json& line : train("a", {"precision.match=exact", "train.mini_batch_size=1", "train.steps=3"})) {
    if (line["training/idle_sequences"] > 14) continue;
    ++seen;
    // The first that is forwarded and one drawn from the others, where responses have 22 to 32 tokens.
    EXPECT_GT(line["exact/checked_tokens"], line["response_length/max"]) << line["step"];
  }
  EXPECT_GE(seen, 2);
}

TEST_F(Exact, TheDigestIsThatOfTheRolloutAlone) {
  const auto digest = [&](const std::string& name, const Strings& more) {
    return train(name, more)[0]["rollout/digest"].get<int64_t>();
  };
  const int64_t reference = digest("a", {"train.steps=1"});
  EXPECT_GT(reference, 0);
  EXPECT_LT(reference, int64_t(1) << 48);
  EXPECT_EQ(digest("b", {"train.steps=1", "rollout.max_batch=3", "rollout.cache_tokens=256"}), reference);
  EXPECT_NE(digest("c", {"train.steps=1", "run.seed=4"}), reference);
}

/// One rollout of a run, packed, and a weight that changes behind it.
class ExactFault : public Exact {
 protected:
  ExactFault() : run_(config("run"), StartOptions{}) {
    const std::vector<Prompt> prompts(run_.prompts.begin(), run_.prompts.begin() + 4);
    completions_ = run_.engine->generate(requests_for(run_.prompts, 2), {.sampling = run_.config.rollout.sampling,
                                                                         .stop = run_.stop_rule(),
                                                                         .keys = {3, 0},
                                                                         .policy_version = 0,
                                                                         .cancelled = {}});
    for (size_t i = 0; i < completions_.size(); ++i)
      for (size_t j = 0; j < 2; ++j)
        sequences_.push_back({.prompt = &run_.prompts[i],
                              .completion = &completions_[i][j],
                              .sample = int32_t(j),
                              .advantage = j ? 1.0 : -1.0});
  }
  void change_a_weight() {
    const Tensor& weight = run_.model->params.compute[run_.model->params.layout.find("layers.1.down.weight")];
    const uint16_t one = 0x3c00;
    run_.exec.backend().copy_from_host(weight.raw(), &one, sizeof one);
  }
  std::vector<float> master() const { return to_host<float>(run_.model->params.master.flat()); }
  ExactCheck::Options options(bool stop = true) {
    return {
        .all = true, .stop = stop, .seed = 3, .step = 7, .locate = [this](const TrainBatch& b, size_t s, int64_t t) {
          Exec side(cpu());
          return first_difference(run_.exec, side, *run_.model, b, s, t, run_.trainer->options().logprobs,
                                  run_.config.precision.engine(Match::kExact));
        }};
  }
  UpdateReport update(MiniBatch& mini, ExactCheck& check) {
    const auto loss = [](Tape& tape, const LossInputs& in) {
      LossInputs inputs = in;
      inputs.norm_constant = 32;
      return policy_loss(tape, inputs, AlgorithmConfig());
    };
    return run_.trainer->update(mini, loss, OldLogprobs::kOwnForward,
                                [&](const MiniBatch& m) { check.check_forward(m); });
  }

  mantissa::Run run_;
  std::vector<std::vector<Completion>> completions_;
  std::vector<TrainSequence> sequences_;
};

TEST_F(ExactFault, AChangedWeightIsCaughtBeforeTheOptimizerStep) {
  std::vector<MiniBatch> batches = make_mini_batches(sequences_, int64_t(sequences_.size()), 256);
  change_a_weight();
  ExactCheck check(*run_.trainer, batches, options());
  check.prepare();  // one mini-batch alone: nothing to re-score
  const std::vector<float> before = master();
  const std::string error = message_of([&] { update(batches[0], check); });
  for (const char* part : {"step 7: rollout and training differ though precision.match is exact: prompt ", "sample ",
                           "token ", "log-prob -", "forwarded by the first update", "the weights, or what the rollout"})
    EXPECT_NE(error.find(part), std::string::npos) << part << " is not in: " << error;
  EXPECT_EQ(master(), before) << "no step was taken";
  EXPECT_EQ(run_.optimizer->read_state().adam_step, 0);
}

TEST_F(ExactFault, TheOthersAreReScoredBeforeTheFirstUpdate) {
  std::vector<MiniBatch> batches = make_mini_batches(sequences_, 8, 256);
  ASSERT_GE(batches.size(), 2u);
  ExactCheck clean(*run_.trainer, batches, options());
  clean.prepare();
  EXPECT_GT(clean.counts().checked, 0);
  EXPECT_EQ(clean.counts().differing, 0);

  batches = make_mini_batches(sequences_, 8, 256);
  change_a_weight();
  ExactCheck stops(*run_.trainer, batches, options());
  EXPECT_NE(message_of([&] { stops.prepare(); }).find("re-scored before the first update"), std::string::npos);

  ExactCheck warns(*run_.trainer, batches, options(false));
  ::testing::internal::CaptureStderr();
  warns.prepare();
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("rollout and training differ"), std::string::npos);
  EXPECT_GT(warns.counts().differing, 0);
  EXPECT_LE(warns.counts().differing, warns.counts().checked);
  EXPECT_EQ(batches[1].micro[0].old_logprobs, batches[1].micro[0].rollout_logprobs) << "mu stands for pi_old";
}

TEST_F(ExactFault, TheFirstLayerThatDiffersIsNamed) {
  const std::vector<MiniBatch> batches = make_mini_batches(sequences_, int64_t(sequences_.size()), 256);
  const TrainBatch& batch = batches[0].micro[0];
  const LogprobOptions& logprobs = run_.trainer->options().logprobs;
  for (const int64_t token : {0, 1}) {
    Exec same(cpu()), peer(cpu());
    peer.match = Match::kPeer;
    const EnginePrecision types = run_.config.precision.engine(Match::kExact);
    EXPECT_NE(first_difference(run_.exec, same, *run_.model, batch, 0, token, logprobs, types).find("no layer differs"),
              std::string::npos);
    const std::string found = first_difference(run_.exec, peer, *run_.model, batch, 0, token, logprobs, types);
    EXPECT_NE(found.find("run again in both forms, layers.0."), std::string::npos) << found;
    EXPECT_NE(found.find(" is the first to differ: element "), std::string::npos) << found;
  }
}

TEST_F(Exact, IsRefusedByNameWhereItCannotBeHad) {
  const auto refused = [&](const Strings& overrides) {
    return message_of([&] { mantissa::Run(config("x", overrides), StartOptions{.resume = "", .overwrite = true}); });
  };
  const std::string exact = "precision.match=exact";
  EXPECT_NE(refused({exact, "precision.rollout=bf16"}).find("precision.train is fp16 and precision.rollout is bf16"),
            std::string::npos);
  EXPECT_NE(refused({exact, "precision.kv_cache=bf16"}).find("precision.kv_cache is bf16"), std::string::npos);
  EXPECT_NE(refused({"precision.match=fast", "rollout.draft=history"}).find("rollout.draft: history needs"),
            std::string::npos);

  ::testing::internal::CaptureStderr();
  const mantissa::Run mixed(config("mixed", {"precision.rollout=bf16", "rollout.draft=history"}), {});
  EXPECT_EQ(mixed.match, Match::kFast);
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("precision.match: fast, since precision.train is fp16 and precision.rollout is bf16"),
            std::string::npos)
      << log;
  EXPECT_NE(log.find("rollout.draft: none, since history needs precision.match: exact, and auto is fast here"),
            std::string::npos);
  EXPECT_EQ(mantissa::Run(config("plain"), StartOptions{}).match, Match::kExact);
}

TEST_F(Exact, ResumeKeepsTheMode) {
  {
    mantissa::Run run(config("run"), {});
    mantissa::train(run, [&] { return run.step == 1; });
  }
  const auto resumed = [&](const std::string& match) {
    return message_of(
        [&] { mantissa::Run(config("run", {"precision.match=" + match}), StartOptions{.resume = "auto"}); });
  };
  EXPECT_NE(resumed("peer").find("was made under precision.match: exact, this run is peer"), std::string::npos);
  EXPECT_NE(resumed("fast").find("was made under precision.match: exact, this run is fast"), std::string::npos);
  EXPECT_EQ(resumed("exact"), "") << "what auto became";
}

TEST_F(Exact, TheEarlierNameIsRead) {
  const auto match = [&](const Strings& overrides) { return config("x", overrides).precision.match; };
  EXPECT_EQ(match({"rollout.rounding=peer"}), "peer");
  EXPECT_EQ(match({"rollout.rounding=same"}), "exact") << "on the CPU";
  EXPECT_EQ(match({"rollout.rounding=same", "run.device=cuda"}), "fast");
  EXPECT_NE(message_of([&] { match({"rollout.rounding=same", "precision.match=fast"}); }).find("keep one of both"),
            std::string::npos);
  EXPECT_NE(message_of([&] { match({"rollout.rounding=other"}); }).find("same, peer"), std::string::npos);
}

}  // namespace
}  // namespace mantissa
