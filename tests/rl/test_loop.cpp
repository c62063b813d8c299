// The whole loop on small models: golden numbers of short runs, and runs that were stopped or killed and
// resumed, which must end with the bits of a run that was not. Seconds and memory (timing_s/*, perf/*) are
// exempt, and how drafts did (draft/*), whose history a resumed run has not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <regex>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/hf.h"
#include "nn/formats/hf_config.h"
#include "nn/model.h"
#include "rl/run.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

const fs::path kBuiltin = fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic";

/// GRPO on the embedded model: 4 prompts x 4 samples, two updates a step.
constexpr const char* kGrpo = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic"}
rollout: {n: 4, max_new_tokens: 32}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm}
train: {steps: 5, prompts_per_step: 4, mini_batch_size: 8}
optim: {lr: 5.0e-5}
scaler: {growth_interval: 3}
checkpoint: {every: 2, keep: 0}
)";

/// A warm start of a model of two layers from random weights.
constexpr const char* kSft = R"(
run: {seed: 3, device: cpu}
train: {mode: sft, steps: 5, prompts_per_step: 8, mini_batch_size: 8}
optim: {lr: 1.0e-2}
scaler: {growth_interval: 3}
checkpoint: {every: 2, keep: 0}
)";

constexpr const char* kTinyModel = R"({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"],
  "vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 0})";

Strings lines_of(const fs::path& file) {
  std::ifstream in(file);
  Strings lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// The lines of a metrics file without what may differ between two runs.
Strings bits_of(const fs::path& file) {
  static const std::regex exempt(R"re(, "(timing_s|perf|draft)/[^"]*": [^,}]*)re");
  Strings lines = lines_of(file);
  for (std::string& line : lines) line = std::regex_replace(line, exempt, "");
  return lines;
}

/// A number of a metrics line; NaN for null, and for a name that is not there.
double number(const std::string& line, const std::string& name) {
  const std::string mark = "\"" + name + "\": ";
  const size_t at = line.find(mark);
  if (at == std::string::npos || line.compare(at + mark.size(), 4, "null") == 0) return NAN;
  return std::stod(line.substr(at + mark.size()));
}

/// What `kill -9` is to a run inside a test: it ends without another word.
struct Killed {};

class Loop : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(dir_ / "tiny");
    std::ofstream(dir_ / "tiny/config.json") << kTinyModel;
    fs::copy(kBuiltin / "tokenizer.json", dir_ / "tiny/tokenizer.json");
  }

  /// A run named `name` of `yaml` with the embedded data, and the tiny model where none is named.
  RunConfig config(const std::string& name, const std::string& yaml, Strings overrides = {}) const {
    overrides.insert(overrides.begin(), {"run.output_dir=" + (dir_ / name).string(),
                                         "data.files=" + (kBuiltin / "sanity.jsonl").string(), "data.limit=16"});
    if (yaml.find("model:") == std::string::npos)
      overrides.push_back("model.path=random:" + (dir_ / "tiny/config.json").string());
    return parse_run_config(yaml, "test", overrides);
  }

  /// Runs until `stop` says so after a number of completed steps, or to the end.
  bool train(
      const RunConfig& config, const std::string& resume = "",
      const std::function<bool(int64_t)>& stop = [](int64_t) { return false; }) const {
    mantissa::Run run(config, {.resume = resume});
    return mantissa::train(run, [&] { return stop(run.step); });
  }

  Strings metrics(const std::string& name) const {
    const bool sft = fs::exists(dir_ / name / "sft.jsonl");
    return lines_of(dir_ / name / (sft ? "sft.jsonl" : "metrics.jsonl"));
  }

  void expect_same_bits(const std::string& name, const std::string& other) const {
    for (const char* file : {"metrics.jsonl", "sft.jsonl", "eval.jsonl", "samples.jsonl"})
      EXPECT_EQ(bits_of(dir_ / name / file), bits_of(dir_ / other / file)) << file;
    for (const char* file : {"checkpoints/step_5/master.safetensors", "checkpoints/step_5/adam_m.safetensors",
                             "checkpoints/step_5/adam_v.safetensors", "model/model.safetensors"})
      EXPECT_TRUE(read_file(dir_ / name / file) == read_file(dir_ / other / file)) << file;
  }

  TempDir dir_;
};

// ---- golden numbers: made by this test's own runs, printed with 9 digits ----------------------------------

struct Golden {
  const char* metric;
  std::vector<double> values;
};

