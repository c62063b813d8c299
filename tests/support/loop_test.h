// What tests of the whole loop share: two short runs on small models, and the comparison of what runs wrote. Exempt are
// seconds and memory (timing_s/*, perf/*), and how drafts did (draft/*), whose history a resumed run has not.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <regex>
#include <string>
#include <vector>

#include "core/file.h"
#include "rl/run.h"
#include "tests/support/temp_dir.h"

namespace mantissa {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

inline const fs::path kBuiltin = fs::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic";

/// GRPO on the embedded model: 4 prompts x 4 samples, two updates a step.
inline constexpr const char* kGrpo = R"(
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
inline constexpr const char* kSft = R"(
run: {seed: 3, device: cpu}
train: {mode: sft, steps: 5, prompts_per_step: 8, mini_batch_size: 8}
optim: {lr: 1.0e-2}
scaler: {growth_interval: 3}
checkpoint: {every: 2, keep: 0}
)";

inline constexpr const char* kTinyModel = R"({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"],
  "vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 0})";

/// A number of a metrics line; NaN for null, and for a name that is not there.
inline double number(const std::string& line, const std::string& name) {
  const std::string mark = "\"" + name + "\": ";
  const size_t at = line.find(mark);
  if (at == std::string::npos || line.compare(at + mark.size(), 4, "null") == 0) return NAN;
  return std::stod(line.substr(at + mark.size()));
}

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

  static Strings lines_of(const fs::path& file) {
    std::ifstream in(file);
    Strings lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }

  Strings metrics(const std::string& name) const {
    const bool sft = fs::exists(dir_ / name / "sft.jsonl");
    return lines_of(dir_ / name / (sft ? "sft.jsonl" : "metrics.jsonl"));
  }

  /// The lines of a metrics file without what may differ between two runs.
  static Strings bits_of(const fs::path& file) {
    static const std::regex exempt(R"re(, "(timing_s|perf|draft)/[^"]*": [^,}]*)re");
    Strings lines = lines_of(file);
    for (std::string& line : lines) line = std::regex_replace(line, exempt, "");
    return lines;
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

}  // namespace mantissa
