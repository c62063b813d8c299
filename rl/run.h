// Run: everything one training run owns in memory, opened in the order of the members; how it starts, resumes and
// saves. What it leaves on the disk is rl/run_directory.h.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "core/comm.h"
#include "nn/checkpoint_writer.h"
#include "rl/config.h"
#include "rl/data/prompts.h"
#include "rl/data_parallel.h"
#include "rl/rollout/engine.h"
#include "rl/run_directory.h"
#include "rl/text/tokenizer.h"
#include "rl/train/trainer.h"

namespace mantissa {

/// The problems of one file of eval.files.
struct EvalSet {
  std::string name;
  std::vector<Prompt> prompts;
};

class Run {
 public:
  /// Opens the output directory, then everything else, and resumes where `start` and the directory say so. Of several
  /// ranks, which all call this, the first alone has the directory: the others log, save and export nothing.
  Run(const RunConfig& config, const StartOptions& start, Comm& comm = single_comm());

  /// Names the phase that this rank is in, of the step that is being made or after the last one that was, for whoever
  /// has to say where a run ended. With MANTISSA_PHASES in the environment it is logged, too.
  void enter(const char* phase) const;
  void enter_between(const char* phase) const;
  bool sft() const { return config.train.mode == "sft"; }
  /// The sequences of this step in a shuffled order, as mini-batches of packed micro-batches: those of this rank.
  std::vector<MiniBatch> pack(std::vector<TrainSequence> sequences, Packed packed) const;
  /// Of `algorithm`, or of the warm start; this object must outlive it.
  Trainer::Loss loss() const;
  /// What ends a response: the model's stop ids, and the strings of rollout.stop.
  StopRule stop_rule() const;
  /// After a generation: warns where want of memory changed what was batched together, and with it perhaps the samples.
  void check_cache();
  /// Of a rollout, how many samples have log-probs that are not finite. Throws after more rollouts in a row than
  /// scaler.max_skips_in_row in which all have.
  int64_t watch_overflow(const std::vector<RolloutGroup>& groups);
  /// After the last step. Throws where nothing was learned: no optimizer step was taken, or the last rollout had no
  /// sample whose log-probs are finite.
  void check_end();
  /// Begins a checkpoint of the current step, unless the last one is of this step. Throws where a weight is not finite.
  void save();
  /// Returns on all ranks when the last checkpoint is on the disk.
  void finish_saving();
  /// Whether the metrics hold checkpoint.best, higher than ever before: then the checkpoint of this step is kept.
  bool note_best(const Metrics& metrics);
  /// Append to the directory's files.
  void log_step(const Metrics& metrics);
  void log_evaluation(const Metrics& metrics);
  void log_sample(const std::string& json_line);
  /// The trained model as the directory's model/, or the trained adapter as adapter/, when the config asks for it.
  /// Throws where a weight is not finite.
  void export_model() const;

  Comm& comm;
  const RunConfig config;
  std::unique_ptr<RunDirectory> directory;  // null on ranks other than the first
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
  CheckpointWriter checkpoints;
  IdleTime idle;
  std::optional<bool> gathers_by_unit;  // distributed.gather as the first rollout has it
  Match match = Match::kFast;           // precision.match as it is for this model and device
  bool records_routes = false;          // in rollouts to train on: of a mixture of experts (moe.replay, metrics)
  int64_t step = 0;                     // completed training steps
  int64_t policy_version = 0;           // optimizer steps that changed the weights
  int64_t saved_step = -1;              // step of the last checkpoint in the output directory
  std::map<std::string, int64_t> failed_rewards;  // by reward, rollouts in a row on which every grade failed

 private:
  void check_same_config() const;
  void check_same_inputs() const;
  void check_same_model(const CheckpointState& state, const std::filesystem::path& checkpoint) const;
  void describe_model();
  /// Throws where the model, the mode of precision.match or the number of ranks leaves the run without checkpoint.best.
  void check_best() const;
  bool counts_otherwise(const CheckpointState& state) const;
  void check_weights(const char* unwritten) const;
  std::string before_overflow();
  void begin_or_resume();
  void start_workers() const;
  void agree_on_cache();
  void open_model();
  Shard frozen_shard() const;
  void open_adapter();
  void load_data();
  void open_training();
  void open_engine();
  void keep_reference();
  uint64_t hash_weights(const ParamBuffer& weights) const;
  bool base_moves() const;
  void save_base(CheckpointState& state) const;
  void load_base(const CheckpointState& state, const std::filesystem::path& checkpoint);
  std::string about() const;
  void compare_match(const CheckpointState& state, const std::filesystem::path& checkpoint) const;
  CheckpointState load(const std::filesystem::path& checkpoint);

  std::optional<double> best_;  // value of checkpoint.best
  int64_t best_step_ = -1;
  /// What checkpoints say of the model, in texts of these names: config.json, hashes of the tokenizer's files.
  static constexpr const char* kModelText = "model ";
  std::map<std::string, std::string> model_files_;
  int64_t lost_pages_ = 0;                       // at the last generation
  int64_t overflowed_rollouts_ = 0;              // in a row, without a sample whose log-probs are finite
  int64_t finite_step_ = -1;                     // the last whose weights gave a rollout such a sample
  uint64_t data_hash_ = 0, reference_hash_ = 0;  // 0: neither reference weights nor frozen ones
};

/// Trains to the end of the config or until stop() says so between steps; then saves. True: the run is complete.
bool train(Run& run, const std::function<bool()>& stop);

/// Evaluates the current weights on every set of eval.files, by the settings of `eval`: one line of eval.jsonl,
/// val-core/<set>/acc/{mean,pass,maj}@n with their 95 % intervals and more under val-aux/<set>/ (evaluate.h). Samples
/// depend on seed and problem alone, so that the evaluations of a run can be compared. A set of which no answer could
/// be graded has null for numbers of correctness, and chooses no checkpoint.best.
void evaluate(Run& run);

}  // namespace mantissa