void expect_golden(const Strings& lines, const std::vector<Golden>& golden) {
  for (const auto& [metric, values] : golden) {
    ASSERT_EQ(lines.size(), values.size());
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_NEAR(number(lines[i], metric), values[i], 1e-6 * std::abs(values[i])) << metric << " of step " << i + 1;
  }
}

TEST_F(Loop, GoldenGrpo) {
  // Depends on the weights in builtin/: new ones need new numbers.
  ASSERT_TRUE(train(config("run", kGrpo)));
  expect_golden(metrics("run"),
                {{"critic/score/mean", {0.5625, 0.4375, 0.375, 0.375, 0.75}},
                 {"response_length/mean", {24.875, 23.5, 25.25, 24.5, 23.625}},
                 {"actor/pg_loss", {-0.000639166683, 0.000900961459, 0.00361410901, -0.000746078789, 0.00214284065}},
                 {"actor/grad_norm", {0.556862913, 0.99641633, 0.334448161, 0.675256342, 0.566340536}},
                 {"actor/entropy", {0.04523269, 0.0538444214, 0.0546092859, 0.0462139217, 0.0386974611}},
                 {"scaler/scale", {65536, 131072, 131072, 262144, 524288}}});
}

TEST_F(Loop, GoldenSft) {
  ASSERT_TRUE(train(config("run", kSft)));
  const Strings lines = metrics("run");
  expect_golden(lines, {{"sft/loss", {5.56490469, 5.17814636, 4.63334751, 4.21191692, 3.85888481}},
                        {"sft/grad_norm", {1.55999041, 2.67930198, 1.39803708, 1.35515189, 1.14122331}},
                        {"sft/entropy", {5.59855101, 5.59289243, 5.53666242, 5.42110718, 5.20794867}}});
  for (const std::string& line : lines) {
    EXPECT_EQ(line.find("actor/"), std::string::npos) << line;
    EXPECT_GT(number(line, "perf/throughput"), 0) << line;
    EXPECT_FLOAT_EQ(float(number(line, "sft/lr")), 1e-2f) << line;
  }
}

// ---- stop, kill, resume -----------------------------------------------------------------------------------

struct Variant {
  const char* name;
  const char* yaml;
  Strings overrides;
};

constexpr const char* kOnCuda = "run.device=cuda";

class LoopResume : public Loop, public ::testing::WithParamInterface<Variant> {};

TEST_P(LoopResume, SameBits) {
  const auto& [name, yaml, overrides] = GetParam();
  if (!overrides.empty() && overrides[0] == kOnCuda && !no_cuda_because().empty()) GTEST_SKIP() << no_cuda_because();
  ASSERT_TRUE(train(config("whole", yaml, overrides)));

  for (const int64_t at : {0, 3}) {
    const std::string run = str("stopped_", at);
    const RunConfig stopped = config(run, yaml, overrides);
    EXPECT_FALSE(train(stopped, "", [&](int64_t step) { return step == at; }));
    EXPECT_TRUE(fs::exists(dir_ / run / "checkpoints" / str("step_", at))) << "a stopped run saves";
    EXPECT_FALSE(fs::exists(dir_ / run / "model"));
    EXPECT_THROW(train(stopped), Error) << "a used directory";
    ASSERT_TRUE(train(stopped, "auto"));
    expect_same_bits(run, "whole");
  }

  // Killed twice: before the first checkpoint, and after a step that no checkpoint holds.
  const RunConfig killed = config("killed", yaml, overrides);
  for (const int64_t at : {1, 3}) {
    const auto kill = [&](int64_t step) { return step == at ? throw Killed() : false; };
    EXPECT_THROW(train(killed, "auto", kill), Killed);
    EXPECT_EQ(metrics("killed").size(), size_t(at));
  }
  ASSERT_TRUE(train(killed, "auto"));
  expect_same_bits("killed", "whole");

  // Complete: resuming it again changes nothing.
  ASSERT_TRUE(train(killed, "auto"));
  expect_same_bits("killed", "whole");
}

