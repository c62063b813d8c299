// Rollout engine: continuous batching over a paged KV cache with the model that is being trained (tape off,
// same weights). The scheduler decides and holds no tensor, the runner computes and has no policy, and the engine is
// their loop: schedule -> prefill or decode -> sample -> postprocess, until every request is finished.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/fields.h"
#include "nn/model.h"
#include "rl/types.h"

namespace mantissa {

/// Below it logits over the temperature leave fp32; 0 is greedy.
inline constexpr double kMinTemperature = 1e-6;

struct RolloutConfig {
  int64_t n = 8;  // samples per prompt
  double temperature = 1.0, top_p = 1.0;
  int64_t top_k = 0;
  int64_t max_new_tokens = 512;
  int64_t max_batch = 256;  // sequences decoded together
  /// KV pool size in tokens; 0: what the requests need at most (max_batch sequences of full length), within
  /// memory_fraction of the device memory that is free when the first rollout starts. The pool stays, and so does that
  /// limit (Engine::kv_cache_limit); the rest is for the activations of training.
  int64_t cache_tokens = 0;
  double memory_fraction = 0.5;
  std::string rounding = "same";  // same, peer (see Rounding)
  void fields(Fields& f);
};

/// `n` samples of one prompt. Sample i draws with key (seed, step) and counter (prompt id, first_sample + i,
/// position), position being the index of the generated token.
struct Request {
  const Prompt* prompt = nullptr;
  int n = 1;
  int first_sample = 0;
};

struct GenerateOptions {
  double temperature = 1.0, top_p = 1.0;
  int64_t top_k = 0;
  int64_t max_new_tokens = 512;   // less where prompt and response would exceed the model's max_positions
  std::vector<int32_t> stop_ids;  // any of them ends a response and belongs to it
  SampleKeys keys;
  int64_t policy_version = 0;
  /// Polled between steps; true ends generation early (unfinished completions are dropped, the call throws
  /// Interrupted).
  std::function<bool()> cancelled;
};

/// Thrown by Engine::generate when `cancelled` said so.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Of the last generate(). Prefill counts a prompt shared by n samples once, and again what preemption made
/// it repeat. lost_pages: by which the pool is smaller than the first rollout's limit would have had it, for want of
/// memory; other sequences then run together than in an undisturbed run.
struct EngineStats {
  int64_t prefill_tokens = 0, decode_tokens = 0, decode_steps = 0, preemptions = 0, peak_pages = 0, lost_pages = 0;
};

/// "same" or "peer" (rollout.rounding); throws on another name.
Rounding parse_rounding(const std::string& name);

struct EnginePrecision {
  Dtype kv_cache = Dtype::kF16;
  Dtype lm_head = Dtype::kF16;
  Dtype residual = Dtype::kF16;
  Rounding rounding = Rounding::kSame;
};

class Engine {
 public:
  /// Reads max_batch, cache_tokens and memory_fraction of `config`; `exec` and `model` must outlive the engine. The
  /// exec's rounding is `precision.rounding` while generate() runs and is put back after it.
  Engine(Exec& exec, const Model& model, const RolloutConfig& config, const EnginePrecision& precision);
  ~Engine();

  /// completions[i][j] answers requests[i], sample j; `text` stays empty. On the CPU results do not depend on batch
  /// composition, order, preemption or max_batch; elsewhere (where a product's bits depend on its number of rows)
  /// they repeat for the same requests, options, max_batch and kv_cache_limit(). Errors name the request: an empty
  /// prompt, an id outside the vocabulary, a prompt that leaves no position for a response, a pool too small for
  /// one sequence (rollout.cache_tokens, and the need).
  std::vector<std::vector<Completion>> generate(std::span<const Request> requests, const GenerateOptions& options);
  const EngineStats& stats() const;
  /// Most pages that the pool may have with rollout.cache_tokens = 0: set by the first generate() from the free memory.
  /// A later one for which that memory is not there any more takes its share of what is left (EngineStats::lost_pages).
  /// 0: not set yet. A resumed run sets what the checkpoint says.
  int64_t kv_cache_limit() const;
  void set_kv_cache_limit(int64_t pages);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mantissa
