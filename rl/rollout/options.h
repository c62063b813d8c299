// What a rollout is told: how tokens are drawn and where a response ends, in which types it computes, how much memory
// it may take. Read by the engine and its parts, and by everything that samples: training, evaluation and the programs.
#pragma once

#include <string>
#include <vector>

#include "core/backend.h"
#include "core/dtype.h"
#include "core/fields.h"
#include "nn/config.h"

namespace mantissa {

/// Below it logits over the temperature leave fp32; 0 is greedy.
inline constexpr double kMinTemperature = 1e-6;

/// How tokens are drawn, and how many.
struct SamplingConfig {
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;
  int64_t top_k = 0;
  int64_t max_new_tokens = 512;   // fewer where prompt and response would exceed the model's max_positions
  std::vector<std::string> stop;  // strings that end a response (rl/text/stop.h)
  bool keep_stop = true;          // in the text of the response
  void fields(Fields& f);
  /// Throws Error on what cannot be sampled by.
  void validate() const;
};

/// Section `rollout` of a config.
struct RolloutConfig {
  int64_t n = 8;  // samples per prompt
  SamplingConfig sampling;
  int64_t max_batch = 256;  // sequences decoded together, guesses included
  /// Size of the KV cache in tokens. 0: what the requests need at most (max_batch sequences of full length), within
  /// memory_fraction of the device memory that is free when the first rollout starts. The cache stays, and so does that
  /// limit (Engine::kv_cache_limit); the rest is for the activations of training.
  int64_t cache_tokens = 0;
  double memory_fraction = 0.5;
  std::string draft = "none";  // none, history: see rl/rollout/drafts.h
  void fields(Fields& f);
};

/// Whether rollouts of a model can record its routes, a byte for an expert: it has layers with experts, and at most
/// kNotGiven in each.
bool records_routes(const ModelConfig& model);

/// The types that an engine computes in, and how its kernels make sums.
struct EnginePrecision {
  Dtype kv_cache = Dtype::kF16;
  Dtype lm_head = Dtype::kF16;
  Dtype residual = Dtype::kF16;
  Match match = Match::kExact;
};

}  // namespace mantissa