INSTANTIATE_TEST_SUITE_P(All, LoopResume,
                         ::testing::Values(Variant{"grpo", kGrpo, {}}, Variant{"sft", kSft, {}},
                                           Variant{"everything",
                                                   kGrpo,
                                                   {"algorithm.kl_coef=0.1", "algorithm.dynamic_sampling=true",
                                                    "algorithm.max_gen_batches=2", "algorithm.overlong=soft_punish",
                                                    "algorithm.overlong_buffer=8", "eval.every=2",
                                                    "eval.before_training=true", "eval.limit=4",
                                                    "eval.files=" + (kBuiltin / "sanity.jsonl").string()}}),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(
    Cuda, LoopResume,
    ::testing::Values(Variant{"grpo", kGrpo, {kOnCuda}}, Variant{"sft", kSft, {kOnCuda}},
                      Variant{"bf16", kGrpo, {kOnCuda, "precision.train=bf16", "precision.rollout=bf16"}},
                      Variant{"eval",
                              kGrpo,
                              {kOnCuda, "eval.every=2", "eval.limit=4",
                               "eval.files=" + (kBuiltin / "sanity.jsonl").string()}}),
    [](const auto& info) { return info.param.name; });

TEST_F(Loop, ResumeFromAnotherRunsCheckpoint) {
  ASSERT_TRUE(train(config("whole", kSft)));
  const RunConfig copy = config("copy", kSft);
  ASSERT_TRUE(train(copy, (dir_ / "whole/checkpoints/step_2").string()));
  EXPECT_TRUE(read_file(dir_ / "whole/model/model.safetensors") == read_file(dir_ / "copy/model/model.safetensors"));
  EXPECT_EQ(metrics("copy").size(), 3u) << "its own steps only";
  EXPECT_THROW(train(copy, (dir_ / "whole/checkpoints/step_2").string()), Error) << "a used directory";
}

TEST_F(Loop, ResumeUnderAnotherTierOfRecomputation) {
  ASSERT_TRUE(train(config("whole", kGrpo)));
  EXPECT_FALSE(train(config("other", kGrpo, {"train.recompute=full"}), "", [](int64_t step) { return step == 3; }));
  ASSERT_TRUE(train(config("other", kGrpo, {"train.recompute=auto"}), "auto"));
  expect_same_bits("other", "whole");
}

TEST_F(Loop, GoingBackMovesWhatCameLaterAside) {
  const RunConfig whole = config("whole", kSft);
  ASSERT_TRUE(train(whole));
  const RunConfig back = config("back", kSft);
  ASSERT_TRUE(train(back));
  const std::string step_2 = (dir_ / "back/checkpoints/step_2").string(), lines = read_file(dir_ / "back/sft.jsonl");
  fs::resize_file(dir_ / "back/sft.jsonl", 1);
  EXPECT_THROW(train(back, step_2), Error) << "its metrics are shorter than the checkpoint saw";
  EXPECT_TRUE(fs::exists(dir_ / "back/checkpoints/step_5")) << "nothing is moved then";
  std::ofstream(dir_ / "back/sft.jsonl") << lines;
  EXPECT_FALSE(train(back, step_2, [](int64_t step) { return step == 3; }));
  EXPECT_EQ(latest_checkpoint(dir_ / "back/checkpoints")->filename(), "step_3");
  const fs::path aside = dir_ / "back/aside/after_step_2";
  EXPECT_EQ(latest_checkpoint(aside / "checkpoints")->filename(), "step_5");
  EXPECT_EQ(read_file(aside / "model/model.safetensors"), read_file(dir_ / "whole/model/model.safetensors"));
  const std::string later = read_file(aside / "sft.jsonl");
  EXPECT_EQ(std::count(later.begin(), later.end(), '\n'), 3);
  EXPECT_TRUE(lines.ends_with(later));
  EXPECT_FALSE(train(back, step_2, [](int64_t step) { return step == 3; }));
  EXPECT_TRUE(fs::exists(dir_ / "back/aside/after_step_2_2/checkpoints/step_3"));
  ASSERT_TRUE(train(back, "auto"));
  expect_same_bits("back", "whole");
  for (const char* name : {"back/checkpoints", "back/model"}) fs::remove_all(dir_ / name);
  EXPECT_THROW(train(back, "auto"), Error) << "what lies aside would be deleted";
  EXPECT_TRUE(fs::exists(aside / "checkpoints/step_5"));
}

TEST_F(Loop, AFinishedModelWithoutCheckpointsIsKept) {
  const RunConfig finished = config("finished", kSft);
  ASSERT_TRUE(train(finished));
  fs::remove_all(dir_ / "finished/checkpoints");
  try {
    train(finished, "auto");
    FAIL() << "must refuse";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("holds the model of a finished run"), std::string::npos) << e.what();
  }
  EXPECT_TRUE(fs::exists(dir_ / "finished/model/model.safetensors"));
}

