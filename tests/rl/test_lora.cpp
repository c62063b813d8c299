// Whole runs with adapters: exact, resumed, on several ranks, merged for rollouts; what they read and leave.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <type_traits>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/peft.h"
#include "rl/rollout_weights.h"
#include "rl/run.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/message.h"
#include "tests/support/ranks.h"
#include "tests/support/run_test.h"

namespace mantissa {
namespace {

static_assert(!std::is_nothrow_destructible_v<RolloutWeights>,
              "memory that is short at its end is an error like others");

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;
using nlohmann::json;

constexpr const char* kGrpo = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic"}
lora: {rank: 5, alpha: 10}
rollout: {n: 4, max_new_tokens: 32}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm}
train: {steps: 3, prompts_per_step: 4, mini_batch_size: 8, micro_batch_tokens: 128}
optim: {lr: 1.0e-3}
checkpoint: {every: 2, keep: 0}
)";

const Strings kSft = {"train.mode=sft", "train.mini_batch_size=4", "data.solution_key=solution"};

class Lora : public RunTest {
 protected:
  Lora() : RunTest(kGrpo) {}

  bool train(
      const std::string& name, const Strings& overrides = {}, const std::string& resume = "",
      const std::function<bool(int64_t)>& stop = [](int64_t) { return false; }) const {
    mantissa::Run run(config(name, overrides), {.resume = resume});
    return mantissa::train(run, [&] { return stop(run.step); });
  }
  std::vector<json> metrics(const std::string& name) const {
    static const std::regex exempt(R"re(, "(timing_s|perf|draft)/[^"]*": [^,}]*)re");
    const fs::path file = dir_ / name / (fs::exists(dir_ / name / "sft.jsonl") ? "sft.jsonl" : "metrics.jsonl");
    std::ifstream in(file);
    std::vector<json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(std::regex_replace(line, exempt, "")));
    return lines;
  }
  std::string adapter(const std::string& name) const { return (dir_ / name / "adapter").string(); }
  std::string log_of(const std::function<void()>& call) const {
    ::testing::internal::CaptureStderr();
    call();
    return ::testing::internal::GetCapturedStderr();
  }
};

TEST_F(Lora, RolloutsHaveTheBitsOfTraining) {
  for (const char* type : {"fp16", "bf16"}) {
    ASSERT_TRUE(train(type, {str("precision.train=", type), str("precision.rollout=", type), "precision.match=exact",
                             "exact.check=all", "lora.rank=7"}));
    const std::vector<json> lines = metrics(type);
    ASSERT_EQ(lines.size(), 3u);
    for (const json& line : lines) {
      EXPECT_GT(line["exact/checked_tokens"], 0);
      EXPECT_EQ(line["exact/differing_tokens"], 0);
      EXPECT_GT(line["actor/grad_norm"], 0);
    }
  }
}

TEST_F(Lora, OfAMixtureOfExpertsIsOnItsAttentionAlone) {
  const std::string mixture = "model.path=builtin:arithmetic_moe";
  ASSERT_TRUE(train("mixture", {mixture, "lora.targets=[q_proj,o_proj]", "precision.match=exact", "exact.check=all"}));
  for (const json& line : metrics("mixture")) {
    EXPECT_GT(line["exact/checked_tokens"], 0);
    EXPECT_EQ(line["exact/differing_tokens"], 0);
    EXPECT_GT(line["actor/grad_norm"], 0);
  }
  for (const char* target : {"all-linear", "gate_proj", "up_proj", "down_proj"}) {
    const std::string error = message_of([&] { train("refused", {mixture, str("lora.targets=", target)}); });
    EXPECT_NE(error.find("is a mixture of experts"), std::string::npos) << error;
    expect_message(error,
                   {"lora.targets: must be of q_proj, k_proj, v_proj, o_proj, since ", str("got ", target).c_str()});
  }
}

TEST(LoraConfig, AnAdapterToGoOnFromHasAnAlpha) {
  LoraConfig config{.init = "A"};
  AdapterConfig found{.rank = 4, .alpha = 0, .targets = {"q_proj"}};
  EXPECT_EQ(message_of([&] { config.adopt(found); }),
            "lora.init: must be an adapter whose alpha is above 0, without which nothing is trained, got A of alpha 0");
  found.alpha = 0.5;
  EXPECT_EQ(message_of([&] { config.adopt(found); }), "");
}

