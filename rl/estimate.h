// How much memory a run will need, before anything is loaded: the run is opened on a Rehearsal (core/rehearsal.h) with
// the header of its model, its data and its tokenizer, and takes the largest steps that its config allows.
//
// What is not known beforehand is taken as its worst: responses are as long as they may be, no group is left out, and
// micro-batches are as full as their budget lets them be. So the figure is met where a mini-batch has many
// micro-batches, and is an upper bound where all of it fits into one and responses are short. For a warm start lengths
// are known. Workspaces that a device library chooses by itself are guessed.
#pragma once

#include <string>
#include <vector>

#include "rl/config.h"

namespace mantissa {

struct MemoryPart {
  std::string name;
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

  /// A table: parts by phase, the peak, which part is the largest.
  std::string text() const;
};

struct EstimateOptions {
  int ranks = 1;
  const Backend* like = nullptr;     // the device to rehearse; null: a GPU that is not there
  size_t capacity = 80'000'000'000;  // of that GPU, in bytes
  int64_t response_length = 0;       // mean, in tokens, where it is known; 0: rollout.max_new_tokens
};

/// Of a run of `config`. Errors are those that the run would begin with.
MemoryEstimate estimate_memory(const RunConfig& config, const EstimateOptions& options);

}  // namespace mantissa
