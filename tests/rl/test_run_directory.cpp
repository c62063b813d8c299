// What a run leaves behind, read back: the self-test with a learning rate of 0, event files, config.yaml.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "core/file.h"
#include "rl/config_keys.h"
#include "rl/run.h"
#include "rl/selftest.h"
#include "tests/support/message.h"
#include "tests/support/other_user.h"
#include "tests/support/ranks.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGrpo = R"(
run: {seed: 3, device: cpu}
model: {path: "builtin:arithmetic"}
rollout: {n: 4, max_new_tokens: 16}
precision: {match: peer}
algorithm: {advantage: drgrpo, loss_aggregation: seq_mean_token_sum_norm}
train: {steps: 4, prompts_per_step: 4, mini_batch_size: 8}
optim: {lr: 0.0}
eval: {every: 2, n: 2}
checkpoint: {export_model: false}
logging: {tensorboard: true}
)";

RunConfig config(const fs::path& directory, std::vector<std::string> overrides = {}) {
  const fs::path data = fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl";
  overrides.insert(overrides.begin(), {"run.output_dir=" + directory.string(), "data.files=" + data.string(),
                                       "data.limit=8", "eval.files=" + data.string(), "eval.limit=2",
                                       "algorithm.entropy_coef=1e-3"});  // groups without spread stay in
  return parse_run_config(kGrpo, "test", overrides);
}

