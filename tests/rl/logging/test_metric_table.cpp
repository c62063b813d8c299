// The table of metrics: what runs write stands in it, and docs/tour.md shows it as it is.
#include "rl/logging/metric_table.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "core/file.h"
#include "rl/run.h"
#include "tests/support/ranks.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = MANTISSA_SOURCE_DIR;

TEST(MetricTable, PlaceholdersStandForNames) {
  const auto row = [](std::string_view name) { return find_metric(name) ? find_metric(name)->name : ""; };
  EXPECT_EQ(row("critic/score/mean"), "critic/score/mean");
  EXPECT_EQ(row("val-core/gsm8k/acc/mean@16"), "val-core/<set>/acc/mean@<n>");
  EXPECT_EQ(row("val-core/data/a.jsonl/acc/pass@1"), "val-core/<set>/acc/pass@<n>") << "a set may be named by its path";
  EXPECT_EQ(row("val-aux/x/acc/maj@4/low"), "val-aux/<set>/acc/<measure>@<n>/low");
  EXPECT_EQ(row("val-core//acc/mean@16"), "");
  EXPECT_EQ(row("critic/score/mea"), "");
}

TEST(MetricTable, TheTourShowsIt) {
  std::string expected = "| metric | unit | meaning |\n| --- | --- | --- |\n";
  for (const MetricInfo& m : metric_table()) expected += str("| `", m.name, "` | ", m.unit, " | ", m.meaning, " |\n");
  const std::string tour = read_file(kRoot / "docs/tour.md");
  const size_t begin = tour.find("| metric | unit | meaning |\n"), end = tour.find("\n\n", begin);
  ASSERT_NE(begin, std::string::npos);
  EXPECT_EQ(tour.substr(begin, end == std::string::npos ? end : end + 1 - begin), expected)
      << "docs/tour.md must show the table of rl/logging/metric_table.cpp";
}

/// The config of a mixture of experts that reads the embedded task's tokens.
std::string mixture(const fs::path& directory) {
  const fs::path dense = kRoot / "builtin/arithmetic", to = directory / "mixture";
  std::string config = read_file(dense / "config.json");
  const std::string type = "\"qwen3\"", keys = R"("qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
  "moe_intermediate_size": 32)";
  config.replace(config.find(type), type.size(), keys);
  fs::create_directories(to);
  fs::copy_file(dense / "tokenizer.json", to / "tokenizer.json");
  write_file(to / "config.json", config);
  return (to / "config.json").string();
}

/// Runs everything that adds metrics: warm start, GRPO with all its parts, evaluation, the self-test.
std::set<std::string> metrics_of_runs(const fs::path& directory) {
  const std::string data = (kRoot / "builtin/arithmetic/sanity.jsonl").string();
  const auto run_all = [&](const std::string& name, std::vector<std::string> overrides) {
    overrides.insert(overrides.begin(), {"run.output_dir=" + (directory / name).string(), "data.files=" + data,
                                         "model.path=builtin:arithmetic", "data.limit=8", "train.prompts_per_step=4",
                                         "train.mini_batch_size=4", "train.steps=1", "checkpoint.export_model=false"});
    const std::vector<std::string> errors = run_ranks(2, [&](Comm& comm) {  // some are there with several ranks only
      mantissa::Run run(parse_run_config("run: {device: cpu, seed: 3}", "test", overrides), {}, comm);
      train(run, [] { return false; });
    });
    EXPECT_EQ(errors, std::vector<std::string>(2));
  };
  run_all("sft", {"train.mode=sft", "data.response_format={answer}", "model.path=random:" + mixture(directory)});
  run_all("grpo",
          {"rollout.n=4", "rollout.draft=history", "rollout.max_new_tokens=32", "algorithm.kl_coef=0.1", "optim.lr=0",
           "algorithm.dynamic_sampling=true", "algorithm.max_gen_batches=2", "algorithm.correction=token_tis",
           "algorithm.overlong=soft_punish", "algorithm.overlong_buffer=4", "eval.every=1", "eval.limit=2", "eval.n=2",
           "reward.answer.kind=math", "reward.layout.kind=format", "eval.files=" + data});
  run_all("lora", {"rollout.n=4", "rollout.max_new_tokens=32", "lora.rank=2", "lora.rollout=merged_in_place"});
  run_all("mixture",
          {"rollout.n=4", "rollout.max_new_tokens=32", "model.path=builtin:arithmetic_moe", "exact.check=all"});
  std::set<std::string> names;
  for (const char* file :
       {"sft/sft.jsonl", "lora/metrics.jsonl", "mixture/metrics.jsonl", "grpo/metrics.jsonl", "grpo/eval.jsonl"}) {
    std::ifstream in(directory / file);
    for (std::string line; std::getline(in, line);) {
      const nlohmann::json object = nlohmann::json::parse(line);
      for (const auto& [name, value] : object.items()) names.insert(name);
    }
  }
  return names;
}

TEST(MetricTable, HoldsWhatRunsWriteAndNothingElse) {
  TempDir dir;
  std::set<std::string_view> seen;
  for (const std::string& name : metrics_of_runs(dir / "")) {
    const MetricInfo* info = find_metric(name);
    ASSERT_NE(info, nullptr) << name << " stands in no row of rl/logging/metric_table.cpp";
    seen.insert(info->name);
  }
  for (const MetricInfo& m : metric_table()) EXPECT_TRUE(seen.contains(m.name)) << m.name << " was written by no run";
}

}  // namespace
}  // namespace mantissa
