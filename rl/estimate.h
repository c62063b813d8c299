// How much memory a run will need, before anything is loaded: the run is opened on a Rehearsal (core/rehearsal.h) with
// the header of its model, its data and its tokenizer, and takes the largest steps that its config allows.
//
// What is not known beforehand is taken as its worst: responses are as long as they may be, no group is left out,
// guesses (rollout.draft) take as many rows as they may, and micro-batches are as full as their budget lets them be. So
// the figure is met where a mini-batch has many micro-batches, and is an upper bound where all of it fits into one and
// responses are short. For a warm start lengths are known. Workspaces that a device library chooses by itself are
// guessed.
//
// train.recompute: auto takes the first tier under which an update stays within nine tenths of the memory there is,
// since the estimate is within a tenth of what runs report. Where none does, it takes full.
#pragma once

#include <string>
#include <vector>

#include "rl/config.h"

namespace mantissa {

struct MemoryPart {
  std::string name;
  size_t bytes = 0;
};

/// The most that is in use in an update under a tier of train.recompute.
struct TierPeak {
  std::string tier;
  size_t bytes = 0;
};

struct MemoryEstimate {
  std::string device;                                   // cpu or cuda
  int ranks = 1;                                        // figures are of one of them, the first
  size_t capacity = 0;                                  // bytes that the device has, or is taken to have
  std::vector<MemoryPart> held;                         // from the first step to the end
  std::vector<MemoryPart> rollout, update, checkpoint;  // what each phase adds at its highest; empty: there is none
  std::vector<MemoryPart> host;                         // in host memory, where distributed.offload says so
  size_t peak = 0;                                      // of perf/max_memory_allocated_gb, in bytes
  std::vector<TierPeak> tiers;                          // of train.recompute: auto those looked at; the last is taken

  /// Bytes that train.recompute: auto plans with.
  size_t usable() const { return capacity / 10 * 9; }
  /// A table: parts by phase, the peak, which part is the largest.
  std::string text() const;
  /// Which tier train.recompute: auto takes and why, in a line.
  std::string choice() const;
};

/// Bytes that one of `ranks` may take of its device: ranks on the CPU, of one machine, have its memory together.
size_t capacity_of(const Backend& device, int ranks);

struct EstimateOptions {
  int ranks = 1;
  const Backend* like = nullptr;  // the device to rehearse; null: a GPU that is not there
  size_t capacity = 0;            // bytes it is taken to have; 0: capacity_of `like`, or 80 GB
  int64_t response_length = 0;    // mean, in tokens, where it is known; 0: rollout.max_new_tokens
};

/// Of a run of `config`. Errors are those that the run would begin with.
MemoryEstimate estimate_memory(const RunConfig& config, const EstimateOptions& options);

/// The tier that train.recompute: auto takes on the ranks of a run whose devices are like `device` and have `capacity`
/// bytes here: one for all, that fits into the smallest. The first rank looks and says so in the log.
Recompute choose_recompute(const RunConfig& config, const Backend& device, size_t capacity, Comm& comm);

}  // namespace mantissa