std::vector<std::string> lines_of(const fs::path& file) {
  std::ifstream in(file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

double number(const std::string& line, const std::string& name) {
  const std::string mark = "\"" + name + "\": ";
  const size_t at = line.find(mark);
  return at == std::string::npos || line.compare(at + mark.size(), 4, "null") == 0
             ? NAN
             : std::stod(line.substr(at + mark.size()));
}

TEST(SelfTestRun, WithALearningRateOfZeroNothingMoves) {
  TempDir dir;
  mantissa::Run run(config(dir / "run"), {});
  train(run, [] { return false; });
  const std::vector<std::string> lines = lines_of(dir / "run/metrics.jsonl");
  ASSERT_EQ(lines.size(), 4u);
  for (const std::string& line : lines) {
    EXPECT_EQ(number(line, "selftest/weights_changed"), 0);
    EXPECT_GT(number(line, "rollout_corr/k3_kl"), 0) << "peer rounding: there is a mismatch, and it is not learning";
    EXPECT_LT(number(line, "rollout_corr/k3_kl"), 1e-4);
    EXPECT_EQ(number(line, "actor/pg_clipfrac"), 0) << "pi stays pi_old in every update of a step";
    EXPECT_EQ(number(line, "actor/ppo_kl"), 0);
    EXPECT_GT(number(line, "training/policy_version"), 0) << "the optimizer did step";
  }
  EXPECT_TRUE(std::isfinite(number(lines[3], "selftest/k3_kl_trend")));

  // Drift that is not learning: something else writes into the weights. -0 in place of 0 is no drift.
  const auto write = [&](uint16_t bits) {
    run.exec.backend().copy_from_host(run.model->params.compute.flat().raw(), &bits, sizeof bits);
  };
  write(0);
  SelfTest self_test(run);
  Metrics clean, dirty;
  write(0x8000);
  self_test.check(run, clean);
  EXPECT_EQ(clean.get("selftest/weights_changed"), 0);
  write(0x3c01);
  self_test.check(run, dirty);
  EXPECT_EQ(dirty.get("selftest/weights_changed"), 1);
}

TEST(SelfTestRun, TheTrendGoesOnWhereARunIsResumed) {
  TempDir dir;
  const auto train_until = [&](const char* name, int64_t step, const char* resume) {
    mantissa::Run run(config(dir / name, {"train.steps=6"}), {.resume = resume});
    train(run, [&] { return run.step == step; });
  };
  train_until("whole", 6, "");
  train_until("run", 2, "");
  train_until("run", 6, "auto");
  const std::vector<std::string> a = lines_of(dir / "whole/metrics.jsonl"), b = lines_of(dir / "run/metrics.jsonl");
  ASSERT_EQ(a.size(), 6u);
  ASSERT_EQ(b.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const double trend = number(a[i], "selftest/k3_kl_trend");
    EXPECT_EQ(number(b[i], "selftest/k3_kl_trend"), trend) << "step " << i + 1;
    EXPECT_EQ(trend == 0, i < 3) << "a slope needs four steps";
  }
}

TEST(SelfTestRun, IsSilentWhereThereIsLearning) {
  TempDir dir;
  mantissa::Run run(config(dir / "run", {"optim.lr=1e-5", "train.steps=1", "eval.every=0"}), {});
  train(run, [] { return false; });
  EXPECT_EQ(lines_of(dir / "run/metrics.jsonl")[0].find("selftest"), std::string::npos);
}

TEST(RunDirectory, SaysWhatTheRunWas) {
  TempDir dir;
  mantissa::Run run(config(dir / "run", {"train.steps=2"}), {});
  train(run, [] { return false; });
  const std::string text = read_file(dir / "run/config.yaml");
  EXPECT_TRUE(text.starts_with("# mantissa ")) << text.substr(0, 80);
  for (const char* part : {"cpu", "qwen3", "parameters", "8 problems", "sanity, 2"})
    EXPECT_NE(text.substr(0, text.find("run:")).find(part), std::string::npos) << part;
  EXPECT_EQ(format_run_config(load_run_config((dir / "run/config.yaml").string(), {})), format_run_config(run.config));
  const std::string step = lines_of(dir / "run/metrics.jsonl").back(), eval = lines_of(dir / "run/eval.jsonl").back();
  for (const char* name : {"critic/score/mean",
                           "critic/advantages/max",
                           "response_length/clip_ratio",
                           "prompt_length/mean",
                           "reward/zero_spread_groups",
                           "verifier/parsed",
                           "verifier/timeout",
                           "actor/pg_loss",
                           "actor/entropy",
                           "actor/grad_norm",
                           "actor/lr",
                           "rollout_corr/kl",
                           "rollout_corr/k3_kl",
                           "rollout_corr/kept_fraction",
                           "rollout_corr/rollout_is_eff_sample_size",
                           "training/rollout_probs_diff_max",
                           "scaler/scale",
                           "scaler/skipped",
                           "timing_s/gen",
                           "timing_s/reward",
                           "timing_s/old_log_prob",
                           "timing_s/adv",
                           "timing_s/update_actor",
                           "timing_s/step",
                           "perf/throughput",
                           "perf/total_num_tokens",
                           "perf/max_memory_allocated_gb"})
    EXPECT_TRUE(std::isfinite(number(step, name))) << name;
  for (const char* name : {"val-core/sanity/acc/mean@2", "val-core/sanity/acc/pass@2", "val-core/sanity/acc/maj@2",
                           "val-aux/sanity/acc/mean@2/low", "timing_s/testing"})
    EXPECT_TRUE(std::isfinite(number(eval, name))) << name;
}

TEST(RunDirectory, OneOfSeveralRanksHasIt) {
  // All take the same steps to the same weights, one writes.
  TempDir dir;
  const RunConfig same = config(dir / "run", {"optim.lr=1e-4", "train.steps=2"});
  for (const char* resume : {"", "auto"}) {
    std::vector<float> weights[2];
    const std::vector<std::string> errors = run_ranks(2, [&](Comm& comm) {
      mantissa::Run run(same, StartOptions{.resume = resume}, comm);
      EXPECT_EQ(run.directory != nullptr, comm.main());
      EXPECT_EQ(run.step, *resume ? 2 : 0);
      train(run, [] { return false; });
      weights[comm.rank()] = to_host_float(run.model->params.compute.flat());
    });
    EXPECT_EQ(errors, std::vector<std::string>(2));
    EXPECT_EQ(lines_of(dir / "run/metrics.jsonl").size(), 2u);
    EXPECT_FALSE(weights[0].empty());
    EXPECT_EQ(weights[0], weights[1]);
  }
}

TEST(RunDirectory, RanksNeedTheSameConfig) {
  TempDir dir;
  const std::vector<std::string> errors = run_ranks(
      2, [&](Comm& comm) { mantissa::Run run(config(dir / "run", {str("train.steps=", 1 + comm.rank())}), {}, comm); });
  for (const std::string& error : errors)
    EXPECT_EQ(error,
              "rank 1 was started with another config than rank 0: rank 0 has train.steps: 1, rank 1 train.steps: 2");
}

TEST(RunDirectory, OnlyDecisiveKeysMustBeEqualOnResume) {
  TempDir dir;
  const auto start = [&](std::vector<std::string> overrides) {
    overrides.insert(overrides.begin(), {"optim.lr=1e-4", "train.steps=1"});
    const RunConfig now = config(dir / "run", overrides);
    return std::make_unique<RunDirectory>(now, StartOptions{.resume = "auto"})->checkpoint();
  };
  {
    mantissa::Run run(config(dir / "run", {"optim.lr=1e-4", "train.steps=1"}), {});
    train(run, [] { return false; });
  }
  EXPECT_TRUE(start({"run.name=other", "eval.n=3", "checkpoint.keep=7", "logging.samples=0", "train.steps=9"}));
  for (const auto& [override, was] : {std::pair("run.seed=4", "run.seed: 3"),
                                      {"optim.lr=2e-4", "optim.lr: 0.0001"},
                                      {"rollout.n=8", "rollout.n: 4"},
                                      {"data.limit=7", "data.limit: 8"}})
    try {
      start({override});
      ADD_FAILURE() << override << " must be refused";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(was), std::string::npos) << e.what();
    }
  for (const char* name : {"reward.a.kind", "reward.b.kind"}) try {  // keys that one of both has not
      start({str(name, "=math")});
      ADD_FAILURE() << name << " must be refused";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("config: reward.kind: math, now reward.kind: not there"), std::string::npos)
          << e.what();
    }
  const std::vector<ConfigKey> values = config_keys(config(dir / "run"));
  for (const char* free :
       {"run.output_dir", "run.device", "train.steps", "train.recompute", "eval.every", "checkpoint.keep"})
    EXPECT_FALSE(std::ranges::find(values, free, &ConfigKey::name)->decisive) << free;
}

