// RunDirectory: what a run leaves on the disk, and how it is found again.
//
//   <output_dir>/config.yaml      the resolved config; on top version, device, model, data
//                metrics.jsonl    one line a step (sft.jsonl for supervised warm starts)
//                eval.jsonl       one line an evaluation
//                samples.jsonl    some completions of each step
//                tensorboard/     the same metrics as event files, with logging.tensorboard
//                reward.log       what a user's verifier wrote to its standard error
//                checkpoints/     step_<N>/ (nn/checkpoint.h)
//                model/           the trained model as a Hugging Face directory, at the end
//                adapter/         or the trained adapter as a PEFT directory
//                aside/           what came after a step that the run went back to, one folder each time
//
// It is opened before anything is loaded: a used directory is refused unless the run resumes or overwrites. What an
// earlier run left is deleted only by begin() and resume(), when everything else has been opened. The directory is held
// for this process, since two runs would mix their files.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "core/file.h"
#include "nn/checkpoint.h"
#include "rl/config.h"
#include "rl/logging/tensorboard.h"

namespace mantissa {

struct StartOptions {
  /// Empty: start anew. "auto": resume from the last checkpoint of the output directory, or start anew when there is
  /// none and no finished model either. Else a checkpoint directory: where it is one of the run's own, what came later
  /// (checkpoints, lines, the finished model) is moved to aside/after_step_N.
  std::string resume = {};
  /// Start anew in a used output directory, deleting what the earlier run wrote. A file that no run wrote in one of its
  /// folders is an error.
  bool overwrite = false;
  /// Not null: the run is opened on it, without weights, workers and directory (rl/estimate.h).
  Backend* rehearsal = nullptr;
};

class RunDirectory {
 public:
  /// Makes the directory, holds it, and decides what the run starts from. Throws Error where it is used, held, not
  /// writable, or holds files that no run wrote; and where the checkpoint was made under a config that differs in a key
  /// that decides bits (core/fields.h: decisive), or with another adapter than lora.init is now.
  RunDirectory(const RunConfig& config, const StartOptions& start);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path model() const { return path_ / "model"; }
  std::filesystem::path adapter() const { return path_ / "adapter"; }
  /// What the run resumes from; none: it starts anew.
  const std::optional<std::filesystem::path>& checkpoint() const { return checkpoint_; }

  /// Starts anew: deletes what an earlier run left and opens empty files. `about` follows the version at the top of
  /// config.yaml: comment lines on device, model and data.
  void begin(const std::string& about);
  /// Resumes from checkpoint(), whose state this is: cuts the files to what it saw, after moving what came later aside
  /// where there are later checkpoints. The checkpoint of another run's directory begins new files. Returns whether the
  /// checkpoint is one of its own.
  bool resume(const CheckpointState& state, const std::string& about);

  /// Throws where the model or adapter that the run's end replaces holds a file that no run wrote.
  void check_replaceable() const;
  /// Calls `step` with the metrics of each step that is made, as they are written: of a run that goes on.
  void each_step(const std::function<void(const Metrics&)>& step) const;
  void log_step(const Metrics& metrics) { log(*metrics_file_, metrics); }
  void log_evaluation(const Metrics& metrics) { log(*eval_file_, metrics); }
  void log_sample(const std::string& json_line) { samples_file_->write_line(json_line); }
  /// Flushes the files and adds their lengths to a checkpoint's counters, for resume().
  void record_lengths(CheckpointState& state);

 private:
  void choose_start(const StartOptions& start);
  void check_unused() const;
  void check_deletable() const;
  void compare_configs();
  void clear() const;
  void move_aside(const CheckpointState& state) const;
  void write_config(const std::string& about) const;
  void open_files(int64_t step, const CheckpointState* state);
  void log(GrowingFile& file, const Metrics& metrics);

  struct File {
    const char* name;
    const char* counter;
    std::optional<GrowingFile> RunDirectory::*file;
  };
  std::vector<File> files() const;

  const RunConfig config_;
  const std::filesystem::path path_;
  std::optional<DirectoryLock> lock_;
  std::optional<std::filesystem::path> checkpoint_;
  bool foreign_ = false;             // checkpoint_ lies in another run's directory
  std::vector<std::string> unread_;  // what nothing reads of its config; true where its model is found to be this run's
  std::optional<GrowingFile> metrics_file_, eval_file_, samples_file_;
  std::optional<EventFile> event_file_;
};

/// A counter that resuming cannot do without; throws naming it where the checkpoint has none.
int64_t counter_of(const CheckpointState& state, const std::string& name, const std::filesystem::path& checkpoint);

}  // namespace mantissa