TEST_F(Lora, LeavesAnAdapterThatTheNextRunGoesOnFrom) {
  const std::string log = log_of([&] { ASSERT_TRUE(train("first")); });
  EXPECT_NE(log.find("adapter of rank 5, alpha 10 on q_proj, k_proj"), std::string::npos) << log;
  EXPECT_FALSE(fs::exists(dir_ / "first/model"));
  const AdapterConfig saved = read_adapter_config(adapter("first"));
  EXPECT_EQ(saved.rank, 5);
  EXPECT_EQ(saved.targets.size(), 7u);
  for (const std::string& from : {adapter("first"), (dir_ / "first/checkpoints/step_3").string()}) {
    const std::string name = fs::path(from).filename();
    mantissa::Run run(config(name, {"lora.init=" + from, "lora.rank=0"}), {});
    EXPECT_EQ(run.model->adapter->config, saved);
    const auto read = load_model("builtin:arithmetic", cpu(), Dtype::kF16, false);
    load_adapter(*read, from);
    EXPECT_EQ(to_host_float(run.model->adapter->params.compute.flat()),
              to_host_float(read->adapter->params.compute.flat()));
    EXPECT_TRUE(mantissa::train(run, [] { return false; }));
  }
  const auto refused = [&](const std::string& key) {
    return message_of([&] { mantissa::Run(config("x", {"lora.init=" + adapter("first"), key}), {}); });
  };
  const std::string there = adapter("first") + ", ";
  EXPECT_EQ(refused("lora.rank=8"), "lora.rank: must be 0 or that of " + there + "5; got 8");
  EXPECT_EQ(refused("lora.alpha=20"), "lora.alpha: must be left out or be that of " + there + "10; got 20");
  EXPECT_EQ(refused("lora.targets=[q_proj,o_proj]"),
            "lora.targets: must be left out or be those of " + there +
                "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; got q_proj, o_proj");
  const std::string checkpoint = (dir_ / "first/checkpoints/step_3").string();
  EXPECT_NE(message_of([&] { load_model(checkpoint, cpu(), Dtype::kF16, false); }).find("by lora.init"),
            std::string::npos);
}

TEST_F(Lora, AConfigSaysWhatItsAdapterIs) {
  ASSERT_TRUE(train("first", {"lora.targets=[q_proj,v_proj]", "train.steps=1"}));
  const fs::path file = dir_ / "run.yaml";
  write_file(file, "model: {path: m}\ndata: {files: f}\nlora: {init: " + adapter("first") + "}\n");
  const RunConfig config = load_run_config(file, {});
  EXPECT_EQ(config.lora.adapter(), read_adapter_config(adapter("first")));
  EXPECT_EQ(config.lora.alpha, 10);
  write_file(file, format_run_config(config));
  EXPECT_EQ(format_run_config(load_run_config(file, {})), format_run_config(config)) << "ready to run again";
  expect_message(message_of([&] { load_run_config(file, {"lora.alpha=20"}); }), {"lora.alpha", ", 10; got 20"});
  for (const char* set : {"lora.alpha=16", "lora.targets=[all-linear]"})  // the defaults, and asked for
    expect_message(message_of([&] { load_run_config(file, {set}); }), {"must be left out or be th", "first/adapter"});
  expect_message(message_of([&] { load_run_config(file, {"lora.init=gausian"}); }),
                 {"lora.init: gausian: does not exist"});
  expect_message(message_of([&] { load_run_config(file, {"lora.init="}); }), {"lora.init", "got an empty string"});
}

TEST_F(Lora, ResumingBesideAnotherAdapterIsRefused) {
  ASSERT_TRUE(train("first", {"train.steps=1"}));
  const Strings goes_on{"lora.init=" + adapter("first"), "lora.rank=0", "train.steps=2"};
  EXPECT_FALSE(train("run", goes_on, "", [](int64_t step) { return step == 1; }));
  const fs::path file = fs::path(adapter("first")) / "adapter_config.json";
  const std::string text = read_file(file);
  write_file(file, std::regex_replace(text, std::regex("\"lora_alpha\": 10.0"), "\"lora_alpha\": 40.0"));
  expect_message(
      message_of([&] { train("run", goes_on, "auto"); }),
      {"step_1: was made with an adapter of rank 5, alpha 10 on q_proj", "lora.init", "rank 5, alpha 40 on"});
  write_file(file, text);
  EXPECT_TRUE(train("run", goes_on, "auto"));
}

TEST_F(Lora, TheReferenceIsTheModelWithoutAnAdapter) {
  const Strings kl{"algorithm.kl_coef=0.01", "train.mini_batch_size=16", "train.steps=2"};
  const std::string log = log_of([&] { ASSERT_TRUE(train("fresh", kl)); });
  EXPECT_NE(log.find("the KL reference is the model without an adapter"), std::string::npos) << log;
  EXPECT_EQ(metrics("fresh")[0]["actor/kl_loss"], 0) << "a fresh adapter is no update";
  EXPECT_GT(metrics("fresh")[1]["actor/kl_loss"], 0);
  Strings again = kl;
  again.insert(again.end(), {"lora.init=" + adapter("fresh"), "lora.rank=0"});
  ASSERT_TRUE(train("again", again));
  EXPECT_GT(metrics("again")[0]["actor/kl_loss"], 0) << "the adapter of the start is not part of it";
}

