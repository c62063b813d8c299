#include "rl/rollout/options.h"

#include <cmath>

#include "core/error.h"
#include "core/kernels.h"

namespace mantissa {

void SamplingConfig::fields(Fields& f) {
  f.field("temperature", temperature, "sampling temperature, also of all log-probs; 0 is greedy", between(0, 100));
  f.field("top_p", top_p, "keep the likeliest tokens up to this probability; 1 is off", between(1e-6, 1));
  f.field("top_k", top_k, "keep this many likeliest tokens; 0 is off", between(0, INT32_MAX));
  f.field("max_new_tokens", max_new_tokens, "longest response in tokens", between(1, 1 << 24));
  f.field("stop", stop, "strings that end a response, wherever they stand in its text");
  f.field("keep_stop", keep_stop, "the response's text keeps the string that ended it");
}

void SamplingConfig::validate() const {
  check(temperature == 0 || (temperature >= kMinTemperature && std::isfinite(temperature)),
        "[generate] temperature must be 0 (greedy) or at least ", kMinTemperature, ": got ", temperature);
  check(top_p > 0 && top_p <= 1, "[generate] top_p must lie in (0, 1]: got ", top_p);
  check(top_k >= 0 && top_k <= INT32_MAX, "[generate] top_k must be 0 (off) or more: got ", top_k);
  check(max_new_tokens >= 1, "[generate] max_new_tokens must be at least 1: got ", max_new_tokens);
}

bool records_routes(const ModelConfig& model) {
  return model.experts.count <= kNotGiven && model.experts.before(model.layers) > 0;
}

void RolloutConfig::fields(Fields& f) {
  f.field("n", n, "samples per prompt", between(1, 65536));
  sampling.fields(f);
  f.field("max_batch", max_batch, "sequences decoded together, guesses (draft) included", between(1, 65536));
  f.field("cache_tokens", cache_tokens,
          "size of the KV cache in tokens; 0 chooses it from the requests and free memory", between(0, INT32_MAX));
  f.field("memory_fraction", memory_fraction, "share of the free memory that a chosen KV cache may take",
          between(0.01, 0.95));
  f.choice(
      "draft", draft, {"none", "history"},
      not_decisive("history: guess tokens from earlier responses to the prompt and compute them together; only "
                   "under exact, where the bits are the same as without; none where precision.match: auto is fast"));
}

}  // namespace mantissa