TEST_F(Loop, NoCheckpointIsWrittenAtTheEndWhereNoneIsWanted) {
  const std::vector<std::pair<int, Strings>> cases = {{0, {}}, {2, {"step_2", "step_4"}}, {5, {"step_5"}}};
  for (const auto& [every, expected] : cases) {
    const std::string name = str("every_", every);
    ASSERT_TRUE(train(config(name, kSft, {str("checkpoint.every=", every), "checkpoint.at_end=false"})));
    std::error_code none;
    Strings found;
    for (const auto& entry : fs::directory_iterator(dir_ / name / "checkpoints", none))
      found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, expected);
    EXPECT_TRUE(fs::exists(dir_ / name / "model/model.safetensors"));
  }
}

TEST_F(Loop, AnotherLengthOfAScheduleIsSaid) {
  const Strings linear{"optim.schedule=linear"};
  ASSERT_TRUE(train(config("longer", kSft, linear)));
  const RunConfig longer = config("longer", kSft, {linear[0], "train.steps=6"});
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(train(longer, "auto"));
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("train.steps was 5, now 6: from here on the learning rate follows the linear schedule"),
            std::string::npos)
      << log;
}

TEST_F(Loop, AResumedRunThatIsCompleteSaysSo) {
  ASSERT_TRUE(train(config("run", kSft)));
  for (const std::string steps : {"4", "5", "6"}) {  // it made 5
    ::testing::internal::CaptureStderr();
    ASSERT_TRUE(train(config("run", kSft, {"train.steps=" + steps}), "auto"));
    const std::string log = ::testing::internal::GetCapturedStderr(), said = "train.steps is " + steps;
    EXPECT_EQ(log.find(said + ": nothing is left to train") != std::string::npos, steps != "6") << log;
  }
}

// ---- overflow ---------------------------------------------------------------------------------------------

TEST_F(Loop, InjectedOverflowIsNamedSkippedAndOvercome) {
  const Strings inject{"train.inject_overflow_step=2", "train.inject_overflow_parameter=layers.1.down.weight"};
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(train(config("run", kGrpo, inject)));
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("step 2: overflow at loss scale 65536, update skipped; first: layers.1.mlp linear forward: "),
            std::string::npos)
      << log;
  EXPECT_NE(log.find("SKIPPED"), std::string::npos) << log;

  const Strings lines = metrics("run");
  ASSERT_EQ(lines.size(), 5u);
  // Two updates a step. The first of step 2 is skipped, the second goes on with half the scale; three clean
  // ones (growth_interval) double it again.
  const std::vector<double> skipped{0, 1, 0, 0, 0}, versions{2, 3, 5, 7, 9};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(number(lines[i], "scaler/skipped"), skipped[i]) << i;
    EXPECT_EQ(number(lines[i], "scaler/skipped_total"), i >= 1) << i;
    EXPECT_EQ(number(lines[i], "training/policy_version"), versions[i]) << i;
    EXPECT_TRUE(std::isfinite(number(lines[i], "actor/grad_norm"))) << i;
    EXPECT_TRUE(std::isfinite(number(lines[i], "actor/pg_loss"))) << i;
  }
  EXPECT_EQ(number(lines[0], "scaler/scale"), 65536);
  EXPECT_EQ(number(lines[1], "scaler/scale"), 32768);
  EXPECT_EQ(number(lines[2], "scaler/scale"), 32768);
  EXPECT_EQ(number(lines[3], "scaler/scale"), 65536);
}

// ---- what a step can be asked to do -----------------------------------------------------------------------

TEST_F(Loop, KlToTheWeightsOfTheStart) {
  const auto divergences = [&](const std::string& name, const std::string& coefficient) {
    EXPECT_TRUE(train(config(name, kGrpo, {"algorithm.kl_coef=" + coefficient, "train.mini_batch_size=16"})));
    std::vector<double> values;
    for (const std::string& line : metrics(name)) values.push_back(number(line, "actor/kl_loss"));
    return values;
  };
  const std::vector<double> loose = divergences("loose", "1e-6"), tight = divergences("tight", "1");
  EXPECT_EQ(loose[0], 0) << "the first update starts at the reference";
  for (size_t i = 1; i < 5; ++i) EXPECT_GT(loose[i], 0) << i;
  EXPECT_EQ(tight[0], 0);
  EXPECT_EQ(tight[1], loose[1]) << "at the reference k3 has no gradient: the first updates are the same";
  EXPECT_NE(tight[2], loose[2]) << "and then they part";
}

