// Run: everything one training run owns, opened in the order of the members; how it starts, resumes and saves.
//
//   <output_dir>/config.yaml      the resolved config; on top version, device, model, data
//                metrics.jsonl    one line a step (sft.jsonl for supervised warm starts)
//                eval.jsonl       one line an evaluation
//                samples.jsonl    some completions of each step
//                tensorboard/     the same metrics as event files, with logging.tensorboard
//                checkpoints/     step_<N>/ (nn/checkpoint.h)
//                model/           the trained model as a Hugging Face directory, at the end
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "core/file.h"
#include "nn/checkpoint.h"
#include "rl/config.h"
#include "rl/data/prompts.h"
#include "rl/logging/metrics.h"
#include "rl/logging/tensorboard.h"
#include "rl/rollout/engine.h"
#include "rl/text/tokenizer.h"
#include "rl/train/trainer.h"

namespace mantissa {

struct StartOptions {
  /// Empty: start anew. "auto": go on from the last checkpoint of the output directory, or start anew when there is
  /// none and no finished model either. Else a checkpoint directory: one of the run's own deletes those of later steps.
  std::string resume;
  /// Start anew in a used output directory, deleting what the earlier run wrote.
  bool overwrite = false;
};

/// The problems of one file of eval.files.
struct EvalSet {
  std::string name;
  std::vector<Prompt> prompts;
};

class Run {
 public:
  /// Checks the output directory before anything is loaded: a used one is refused unless told to resume or
  /// overwrite. What an earlier run left there is deleted only when everything else has been opened.
  Run(const RunConfig& config, const StartOptions& start);

  bool sft() const { return config.train.mode == "sft"; }
  /// After a generation: warns where want of memory changed what was batched together, and with it perhaps the samples.
  void check_cache();
  /// Writes a checkpoint of the current step.
  void save();
  /// Appends the metrics of a step.
  void log_step(const Metrics& metrics) { log(*metrics_file_, metrics); }
  void log_eval(const Metrics& metrics) { log(*eval_file_, metrics); }
  void log_sample(const std::string& json_line) { samples_file_->write(json_line); }
  /// output_dir/model, when the config asks for it.
  void export_model() const;

  const RunConfig config;
  const std::filesystem::path output_dir;
  Exec exec;
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<int32_t> stop_ids;
  std::vector<Prompt> prompts;
  std::vector<EvalSet> eval_sets;
  std::optional<DataCursor> cursor;
  std::optional<Optimizer> optimizer;
  std::optional<Trainer> trainer;
  std::optional<Engine> engine;
  int64_t step = 0;            // completed training steps
  int64_t policy_version = 0;  // optimizer steps that changed the weights
  int64_t saved_step = -1;     // step of the last checkpoint in the output directory

 private:
  void check_directory(const StartOptions& start);
  void check_deletable() const;
  void compare_configs() const;
  void clear_directory() const;
  void keep_reference();
  void load_data();
  void encode_solutions();
  void write_config() const;
  void log(LineFile& file, const Metrics& metrics);
  void resume(const std::filesystem::path& checkpoint);
  std::string metrics_name() const { return sft() ? "sft.jsonl" : "metrics.jsonl"; }

  std::optional<DirectoryLock> lock_;                // two runs would mix their files
  std::optional<std::filesystem::path> checkpoint_;  // to resume from
  int64_t lost_pages_ = 0;                           // at the last generation
  bool foreign_ = false;                             // it lies in another run's directory
  uint64_t data_hash_ = 0, reference_hash_ = 0;      // 0: no reference weights
  std::optional<LineFile> metrics_file_, eval_file_, samples_file_;
  std::optional<EventFile> event_file_;
};

/// Trains to the end of the config or until stop() says so between steps; then saves. True: the run is complete.
bool train(Run& run, const std::function<bool()>& stop);

/// Evaluates the current weights on every set of eval.files, by the settings of `eval`: one line of eval.jsonl,
/// val-core/<set>/acc/{mean,pass,maj}@n with their 95 % intervals and more under val-aux/<set>/ (evaluate.h).
/// Samples depend on seed and problem alone, so that evaluations of a run compare.
void evaluate(Run& run);

}  // namespace mantissa
