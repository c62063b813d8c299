// RunConfig: one YAML file = one complete run. Every section is a struct beside its owner; this file lists the sections
// and those without another owner (run, model, precision, train, eval, checkpoint, logging).
#pragma once

#include <string>
#include <vector>

#include "autograd/tape.h"
#include "nn/optimizer.h"
#include "rl/algorithm/algorithm.h"
#include "rl/data/prompts.h"
#include "rl/reward/reward.h"
#include "rl/rollout/engine.h"

namespace mantissa {

struct RunSection {
  std::string name = "run";
  std::string output_dir;  // empty: runs/<name>
  int64_t seed = 0;
  std::string device = "auto";  // auto, cpu, cuda
  void fields(Fields& f);
};

struct ModelSection {
  std::string path;       // Hugging Face directory, .gguf file, builtin:<name>
  int64_t lora_rank = 0;  // 0: all weights are trained
  double lora_alpha = 16;
  void fields(Fields& f);
};

/// The precision matrix. With "auto" kv_cache and the rollout's head follow rollout, the trainer's head follows train.
struct PrecisionConfig {
  std::string train = "fp16", rollout = "fp16";
  std::string kv_cache = "auto", lm_head = "auto";
  std::string residual = "compute";  // compute, fp32
  void fields(Fields& f);

  Dtype train_dtype() const { return parse_precision(train); }
  Dtype rollout_dtype() const { return parse_precision(rollout); }
  Dtype head_dtype(Dtype compute) const { return lm_head == "auto" ? compute : parse_precision(lm_head); }
  Dtype residual_dtype(Dtype compute) const { return residual == "fp32" ? Dtype::kF32 : compute; }
  EnginePrecision engine(const RolloutConfig& rollout) const;
  /// Throws Error for combinations that undo what they ask for.
  void validate() const;
};

struct TrainConfig {
  std::string mode = "grpo";      // grpo, sft
  int64_t steps = 100;            // training steps: rollouts (grpo) or batches (sft)
  int64_t prompts_per_step = 64;  // prompts of a rollout (grpo) or examples of a batch (sft)
  int64_t mini_batch_size = 128;  // sequences per optimizer step
  int64_t epochs = 1;             // passes over a rollout
  int64_t micro_batch_tokens = 16384;
  std::string recompute = "none";  // none, elementwise, mlp, full
  int64_t head_chunk = 0;          // tokens whose logits exist at once; 0: chosen for the device
  bool deterministic = true;
  int64_t inject_overflow_step = -1;  // for tests: one weight is infinite during this step
  std::string inject_overflow_parameter = "layers.0.down.weight";
  void fields(Fields& f);

  Recompute recompute_tier() const;
};

struct EvalConfig {
  int64_t every = 0;  // steps; 0 = never
  bool before_training = false;
  std::vector<std::string> files;  // empty: none
  int64_t limit = 0;
  int64_t n = 1;
  double temperature = 0.6, top_p = 0.95;
  void fields(Fields& f);
};

struct CheckpointConfig {
  int64_t every = 0;  // steps; 0 = only at the end or when stopped
  int64_t keep = 2;
  bool export_model = true;  // write a Hugging Face directory at the end
  void fields(Fields& f);
};

struct LoggingConfig {
  int64_t samples = 4;  // completions written to samples.jsonl a step
  bool tensorboard = false;
  void fields(Fields& f);
};

struct DistributedConfig {
  int64_t gpus = 1;  // processes that share the run, one a GPU
  void fields(Fields& f);
};

struct RunConfig {
  RunSection run;
  ModelSection model;
  PrecisionConfig precision;
  DataConfig data;
  RolloutConfig rollout;
  RewardConfig reward;
  AlgorithmConfig algorithm;
  OptimConfig optim;
  ScalerConfig scaler;
  TrainConfig train;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  LoggingConfig logging;
  DistributedConfig distributed;

  std::string output_dir() const { return run.output_dir.empty() ? "runs/" + run.name : run.output_dir; }
  /// Rules between sections; throws Error naming the keys.
  void validate() const;

  /// Calls f(section name, section) in the order of the file.
  template <class F>
  void sections(F&& f) {
    f("run", run), f("model", model), f("precision", precision), f("data", data), f("rollout", rollout);
    f("reward", reward), f("algorithm", algorithm), f("optim", optim), f("scaler", scaler), f("train", train);
    f("eval", eval), f("checkpoint", checkpoint), f("logging", logging), f("distributed", distributed);
  }
};

/// What the config asks for and this version cannot do yet, a line each: it loads, a run of it is refused.
std::vector<std::string> missing_features(const RunConfig& config);

/// Reads a file and applies overrides "section.key=value". Errors name file, line (or the override), key, rule and
/// value; an unknown key comes with the nearest known one.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides);
/// The same from text (tests, fuzzing); `where` names it in messages.
RunConfig parse_run_config(const std::string& yaml, const std::string& where,
                           const std::vector<std::string>& overrides);
/// The resolved config as YAML, every key with its value, readable by load_run_config.
std::string format_run_config(RunConfig config);

}  // namespace mantissa
