#include "rl/train/routes.h"

#include <algorithm>

#include "autograd/ops.h"
#include "core/notice.h"
#include "rl/rollout/options.h"

namespace mantissa {

void MoeConfig::fields(Fields& f) {
  f.choice("replay", replay, {"none", "rollout"},
           "rollout: training sends tokens to the experts that the rollout chose; for precision.match fast and peer");
}

bool MoeConfig::resolve(const ModelConfig& model, Match match, const std::string& path) const {
  if (replay == "none") return false;
  check(model.experts.before(model.layers) > 0, "moe.replay: rollout needs a mixture of experts: ", path, " has none");
  check(records_routes(model), "moe.replay: rollout records an expert as a byte, so that a layer may have at most ",
        kNotGiven, ": ", path, " has ", model.experts.count);
  if (match != Match::kExact) return true;
  notice("moe.replay: none, since under precision.match exact rollout and training choose the same experts");
  return false;
}

std::vector<uint8_t> given_routes(const TrainBatch& batch, const ModelConfig& model) {
  const size_t layers = size_t(model.experts.before(model.layers)), slots = size_t(model.experts.per_token),
               tokens = batch.ids.size(), size = layers * slots;
  std::vector<uint8_t> given(layers * tokens * slots, kNotGiven);
  for (size_t s = 0; s < batch.routes.size(); ++s) {
    const TokenRoutes& routes = batch.routes[s];
    const size_t begin = size_t(batch.offsets[s]), length = size_t(batch.offsets[s + 1]) - begin;
    check(routes.recorded() && length > 1 && routes.prompt->size() + routes.response->size() == (length - 1) * size,
          "[routes] prompt ", batch.prompts[s], ", sample ", batch.samples[s], ": ", length - 1, " tokens of ", size,
          " routes are needed: got ",
          routes.recorded() ? str(routes.prompt->size() + routes.response->size(), " bytes") : std::string("none"));
    for (size_t t = 0; t + 1 < length; ++t) {
      const size_t at = t * size, in_prompt = routes.prompt->size();
      const uint8_t* token = at < in_prompt ? routes.prompt->data() + at : routes.response->data() + (at - in_prompt);
      check(*std::max_element(token, token + size) < model.experts.count, "[routes] prompt ", batch.prompts[s],
            ", sample ", batch.samples[s], ", token ", t, ": an expert is not below ", model.experts.count);
      for (size_t layer = 0; layer < layers; ++layer)
        std::copy_n(token + layer * slots, slots, given.data() + (layer * tokens + begin + t) * slots);
    }
  }
  return given;
}

void RouteCounts::add(const TrainBatch& batch, const Tensor& agreement) {
  const std::vector<int32_t> values = to_host<int32_t>(agreement);
  for (int64_t layer = 0; layer < agreement.size(0); ++layer)
    for (const int32_t row : batch.scored) {
      ++pairs;
      same += values[size_t(layer * agreement.size(1) + row)];
    }
}

}  // namespace mantissa