TEST_F(Loop, ResumeRefusesAnotherReference) {
  const auto model = random_model(parse_hf_config(kTinyModel, "tiny"), cpu(), Dtype::kF32, false, 1);
  model->tokenizer.tokenizer_json = read_file(kBuiltin / "tokenizer.json");
  save_hf(*model, dir_ / "model", Dtype::kF32);
  Strings overrides{"algorithm.kl_coef=0.1", "model.path=" + (dir_ / "model").string(), "rollout.max_new_tokens=4"};
  const RunConfig run = config("run", kGrpo, overrides);
  EXPECT_FALSE(train(run, "", [](int64_t step) { return step == 1; }));
  model->params.compute[model->decoder->params().final_norm].data<float>()[3] = 2.0f;
  fs::remove_all(dir_ / "model");
  save_hf(*model, dir_ / "model", Dtype::kF32);
  try {
    train(run, "auto");
    FAIL() << "must refuse";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("reference model"), std::string::npos) << e.what();
  }
}

TEST_F(Loop, DraftsChangeNothingOfARun) {
  const Strings small{"train.steps=5", "data.limit=4", "train.prompts_per_step=2", "optim.lr=1e-3"};
  Strings drafting = small;
  drafting.push_back("rollout.draft=history");
  ASSERT_TRUE(train(config("without", kGrpo, small)));
  ASSERT_TRUE(train(config("with", kGrpo, drafting)));
  expect_same_bits("with", "without");
  double proposed = 0, accepted = 0;
  for (const std::string& line : metrics("with")) {
    proposed += number(line, "draft/proposed");
    accepted += number(line, "draft/accepted");
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(proposed, accepted);
  EXPECT_EQ(metrics("without")[0].find("draft/"), std::string::npos);
}

TEST_F(Loop, DynamicSamplingRefillsUpToItsLimit) {
  const Strings on{"algorithm.dynamic_sampling=true", "algorithm.max_gen_batches=3", "rollout.n=2",
                   "train.mini_batch_size=4"};
  ASSERT_TRUE(train(config("run", kGrpo, on)));
  bool refilled = false;
  for (const std::string& line : metrics("run")) {
    const double rounds = number(line, "train/num_gen_batches"), kept = number(line, "train/kept_groups");
    EXPECT_LE(rounds, 3);
    EXPECT_LE(kept, 4);
    EXPECT_TRUE(kept == 4 || rounds == 3) << line;
    EXPECT_EQ(4 * rounds, kept + number(line, "train/surplus_groups") + number(line, "reward/zero_spread_groups"));
    refilled = refilled || rounds > 1;
  }
  EXPECT_TRUE(refilled);

  // A model that solves nothing: no group has spread, no update is taken.
  Strings untrained = on;
  untrained.push_back("model.path=random:" + (dir_ / "tiny/config.json").string());
  untrained.push_back("optim.weight_decay=0.1");
  EXPECT_THROW(train(config("none", kGrpo, untrained)), Error) << "nothing was learned";
  for (const std::string& line : metrics("none")) {
    EXPECT_EQ(number(line, "train/num_gen_batches"), 3);
    EXPECT_EQ(number(line, "train/kept_groups"), 0);
    EXPECT_EQ(number(line, "reward/zero_spread_groups"), 12);
    EXPECT_EQ(number(line, "training/policy_version"), 0);
    EXPECT_EQ(number(line, "scaler/scale"), 65536);
    for (const char* null : {"actor/pg_loss", "actor/grad_norm", "rollout_corr/k3_kl"})
      EXPECT_NE(line.find(str('"', null, "\": null")), std::string::npos) << null;
  }
}

TEST_F(Loop, TheScheduleCountsWhatWasPlanned) {
  const Strings dropping{"algorithm.dynamic_sampling=true",
                         "algorithm.max_gen_batches=1",
                         "rollout.n=2",
                         "train.mini_batch_size=4",
                         "optim.schedule=linear",
                         "optim.lr=1e-3",
                         "optim.warmup_steps=0"};
  const RunConfig run = config("run", kGrpo, dropping);
  ASSERT_TRUE(train(run));
  bool dropped = false;
  int64_t step = 0;
  for (const std::string& line : metrics("run")) {
    const double kept = number(line, "train/kept_groups"), planned = double(2 * step++);
    dropped = dropped || kept < 4;
    if (kept == 0) continue;
    const double last =
        planned + std::ceil(kept / 2) - 1;  // two updates of two groups were planned, the last is logged
    EXPECT_NEAR(number(line, "actor/lr"), 1e-3 * (1 - last / double(2 * run.train.steps)), 1e-9) << line;
  }
  EXPECT_TRUE(dropped);
}

TEST_F(Loop, EverythingMaskedTakesNoStep) {
  // Every answer is cut off and left out of the loss. Weight decay must not move the weights either.
  const Strings masked{"algorithm.overlong=mask", "rollout.max_new_tokens=2", "optim.weight_decay=0.1"};
  ::testing::internal::CaptureStderr();
  EXPECT_THROW(train(config("run", kGrpo, masked)), Error) << "nothing was learned";
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("step 1: no optimizer step was taken, since every token was left out"), std::string::npos) << log;
  EXPECT_EQ(log.find("nan"), std::string::npos) << log;
  for (const std::string& line : metrics("run")) {
    EXPECT_EQ(number(line, "response_length/clip_ratio"), 1);
    EXPECT_EQ(number(line, "training/empty_mini_batches"), 2);
    EXPECT_EQ(number(line, "training/policy_version"), 0);
    EXPECT_EQ(number(line, "scaler/skipped"), 0);
  }
  EXPECT_TRUE(read_file(dir_ / "run/checkpoints/step_2/master.safetensors") ==
              read_file(dir_ / "run/checkpoints/step_5/master.safetensors"));
}

