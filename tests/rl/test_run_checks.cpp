// What a run compares before it goes on and before it writes: the model of a checkpoint, and weights that are finite.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/gguf_writer.h"
#include "rl/run.h"
#include "tests/support/message.h"
#include "tests/support/run_test.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;
using nlohmann::json;

constexpr const char* kGrpo = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic"}
rollout: {n: 4, max_new_tokens: 8}
train: {steps: 1, prompts_per_step: 4, mini_batch_size: 8}
optim: {lr: 1.0e-4}
algorithm: {entropy_coef: 1.0e-3}
checkpoint: {every: 1}
)";

class RunChecks : public RunTest {
 protected:
  RunChecks() : RunTest(kGrpo) {
    fs::copy(fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic", dir_ / "model", fs::copy_options::recursive);
  }
  void train(const std::string& name, const Strings& overrides, const std::string& resume = "") const {
    mantissa::Run run(config(name, overrides), {.resume = resume});
    mantissa::train(run, [] { return false; });
  }
  /// Opens the run that goes on; what it refuses.
  std::string resume(const std::string& name, const Strings& overrides, const std::string& from = "auto") const {
    return message_of([&] { mantissa::Run(config(name, overrides), {.resume = from}); });
  }
  std::string log_of(const std::function<void()>& call) const {
    ::testing::internal::CaptureStderr();
    call();
    return ::testing::internal::GetCapturedStderr();
  }
  Strings here(Strings more = {}) const {
    more.push_back("model.path=" + (dir_ / "model").string());
    return more;
  }
  void write(const char* file, const std::string& text) const { std::ofstream(dir_ / "model" / file) << text; }

  /// What each file's change is refused with, and that the files as they were are not.
  void expect_comparisons(const std::string& name, const Strings& overrides, const std::string& from) const {
    EXPECT_EQ(resume(name, overrides, from), "");
    const std::string text = read_file(dir_ / "model/config.json");
    const auto changed = [&](const char* key, const json& value) {
      json config = json::parse(text);
      config[key] = value;
      write("config.json", config.dump());
      const std::string message = resume(name, overrides, from);
      write("config.json", text);
      return message;
    };
    EXPECT_EQ(changed("a_note", "of nothing that is read"), "");
    EXPECT_EQ(changed("bos_token_id", 7), "");
    expect_message(changed("rope_theta", 1e6), {"step_1: was made with another model than model.path",
                                                "config.json: rope_theta: 10000.0, now 1000000.0"});
    expect_message(changed("rms_norm_eps", 1e-3), {"config.json: rms_norm_eps: 1e-06, now 0.001"});
    expect_message(changed("rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}), {"config.json: rope_scaling:"});
    const std::string generation = read_file(dir_ / "model/generation_config.json");
    write("generation_config.json", R"({"eos_token_id": [7]})");
    expect_message(resume(name, overrides, from), {"config.json, generation_config.json: eos_token_id: "});
    write("generation_config.json", generation);
    const std::string tokenizer = read_file(dir_ / "model/tokenizer.json");
    json other = json::parse(tokenizer);
    other["decoder"] = nullptr;
    write("tokenizer.json", other.dump());
    expect_message(resume(name, overrides, from), {"tokenizer.json differs"});
    write("tokenizer.json", json::parse(tokenizer).dump(3));
    write("tokenizer_config.json", R"({"transformers_version": "5.0.0"})");
    EXPECT_EQ(resume(name, overrides, from), "") << "they say the same";
    fs::remove(dir_ / "model/tokenizer_config.json");
    write("tokenizer.json", tokenizer);
    EXPECT_EQ(resume(name, overrides, from), "");
  }
};

TEST_F(RunChecks, AnotherModelIsRefusedOnResume) {
  for (const Strings& more : {Strings{}, Strings{"lora.rank=2"}, Strings{"algorithm.kl_coef=0.1"}}) {
    SCOPED_TRACE(more.empty() ? "" : more[0]);
    const std::string name = str("run_", more.empty() ? "" : more[0].substr(0, 4));
    train(name, here(more));
    expect_comparisons(name, here(more), "auto");
  }
}

TEST_F(RunChecks, AnEarlierVersionsCheckpointIsComparedByItsFiles) {
  for (const Strings& more : {Strings{}, Strings{"lora.rank=2"}}) {
    const std::string name = more.empty() ? "whole" : "adapter";
    {
      mantissa::Run run(config(name, here(more)), {});
      mantissa::train(run, [] { return false; });
      CheckpointState state = read_checkpoint_state(dir_ / name / "checkpoints/step_1");
      std::erase_if(state.texts, [](const auto& text) { return text.first.starts_with("model "); });
      if (more.empty()) state.model_files = model_files(*run.model, Dtype::kF32);
      save_checkpoint(dir_ / name / "checkpoints", state, run.model->trained(), *run.optimizer, {});
    }
    if (more.empty()) {
      expect_comparisons(name, here(more), "auto");
      continue;
    }
    write("generation_config.json", R"({"eos_token_id": [7]})");
    EXPECT_EQ(resume(name, here(more)), "") << "it does not know";
  }
}

TEST_F(RunChecks, TheSameModelOfAnyFormatGoesOn) {
  const auto model = load_model("builtin:arithmetic", cpu(), Dtype::kF32, false);
  save_hf(*model, dir_ / "saved", Dtype::kF16);
  save_gguf(*model, dir_ / "model.gguf", "f16");
  for (const std::string& path :
       {std::string("builtin:arithmetic"), std::string("builtin:arithmetic_moe"), (dir_ / "saved").string(),
        (dir_ / "model.gguf").string(), (dir_ / "run_0/checkpoints/step_1").string()}) {
    SCOPED_TRACE(path);
    static int number = 0;
    const std::string name = str("run_", number++);
    train(name, {"model.path=" + path});
    EXPECT_EQ(resume(name, {"model.path=" + path}), "");
  }
}

TEST_F(RunChecks, TheBestOfAnEarlierMetricStays) {
  for (const char* now : {"checkpoint.best=", "checkpoint.best=actor/entropy"}) {
    const std::string name = str("run_", std::string(now).size());
    train(name, {"checkpoint.best=critic/score/mean", "checkpoint.keep=1", "train.steps=2"});
    const int64_t best = read_checkpoint_state(dir_ / name / "checkpoints/best").step;
    const std::string log = log_of([&] { train(name, {now, "checkpoint.keep=1", "train.steps=5"}, "auto"); });
    const fs::path kept = dir_ / name / "checkpoints" / str("best_step_", best);
    EXPECT_EQ(read_checkpoint_state(kept).step, best);
    EXPECT_NE(log.find("stays as " + kept.string()), log.npos) << log;
  }
}

TEST_F(RunChecks, TheCheckpointOfTheEndAloneCanBeTheBest) {
  const std::string log =
      log_of([&] { train("run", {"checkpoint.best=critic/score/mean", "checkpoint.every=0", "train.steps=2"}); });
  EXPECT_EQ(read_checkpoint_state(dir_ / "run/checkpoints/best").step, 2);
  EXPECT_EQ(log.find("checkpoint.best"), log.npos) << log;
}

TEST_F(RunChecks, TheBestIsByAMetricThatModelModeAndRanksGive) {
  const auto open = [&](const std::string& best, const Strings& overrides) {
    Strings all = overrides;
    all.push_back("checkpoint.best=" + best);
    return message_of([&] { mantissa::Run(config("run", all), {.overwrite = true}); });
  };
  const std::string mixture = "model.path=builtin:arithmetic_moe", fast = "precision.match=fast";
  const Strings mixed_types{"precision.train=fp32"};  // auto becomes fast
  expect_message(open("moe/load_min", {}), {"checkpoint.best: must be a metric of this run, got moe/load_min, which",
                                            "needs a model with a mixture of experts"});
  expect_message(open("moe/route_agreement", {mixture}), {"got moe/route_agreement", "needs rollouts that could"});
  expect_message(open("exact/differing_tokens", mixed_types), {"needs precision.match: exact"});
  expect_message(open("perf/idle_fraction", {}), {"needs several ranks"});
  EXPECT_EQ(open("moe/load_min", {mixture}), "");
  EXPECT_EQ(open("moe/route_agreement", {mixture, fast}), "");
  EXPECT_EQ(open("exact/differing_tokens", {}), "");
}

TEST_F(RunChecks, WeightsThatAreNotFiniteAreNotWritten) {
  const Strings far{"optim.lr=1", "optim.weight_decay=1000", "train.steps=3", "algorithm.entropy_coef=0"};
  for (const char* every : {"checkpoint.every=1", "checkpoint.at_end=false"}) {
    const std::string name = str("run_", std::string(every).size());
    Strings overrides = far;
    overrides.insert(overrides.end(), {every, "checkpoint.every=0"});
    if (name == "run_18") overrides.pop_back();
    expect_message(message_of([&] { train(name, overrides); }),
                   {"holds a value that is not finite in fp16, so no ", " is written", "optim.lr"});
    EXPECT_FALSE(fs::exists(dir_ / name / "model"));
  }
}

TEST_F(RunChecks, TheCopyForRolloutsIsFiniteToo) {
  const Strings far{"optim.lr=1",           "optim.weight_decay=1000", "train.steps=4",    "algorithm.entropy_coef=0",
                    "precision.train=bf16", "precision.rollout=fp16",  "checkpoint.keep=2"};
  expect_message(message_of([&] { train("run", far); }),
                 {"holds a value that is not finite in fp16, so no checkpoint"});
}

TEST_F(RunChecks, ARunThatEndsInOverflowFailsAndNamesTheLastCheckpointOfBefore) {
  const Strings overrides{"train.steps=5", "algorithm.entropy_coef=0", "checkpoint.every=1", "checkpoint.keep=0"};
  {
    mantissa::Run run(config("run", overrides), {});
    mantissa::train(run, [&] {
      if (run.step == 2) {  // as if the second update had done it
        const ParamSet& params = run.model->params;
        const Tensor norm = params.master[run.model->decoder->params().final_norm];
        std::fill_n(norm.data<float>(), norm.numel(), 60000.0f);
        refresh_copies(run.exec, params);
      }
      return run.step == 4;
    });
  }
  for (int again = 0; again < 2; ++again) {  // the second has nothing left to train
    expect_message(message_of([&] {
                     mantissa::Run run(config("run", overrides), {.resume = "auto"});
                     mantissa::train(run, [] { return false; });
                   }),
                   {"since step 3 every sample has overflowed", "no model is written", "a lower optim.lr from ",
                    "checkpoints/step_1 (model.path names it)"});
    EXPECT_FALSE(fs::exists(dir_ / "run/model"));
  }
}

TEST_F(RunChecks, ACheckpointOfAnAdapterIsNamedAsOne) {
  const Strings overrides{"train.steps=4", "algorithm.entropy_coef=0", "checkpoint.keep=0", "lora.rank=2"};
  mantissa::Run run(config("run", overrides), {});
  const std::string log = log_of([&] {
    expect_message(message_of([&] {
                     mantissa::train(run, [&] {
                       const Tensor all = run.model->trained().master.flat();
                       if (run.step == 2) std::fill_n(all.data<float>(), all.numel(), 60000.0f);
                       refresh_copies(run.exec, run.model->trained());
                       return false;
                     });
                   }),
                   {"since step 3 every sample has overflowed", "no adapter is written",
                    "checkpoints/step_1 (lora.init names it)"});
  });
  EXPECT_NE(log.find("from an earlier checkpoint (lora.init names it)"), log.npos) << log;
  EXPECT_EQ(log.find("model.path names"), log.npos) << log;
}

TEST_F(RunChecks, AnEarlierVersionsCheckpointThatOverflowsIsNotNamedAsOneOfBefore) {
  const Strings overrides{"train.steps=3", "algorithm.entropy_coef=0", "checkpoint.every=1", "checkpoint.keep=0"};
  {
    mantissa::Run run(config("run", overrides), {});
    mantissa::train(run, [&] { return run.step == 2; });
    const ParamSet& params = run.model->params;
    const Tensor norm = params.master[run.model->decoder->params().final_norm];
    std::fill_n(norm.data<float>(), norm.numel(), 60000.0f);
    CheckpointState state = read_checkpoint_state(dir_ / "run/checkpoints/step_2");
    state.counters.erase("finite_step");
    save_checkpoint(dir_ / "run/checkpoints", state, params, *run.optimizer, {});
  }
  expect_message(message_of([&] { train("run", overrides, "auto"); }),
                 {"since step 3 every sample has overflowed", "checkpoints/step_1 (model.path names it)"});
}

TEST_F(RunChecks, RolloutsOfNothingButOverflowsEndTheRun) {
  mantissa::Run run(
      config("run", {"train.steps=9", "algorithm.entropy_coef=0", "scaler.max_skips_in_row=2", "checkpoint.every=0"}),
      {});
  const ParamSet& params = run.model->params;
  const Tensor norm = params.master[run.model->decoder->params().final_norm];
  std::fill_n(norm.data<float>(), norm.numel(), 60000.0f);
  refresh_copies(run.exec, params);
  expect_message(message_of([&] { mantissa::train(run, [] { return false; }); }),
                 {"in 3 rollouts in a row", "scaler.max_skips_in_row", "before any update: see precision.rollout"});
  EXPECT_EQ(run.step, 2);
}

TEST_F(RunChecks, RolloutsOfNothingButOverflowsAreCountedAcrossAResume) {
  const Strings overrides{"train.steps=9", "algorithm.entropy_coef=0", "scaler.max_skips_in_row=2"};
  {
    mantissa::Run run(config("run", overrides), {});
    const ParamSet& params = run.model->params;
    const Tensor norm = params.master[run.model->decoder->params().final_norm];
    std::fill_n(norm.data<float>(), norm.numel(), 60000.0f);
    refresh_copies(run.exec, params);
    EXPECT_FALSE(mantissa::train(run, [&] { return run.step == 2; }));
  }
  mantissa::Run run(config("run", overrides), {.resume = "auto"});
  expect_message(message_of([&] { mantissa::train(run, [] { return false; }); }), {"in 3 rollouts in a row"});
  EXPECT_EQ(run.step, 2);
}

}  // namespace
}  // namespace mantissa