struct Variant {
  const char* name;
  Strings overrides;
};

class LoraResume : public Lora, public ::testing::WithParamInterface<Variant> {};

TEST_P(LoraResume, SameBits) {
  const Strings& overrides = GetParam().overrides;
  if (!overrides.empty() && overrides[0] == "run.device=cuda" && !no_cuda_because().empty())
    GTEST_SKIP() << no_cuda_because();
  struct Killed {};
  ASSERT_TRUE(train("whole", overrides));
  EXPECT_THROW(train("killed", overrides, "", [](int64_t step) { return step == 2 ? throw Killed() : false; }), Killed);
  ASSERT_TRUE(train("killed", overrides, "auto"));
  EXPECT_EQ(metrics("killed"), metrics("whole"));
  for (const char* file : {"checkpoints/step_3/master.safetensors", "checkpoints/step_3/adam_v.safetensors",
                           "adapter/adapter_model.safetensors", "samples.jsonl"})
    EXPECT_TRUE(fs::exists(dir_ / "whole" / file) &&
                read_file(dir_ / "whole" / file) == read_file(dir_ / "killed" / file))
        << file;
}

INSTANTIATE_TEST_SUITE_P(
    Cpu, LoraResume,
    ::testing::Values(Variant{"adapter", {}}, Variant{"kl", {"algorithm.kl_coef=0.1", "lora.init=gaussian"}},
                      Variant{"types", {"precision.rollout=fp32", "lora.targets=[q_proj,v_proj,down_proj]"}},
                      Variant{"merged", {"lora.rollout=merged"}}, Variant{"in_place", {"lora.rollout=merged_in_place"}},
                      Variant{"sft", {kSft[0], kSft[1], kSft[2], "lora.dropout=0.2"}}),
    [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Cuda, LoraResume, ::testing::Values(Variant{"adapter", {"run.device=cuda"}}),
                         [](const auto& info) { return info.param.name; });

TEST_F(Lora, MergedRolloutsAreNotTheBitsOfTraining) {
  for (const char* mode : {"merged", "merged_in_place"}) {
    ASSERT_TRUE(train(mode, {str("lora.rollout=", mode), "train.steps=2"}));
    const std::vector<json> lines = metrics(mode);
    EXPECT_EQ(lines[0]["rollout_corr/k3_kl"], 0) << mode << ": a fresh adapter adds nothing";
    EXPECT_GT(lines[1]["rollout_corr/k3_kl"], 0) << mode;
    EXPECT_EQ(lines[1].contains("lora/base_drift"), std::string(mode) == "merged_in_place");
  }
  ASSERT_TRUE(train("adapter", {"train.steps=2"}));
  for (const json& line : metrics("adapter")) EXPECT_EQ(line.value("rollout_corr/k3_kl", 0.0), 0);
}

TEST_F(Lora, MergingInPlaceMovesTheWeightsBeneath) {
  for (const char* mode : {"adapter", "merged", "merged_in_place"}) {
    mantissa::Run run(config(mode, {str("lora.rollout=", mode), "train.steps=2"}), {});
    const std::vector<float> before = to_host_float(run.model->params.compute.flat());
    EXPECT_TRUE(mantissa::train(run, [] { return false; }));
    const bool in_place = std::string(mode) == "merged_in_place";
    EXPECT_EQ(to_host_float(run.model->params.compute.flat()) != before, in_place) << mode;
    if (!in_place) continue;
    const double drift = base_drift(run), logged = metrics(mode)[1]["lora/base_drift"];
    EXPECT_GT(drift, 0);
    EXPECT_LT(drift, 1e-2);
    EXPECT_NEAR(logged, drift, 1e-7 * drift);
  }
}

TEST_F(Lora, DropoutActsInTrainingAlone) {
  const auto loss = [&](const std::string& name, const std::string& p) {
    Strings overrides = kSft;
    overrides.insert(overrides.end(), {"lora.dropout=" + p, "train.micro_batch_tokens=64", "train.steps=2"});
    EXPECT_TRUE(train(name, overrides));
    std::vector<double> values;
    for (const json& line : metrics(name)) values.push_back(line["sft/loss"]);
    return values;
  };
  const std::vector<double> without = loss("without", "0"), with = loss("with", "0.5");
  EXPECT_NE(without, with);
  // Masks depend on the token, not on what is packed beside it.
  Strings packed = kSft;
  packed.insert(packed.end(), {"lora.dropout=0.5", "train.micro_batch_tokens=4096", "train.steps=2"});
  EXPECT_TRUE(train("packed", packed));
  for (size_t i = 0; i < with.size(); ++i)
    EXPECT_NEAR(double(metrics("packed")[i]["sft/loss"]), with[i], 2e-3 * with[i]) << i;
}

TEST_F(Lora, RanksShareTheAdaptersState) {
  ASSERT_TRUE(train("one"));
  std::vector<float> weights[2];
  const Strings errors = run_ranks(2, [&](Comm& comm) {
    mantissa::Run run(config("two"), {}, comm);
    const ParamSet& set = run.model->adapter->params;
    EXPECT_EQ(set.m.flat().numel() * 2, set.layout.numel()) << "half of the moments each";
    EXPECT_EQ(set.master.flat().numel() * 2, set.layout.numel());
    EXPECT_FALSE(run.model->params.grad.defined()) << "nothing of the model is reduced";
    EXPECT_TRUE(mantissa::train(run, [] { return false; }));
    weights[comm.rank()] = to_host_float(set.compute.flat());
  });
  EXPECT_EQ(errors, Strings(2));
  EXPECT_EQ(weights[0], weights[1]);
  const std::vector<json> one = metrics("one"), two = metrics("two");
  ASSERT_EQ(two.size(), one.size());
  EXPECT_EQ(two[0]["rollout/digest"], one[0]["rollout/digest"]);
  EXPECT_NEAR(double(two[0]["actor/grad_norm"]), double(one[0]["actor/grad_norm"]),
              1e-5 * double(one[0]["actor/grad_norm"]));
  EXPECT_EQ(read_adapter_config(adapter("two")), read_adapter_config(adapter("one")));
}

TEST_F(Lora, ResumingBesideAnotherModelIsRefused) {
  const auto model = load_model("builtin:arithmetic", cpu(), Dtype::kF32, false);
  save_hf(*model, dir_ / "model", Dtype::kF32);
  const Strings here{"model.path=" + (dir_ / "model").string(), "rollout.max_new_tokens=4"};
  EXPECT_FALSE(train("run", here, "", [](int64_t step) { return step == 1; }));
  model->params.compute[model->decoder->params().final_norm].data<float>()[3] = 2.0f;
  fs::remove_all(dir_ / "model");
  save_hf(*model, dir_ / "model", Dtype::kF32);
  EXPECT_NE(message_of([&] { train("run", here, "auto"); }).find("its frozen model was another"), std::string::npos);
}

TEST_F(Lora, AnEngineFollowsTheAdapterThatTheModelHas) {
  const auto on = [&](Backend& backend) {
    const auto model = load_model("builtin:arithmetic", backend, Dtype::kF16, false);
    RolloutConfig config;
    config.sampling.max_new_tokens = 12;
    config.sampling.temperature = 0;
    Prompt prompt;
    prompt.ids = {16, 13, 17, 29};
    const Request request{.prompt = &prompt, .n = 2};
    const auto logprobs = [&](Engine& engine) {
      GenerateOptions options;
      options.sampling = config.sampling;
      return engine.generate({&request, 1}, options)[0][0].rollout_logprobs;
    };
    const auto fresh = [&] {
      Engine engine(*model, config, EnginePrecision());
      return logprobs(engine);
    };
    Engine engine(*model, config, EnginePrecision());
    const std::vector<float> without = logprobs(engine);
    std::vector<std::vector<float>> seen;
    for (const int64_t rank : {4, 40, 4}) {
      for (const Strings& names : {Strings{"all-linear"}, Strings{"o_proj"}}) {
        add_adapter(*model, {.rank = rank, .alpha = 16, .targets = parse_targets(names, "test")});
        draw_adapter(*model, "kaiming", 2);
        Exec exec(backend);
        const ParamSet& set = model->adapter->params;
        for (const AdapterPart& part : adapter_parts(model->config, *model->adapter)) {
          Tensor b = set.compute[part.b];
          MANTISSA_RUN(exec, fill, b, 0.01);
        }
        seen.push_back(logprobs(engine));
        EXPECT_EQ(seen.back(), fresh()) << "rank " << rank;
        EXPECT_NE(seen.back(), without);
      }
    }
    EXPECT_EQ(seen[0], seen[4]);
    EXPECT_NE(seen[0], seen[1]);
    model->adapter.reset();
    EXPECT_EQ(logprobs(engine), without);
  };
  on(cpu());
  if (no_cuda_because().empty()) on(find_backend("cuda"));
}

}  // namespace
}  // namespace mantissa