TEST_F(Loop, AFailedGradeIsNoRewardOfZero) {
  // Every answer that is graded earns 1, so nothing is to be preferred, though the verifier breaks on some.
  const Strings breaking{"reward.kind=command", "reward.command=read line; test $((${#line} % 3)) -ne 0 && echo 1",
                         "algorithm.overlong=keep", "train.steps=1"};
  ASSERT_TRUE(train(config("run", kGrpo, breaking)));
  const std::string line = metrics("run")[0];
  EXPECT_GT(number(line, "verifier/error"), 0);
  EXPECT_GT(number(line, "verifier/parsed"), 0);
  for (const char* mean : {"critic/score/mean", "critic/score/min", "critic/rewards/mean"})
    EXPECT_EQ(number(line, mean), 1) << mean;
  for (const char* bound : {"critic/advantages/max", "critic/advantages/min", "actor/grad_norm"})
    EXPECT_EQ(number(line, bound), 0) << bound;
}

TEST_F(Loop, StopStringsEndResponses) {
  ASSERT_TRUE(train(config("kept", kGrpo, {"rollout.stop=[',', oxed]", "train.steps=1"})));
  ASSERT_TRUE(train(config("cut", kGrpo, {"rollout.stop=[',', oxed]", "rollout.keep_stop=false", "train.steps=1"})));
  EXPECT_EQ(number(metrics("kept")[0], "response_length/clip_ratio"), 0);
  EXPECT_EQ(number(metrics("kept")[0], "response_length/mean"), number(metrics("cut")[0], "response_length/mean"));
  const auto response = [&](const std::string& run) {
    const std::string line = lines_of(dir_ / run / "samples.jsonl")[0];
    const size_t begin = line.find("\"response\": \"") + 13;
    return line.substr(begin, line.find("\", \"answer\"") - begin);
  };
  const std::string kept = response("kept"), cut = response("cut");
  EXPECT_TRUE(kept.ends_with(",") || kept.ends_with("oxed")) << kept;
  EXPECT_TRUE(kept == cut + "," || kept == cut + "oxed") << cut;
}

TEST_F(Loop, SoftOverlongPunishmentReachesTheReward) {
  const Strings soft{"algorithm.overlong=soft_punish", "algorithm.overlong_buffer=2", "algorithm.overlong_penalty=0.5",
                     "rollout.max_new_tokens=2", "train.steps=1"};
  ASSERT_TRUE(train(config("run", kGrpo, soft)));
  EXPECT_EQ(number(metrics("run")[0], "critic/rewards/max"), -0.5) << "wrong and cut off";
  EXPECT_EQ(number(metrics("run")[0], "critic/score/mean"), 0) << "as the verifier gave it";
  EXPECT_EQ(number(metrics("run")[0], "critic/overlong_penalty/mean"), 0.5);
}

}  // namespace
}  // namespace mantissa
