// Checkpoints: everything a run needs to resume with the same bits.
//
//   <root>/step_<N>/  state.json           step, counters, texts, scaler and Adam step (StepState)
//                     config.yaml          the resolved config
//                     config.json, tokenizer.json, ...    with these the directory is a model: --model takes it
//                     master.safetensors, adam_m.safetensors, adam_v.safetensors    by internal parameter name
//                     MANIFEST             checksum and size of each file, then of itself; written last
//           best        a link to the one of checkpoint.best
//           best_step_<N>    the same, of a metric that was checkpoint.best before
//
// A directory is filled as step_<N>.partial, flushed and renamed; an older one is renamed to *.partial before it is
// deleted. So step_<N> is complete whenever it exists, and a killed run leaves *.partial directories, which
// clean_checkpoints removes. Damage is named on load, file by file.
//
// Nothing in it depends on how many processes wrote it: parameters are whole, without padding. All processes write at
// once, each what it has of the tensors, from where that lies (out of a device by way of 16 MiB of host memory); the
// main one makes the directory and, when all have flushed, the manifest. On load every process reads what it keeps, a
// parameter at a time.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/fields.h"
#include "nn/optimizer.h"

namespace mantissa {

/// When checkpoints are written: section `checkpoint` of a config.
struct CheckpointConfig {
  int64_t every = 0;         // steps; 0 = only at the end or when stopped
  bool at_end = true;        // after the last step too
  int64_t keep = 2;          // the last so many; 0: all
  std::string best;          // a metric; the checkpoint where it is highest is kept besides
  bool background = true;    // write while training goes on (nn/checkpoint_writer.h)
  bool export_model = true;  // write a Hugging Face directory at the end
  void fields(Fields& f);
};

/// What the training loop adds to weights and optimizer; both `sft` and `grpo` use it, under their own names.
struct CheckpointState {
  int64_t step = 0;                                     // completed training steps; names the directory
  std::string config = {};                              // the resolved config as text
  std::map<std::string, int64_t> counters = {};         // data cursor, policy version, bytes of metrics, ...
  std::map<std::string, std::string> texts = {};        // data hash, kind of run, ... (UTF-8)
  std::map<std::string, std::string> model_files = {};  // name -> text (nn/model.h); written, not read back
};

/// Which checkpoints stay when another is written.
struct Keep {
  int64_t last = 0;   // so many; 0: all
  int64_t best = -1;  // and the one of this step, which the link `best` names; -1: there is none
                      // Those that links best_* name stay as well.
};

/// What a checkpoint has of a ParamSet, in the order in which it is written.
inline constexpr ParamBuffer ParamSet::*kCheckpointBuffers[] = {&ParamSet::master, &ParamSet::m, &ParamSet::v};

/// Writes step_<state.step> under `root` (made when missing), then deletes those up to it that `keep` does not name.
/// Every process of `comm` calls it with layout and kCheckpointBuffers of its parts, in one thread each, which need not
/// be the main one (Comm::gather_aside); root, state, record and keep are those of the main process, whose file system
/// all must see. Throws on all, when all are done, RankFailed naming the rank, the file and what the system said (disk
/// full, not writable); earlier checkpoints are then still there, one of this very step is not.
void write_checkpoint(const std::filesystem::path& root, const CheckpointState& state, const StepState& record,
                      const ParamSet& parts, Comm& comm, const Keep& keep);
/// write_checkpoint of what a run has at this moment. CheckpointWriter does it while training goes on.
void save_checkpoint(const std::filesystem::path& root, const CheckpointState& state, const ParamSet& params,
                     const Optimizer& optimizer, const Keep& keep);

/// The checkpoint of the highest step; none when `root` has none or does not exist. Throws when `root` cannot be read.
std::optional<std::filesystem::path> latest_checkpoint(const std::filesystem::path& root);
/// Removes what a killed run left unfinished under `root`.
void clean_checkpoints(const std::filesystem::path& root);
/// Whether there are checkpoints of later steps: going back to `step` leaves them behind.
bool has_checkpoints_after(const std::filesystem::path& root, int64_t step);
/// Moves them into the directory `aside` of the same file system, and the links best* to one of them.
void move_checkpoints_after(const std::filesystem::path& root, int64_t step, const std::filesystem::path& aside);

/// Renames the link to the best checkpoint to best_step_N, so that it stays whatever is the best from now on. Returns
/// that link; empty where there is none to keep.
std::filesystem::path keep_best(const std::filesystem::path& root);

/// Everything but the tensors: what a run compares with its own config and data before it resumes.
CheckpointState read_checkpoint_state(const std::filesystem::path& directory);
/// Whether a path is a checkpoint's directory, whole or damaged, or a link to one.
bool is_checkpoint(const std::filesystem::path& directory);
/// Throws Error naming the damaged file of those that make a checkpoint a model: config.json, the tokenizer's, an
/// adapter's.
void verify_model_files(const std::filesystem::path& directory);
/// Fills `buffer` with the masters of a checkpoint, each value rounded once to the buffer's type. Throws Error naming
/// the damaged file, or the parameter that does not fit.
void read_checkpoint_weights(const std::filesystem::path& directory, const ParamLayout& layout,
                             const ParamBuffer& buffer);
/// Verifies all files, then fills masters, moments, compute and rollout copies and the optimizer's record. Throws Error
/// naming the damaged file, or the parameter that does not fit the model.
CheckpointState load_checkpoint(const std::filesystem::path& directory, Exec& exec, ParamSet& params,
                                Optimizer& optimizer);

}  // namespace mantissa
