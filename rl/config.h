// RunConfig: one YAML file = one complete run. Every section is a struct beside what it configures; this file lists
// them and holds those that name the run itself: run, model and distributed.
#pragma once

#include <string>
#include <vector>

#include "nn/adapter.h"
#include "nn/checkpoint.h"
#include "nn/optimizer.h"
#include "rl/algorithm/algorithm.h"
#include "rl/data/prompts.h"
#include "rl/evaluate.h"
#include "rl/exact.h"
#include "rl/logging/metrics.h"
#include "rl/precision.h"
#include "rl/reward/rewards.h"
#include "rl/rollout/engine.h"
#include "rl/train/routes.h"
#include "rl/train/train_config.h"

namespace mantissa {

struct RunSection {
  std::string name = "run";
  std::string output_dir;  // empty: runs/<name>
  int64_t seed = 0;
  std::string device = "auto";  // auto, cpu, cuda, cuda:N
  void fields(Fields& f);
};

struct ModelSection {
  std::string path;  // as load_model takes it (nn/model.h)
  void fields(Fields& f);
};

struct DistributedConfig {
  std::string gpus = "1";           // processes started on this machine, one a GPU; or auto
  std::string shard = "optimizer";  // optimizer, parameters: what each rank keeps a part of
  std::string gather = "auto";      // auto, whole, unit: weights in parts, in a rollout
  int64_t experts = 1;              // ranks that share out a model's experts
  bool overlap = true;              // gradients are summed over ranks beside backward
  std::string offload = "none";     // none, optimizer: masters and moments in host memory
  Sharding sharding() const { return shard == "parameters" ? Sharding::kParameters : Sharding::kOptimizer; }
  Placement placement() const { return offload == "optimizer" ? Placement::kHost : Placement::kDevice; }
  void fields(Fields& f);
};

struct RunConfig {
  RunSection run;
  ModelSection model;
  LoraConfig lora;
  PrecisionConfig precision;
  ExactConfig exact;
  MoeConfig moe;
  DataConfig data;
  RolloutConfig rollout;
  RewardsConfig reward;
  AlgorithmConfig algorithm;
  OptimConfig optim;
  ScalerConfig scaler;
  TrainConfig train;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  LoggingConfig logging;
  DistributedConfig distributed;

  std::string output_dir() const { return run.output_dir.empty() ? "runs/" + run.name : run.output_dir; }
  /// Optimizer steps that a training step plans; fewer are taken where groups are dropped or have no spread.
  int64_t planned_updates() const {
    const int64_t sequences = train.prompts_per_step * (train.mode == "sft" ? 1 : rollout.n);
    return sequences / train.mini_batch_size * train.epochs;
  }
  bool evaluates() const { return !eval.files.empty() && (eval.every > 0 || eval.before_training); }
  /// Whether anything is sampled and graded: rollouts, or the evaluations of a warm start.
  bool samples() const { return train.mode == "grpo" || evaluates(); }
  /// Rules between sections; throws Error naming the keys.
  void validate() const;

  /// Calls f(section name, section) in the order of the file.
  template <class F>
  void sections(F&& f) {
    f("run", run), f("model", model), f("lora", lora), f("precision", precision), f("exact", exact);
    f("moe", moe), f("data", data), f("rollout", rollout);
    f("reward", reward), f("algorithm", algorithm), f("optim", optim), f("scaler", scaler), f("train", train);
    f("eval", eval), f("checkpoint", checkpoint), f("logging", logging), f("distributed", distributed);
  }
};

/// Reads a file and applies overrides "section.key=value". Errors name file, line (or the override), key, rule and
/// value; an unknown key comes with the nearest known one. Where lora.init is an adapter, section lora has its rank,
/// alpha and targets; other ones that are set are an error.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides);
/// The same from text (tests, fuzzing), but for the adapter, which is not read; `where` names it in messages.
RunConfig parse_run_config(const std::string& yaml, const std::string& where,
                           const std::vector<std::string>& overrides);
/// That of a checkpoint, which an earlier version may have written: what this one asks keys to agree on is not asked.
RunConfig parse_saved_config(const std::string& yaml, const std::string& where);
/// The resolved config as YAML, every key with its value, readable by load_run_config.
std::string format_run_config(RunConfig config);

}  // namespace mantissa