TEST(RunDirectory, GoesOnFromARunThatSetWhatNothingRead) {
  // Earlier versions let such keys stand; this one refuses them in the config that the run goes on under.
  TempDir dir;
  const std::vector<std::string> overrides = {"optim.lr=1e-4", "train.steps=1"};
  RunConfig earlier = config(dir / "run", overrides);
  earlier.lora.alpha = 32, earlier.reward.one.timeout_s = 30;
  EXPECT_THROW(parse_run_config(format_run_config(earlier), "F", {}), Error);
  {
    mantissa::Run run(earlier, {});
    train(run, [] { return false; });
  }
  EXPECT_EQ(mantissa::Run(config(dir / "run", overrides), StartOptions{.resume = "auto"}).step, 1);
  EXPECT_THROW(mantissa::Run(config(dir / "run", {"train.steps=1", "optim.lr=2e-4"}), StartOptions{.resume = "auto"}),
               Error);
}

TEST(RunDirectory, AMessageAndVariablesThatNothingReadMayBeGone) {
  TempDir dir;
  struct Case {
    std::vector<std::string> overrides;
    std::string refusal;  // of the message; empty: it may be gone
  };
  for (const auto& [more, refusal] :
       {Case{{}, ""}, Case{{}, "was made on other data"},
        Case{{"data.template=chat", "data.chat_template=chatml"},
             "was made under another config: data.system: \"S\", now data.system: \"\""}}) {
    std::vector<std::string> overrides = {"optim.lr=1e-4", "train.steps=1"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    {  // a checkpoint of an earlier version, which took any
      mantissa::Run run(config(dir / "run", overrides), {.overwrite = true});
      train(run, [] { return false; });
      CheckpointState state = read_checkpoint_state(dir / "run/checkpoints/step_1");
      RunConfig earlier = run.config;
      earlier.data.system = "S", earlier.data.chat_template_kwargs = {"thinking=true"};
      state.config = format_run_config(earlier);
      if (refusal.ends_with("data")) state.texts["data_hash"] = "0";  // whose template may have read all of it
      save_checkpoint(dir / "earlier", state, run.model->trained(), *run.optimizer, {});
    }
    const StartOptions resume{.resume = (dir / "earlier/step_1").string(), .overwrite = true};
    testing::internal::CaptureStderr();
    const std::string message =
        message_of([&] { EXPECT_EQ(mantissa::Run(config(dir / "run", overrides), resume).step, 1); });
    const std::string log = testing::internal::GetCapturedStderr();
    for (const char* key : {"data.chat_template_kwargs: thinking=true", "data.system: S"})
      EXPECT_EQ(log.find(str("was made with ", key, ", which nothing reads")) != log.npos, refusal.empty()) << log;
    EXPECT_EQ(message.empty(), refusal.empty()) << message;
    EXPECT_NE(message.find(refusal), message.npos) << message;
  }
}

TEST(RunDirectory, ADamagedLineOfTheMetricsIsNamed) {
  TempDir dir;
  const RunConfig two = config(dir / "run", {"optim.lr=1e-4", "train.steps=2"});
  {
    mantissa::Run run(two, {});
    train(run, [] { return false; });
  }
  std::fstream(dir / "run/metrics.jsonl", std::ios::in | std::ios::out).write("####", 4);
  mantissa::Run run(two, StartOptions{.resume = "auto"});
  EXPECT_TRUE(
      message_of([&] {
        train(run, [] { return false; });
      }).starts_with((dir / "run/metrics.jsonl").string() + ": must hold a line of JSON for each step, got \"####"));
}

TEST(RunDirectory, AFolderThatIsALinkStaysOne) {
  TempDir dir;
  const fs::path linked = dir / "run/checkpoints";
  fs::create_directories(dir / "large_disk");
  fs::create_directories(dir / "run");
  fs::create_directory_symlink(dir / "large_disk", linked);
  for (const char* steps : {"train.steps=2", "train.steps=1"}) {
    mantissa::Run run(config(dir / "run", {"optim.lr=1e-4", steps}), {.overwrite = true});
    train(run, [] { return false; });
  }
  EXPECT_TRUE(fs::is_symlink(linked));
  EXPECT_TRUE(fs::exists(dir / "large_disk/step_1"));
  EXPECT_FALSE(fs::exists(dir / "large_disk/step_2")) << "of the run that was overwritten";
}

TEST(RunDirectory, WhatCannotBeWrittenOrDeletedIsFoundAtOnce) {
  TempDir dir;
  fs::permissions(dir.path(), fs::perms::all);
  const RunConfig now = config(dir / "run", {"optim.lr=1e-4", "train.steps=1"});
  const auto start = [&](StartOptions options) {
    return as_other_user([&] { return message_of([&] { RunDirectory(now, options).begin(""); }); });
  };
  ASSERT_EQ(start({}), "");
  const fs::path checkpoints = dir / "run/checkpoints";
  fs::create_directories(checkpoints / "step_1");
  fs::create_directories(dir / "run/tensorboard");
  std::ofstream(checkpoints / "step_1/state.json") << "{}";
  fs::permissions(checkpoints, fs::perms(0555));
  std::ofstream(dir / "run/metrics.jsonl") << "{}\n";
  expect_message(start({.overwrite = true}), {"run/checkpoints: starting anew would delete it", "Permission denied"});
  EXPECT_EQ(read_file(dir / "run/metrics.jsonl"), "{}\n") << "nothing is deleted then";
  fs::permissions(checkpoints, fs::perms::all);
  fs::remove_all(checkpoints / "step_1");
  fs::remove(dir / "run/metrics.jsonl");
  for (const char* name : {"eval.jsonl", "samples.jsonl", "config.yaml", "tensorboard"})
    fs::remove_all(dir / "run" / name);
  fs::permissions(checkpoints, fs::perms(0555));
  expect_message(start({.resume = "auto"}), {"run/checkpoints/.mantissa_probe", "Permission denied"});
}

/// The events of a file, with both checksums checked.
std::vector<std::string> records_of(const fs::path& file) {
  const std::string text = read_file(file);
  const auto masked = [](std::string_view bytes) {
    const uint32_t crc = crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
  };
  const auto word = [&](size_t at, auto value) {
    std::memcpy(&value, text.data() + at, sizeof value);
    return value;
  };
  std::vector<std::string> records;
  for (size_t at = 0; at < text.size();) {
    const uint64_t length = word(at, uint64_t());
    EXPECT_EQ(word(at + 8, uint32_t()), masked(std::string_view(text).substr(at, 8)));
    if (at + 12 + length + 4 > text.size()) {
      ADD_FAILURE() << "cut record";
      break;
    }
    records.push_back(text.substr(at + 12, length));
    EXPECT_EQ(word(at + 12 + length, uint32_t()), masked(records.back()));
    at += 12 + length + 4;
  }
  return records;
}

TEST(TensorBoard, ChecksumsArePublishedOnes) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(TensorBoard, EventsAreRecords) {
  TempDir dir;
  Metrics metrics;
  metrics.set("step", 300);
  metrics.set("a/b", 1.5);
  metrics.set("nothing", NAN);
  { EventFile(dir / "tb", 7).write(metrics); }
  const auto entry = *fs::directory_iterator(dir / "tb");
  EXPECT_NE(entry.path().string().find("tfevents"), std::string::npos);
  const std::vector<std::string> records = records_of(entry.path());
  ASSERT_EQ(records.size(), 3u) << "version, start of the session, one step";
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  // Field 1 wall time (9 bytes), field 2 step, field 7 session log with status START.
  EXPECT_EQ(records[1].substr(9), std::string("\x10\x07\x3a\x02\x08\x01", 6));
  // Step 300 as a varint; a summary of one value: tag "a/b", 1.5 as fp32.
  EXPECT_EQ(records[2].substr(9), std::string("\x10\xac\x02\x2a\x0c\x0a\x0a\x0a\x03"
                                              "a/b"
                                              "\x15\x00\x00\xc0\x3f",
                                              17));
}

TEST(TensorBoard, ALaterFileHasALaterNameWhateverTheClockSays) {
  TempDir dir;
  std::ofstream(dir / "events.out.tfevents.9000000000000.mantissa") << "of a clock that was ahead";
  { EventFile(dir.path(), 1).write({}); }
  EXPECT_TRUE(fs::exists(dir / "events.out.tfevents.9000000000001.mantissa"));
}

TEST(TensorBoard, AResumedRunGoesOnInAFileOfItsOwn) {
  TempDir dir;
  {
    mantissa::Run run(config(dir / "run", {"checkpoint.every=1", "train.steps=4"}), {});
    train(run, [&] { return run.step == 2; });
  }
  mantissa::Run run(config(dir / "run", {"checkpoint.every=1", "train.steps=4"}), {.resume = "auto"});
  train(run, [] { return false; });
  std::vector<fs::path> files(fs::directory_iterator(dir / "run/tensorboard"), fs::directory_iterator{});
  std::sort(files.begin(), files.end());
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(records_of(files[0]).size(), 2u + 2 + 1);  // two steps, one evaluation
  EXPECT_EQ(records_of(files[1]).size(), 2u + 2 + 1);
}

}  // namespace
}  // namespace mantissa
