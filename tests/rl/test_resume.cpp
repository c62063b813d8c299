// Runs that were stopped or killed and resumed, which must end with the bits of a run that was not; and which
// checkpoints and directories can be resumed.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/hf.h"
#include "nn/formats/hf_config.h"
#include "nn/model.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/loop_test.h"

namespace mantissa {
namespace {

/// What `kill -9` is to a run inside a test: it ends without another word.
struct Killed {};

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

}  // namespace
}  // namespace mantissa
