// Rollout engine: continuous batching over a paged KV cache with the model that is being trained (tape off, same
// weights). rl/rollout/scheduler.h decides and holds no tensor; rl/rollout/runner.h computes and has no policy; the
// engine is their loop: plan -> prefill or decode -> draw tokens -> hand them back, until every request is finished.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "nn/model.h"
#include "rl/rollout/options.h"
#include "rl/text/stop.h"
#include "rl/types.h"

namespace mantissa {

/// `n` samples of one prompt. Sample i draws with key (seed, step) and counter (prompt id, first_sample + i, position),
/// position being the index of the generated token.
struct Request {
  const Prompt* prompt = nullptr;
  int n = 1;
  int first_sample = 0;
};

struct GenerateOptions {
  SamplingConfig sampling;
  StopRule stop;
  SampleKeys keys;
  int64_t policy_version = 0;
  /// Completions come with the experts that their tokens went to, where the model's can be recorded (records_routes).
  /// It costs a copy to the host a step.
  bool record_routes = false;
  /// Where set, a request is answered when this returns its index, and none is left when it returns one past the last.
  /// It is called whenever fewer than `at_once` samples (and max_batch) are unfinished. Unset: all are answered.
  std::function<size_t()> next = {};
  int64_t at_once = 0;
  /// Polled between steps; true ends the generation: its completions are dropped, and the call throws Interrupted.
  std::function<bool()> cancelled;
};

/// Thrown by Engine::generate when `cancelled` said so.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// `n` samples of each prompt.
std::vector<Request> requests_for(std::span<const Prompt> prompts, int64_t n);

/// Counts of the last generate(), or of the one that runs. Prefill counts a prompt shared by n samples once, and again
/// what preemption made it repeat. lost_pages: how many fewer the pool has, for want of memory, than the first
/// rollout's limit would allow; other sequences then run together than in an undisturbed run.
struct EngineStats {
  int64_t prefill_tokens = 0, decode_tokens = 0, decode_steps = 0, preemptions = 0, peak_pages = 0, lost_pages = 0;
  int64_t finished = 0, sequences = 0;  // so far, and of all requests taken
  int64_t drafted = 0, accepted = 0;    // tokens of drafts, and those among them that were drawn
};

/// Throws Error for drafts where rollout and training are not exact.
void check_drafts(const RolloutConfig& rollout, Match match);

class Engine {
 public:
  /// Reads max_batch, cache_tokens, memory_fraction and draft of `config`; `model` must outlive the engine. Kernels run
  /// on the model's backend by an Exec of the engine's own. `deterministic`: as Exec::deterministic, the same inputs
  /// give the same bits. Throws Error as check_drafts.
  Engine(const Model& model, const RolloutConfig& config, const EnginePrecision& precision, bool deterministic = true);
  ~Engine();

  /// Throws where rollout.cache_tokens has no room for one of the prompts and a response, as generate() would once it
  /// is asked to answer it.
  void check_room(std::span<const Prompt> prompts, int64_t max_new_tokens) const;
  /// Ranks that share the model's experts (nn/moe.h), or gather its weights together, all call this, one without
  /// requests too: they take their steps together, and those that are done join until all are.
  /// completions[i][j] answers requests[i], sample j; `text` is there where options.stop has a tokenizer. On the CPU
  /// results do not depend on batch composition, order, preemption or max_batch; elsewhere (where a product's bits
  /// depend on its number of rows) they repeat for the same requests, options, max_batch and kv_cache_limit(). Errors
  /// name the request: an empty prompt, an id outside the vocabulary, a prompt that leaves no position for a response,
  /// a cache too small for one sequence (rollout.cache_tokens, and what it needs). A notice counts samples whose
  /// log-probs are not finite.
  std::vector<std::vector<Completion>> generate(std::span<const Request> requests, const GenerateOptions& options);
  const EngineStats& stats() const;
  /// True where a sample's bits do not depend on what is sampled beside it.
  bool exact() const;
  /// Whether tokens are guessed (rollout.draft).
  bool guesses() const;
  /// Most pages that the cache may have with rollout.cache_tokens = 0, set by the first generate() from the free
  /// memory; 0: not set yet. A later generate() that no longer finds this memory takes its share of what is left
  /// (EngineStats::lost_pages). A resumed run sets what its checkpoint says.
  int64_t kv_cache_limit() const;
  void set_kv_cache_limit(int64_t pages);
  /// Of weights in parts: until release_memory() generate() puts them together unit by unit in each of its passes,
  /// with all ranks of `comm`. Decode steps are not recorded meanwhile.
  void gather_by_unit(Comm& comm);
  bool gathers_by_unit() const;
  /// Gives the memory of the cache back, and forgets what was recorded; the next generate() takes it again.
  void release_memory();
  /// Bytes of a cache of rollout.cache_tokens; 0 where that is automatic.
  int64_t cache_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mantissa
