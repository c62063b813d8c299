#include "rl/sample_dump.h"

#include <algorithm>

#include "core/json.h"
#include "rl/data_parallel.h"
#include "rl/reward/reward.h"

namespace mantissa {
namespace {

constexpr size_t kMostTokens = 256;  // 2,000 steps then take some 20 MB

const char* name_of(Finish finish) {
  return finish == Finish::kLength ? "length" : finish == Finish::kStop ? "stop" : "stop_string";
}

/// By the training path, of a prompt's first sample, on every rank. Empty where it was not forwarded, and under exact,
/// where they are those of the rollout.
std::vector<float> old_logprobs(Run& run, const std::vector<MiniBatch>& batches, const RolloutGroup& group) {
  std::vector<float> values;
  if (run.match == Match::kExact) return values;
  for (const MiniBatch& mini : batches)
    for (const TrainBatch& batch : mini.micro)
      for (size_t s = 0; s < batch.prompts.size() && !batch.old_logprobs.empty(); ++s)
        if (batch.prompts[s] == group.prompt.id && batch.samples[s] == 0 && values.empty())
          values.assign(batch.old_logprobs.begin() + batch.response_offsets[s],
                        batch.old_logprobs.begin() + batch.response_offsets[s + 1]);
  concatenate(values, run.comm);
  if (values.size() != group.samples.front().completion.ids.size()) values.clear();  // drawn twice in this step
  return values;
}

void add_tokens(JsonObject& line, const Run& run, const Completion& completion, const std::vector<float>& old) {
  const size_t count = std::min(completion.ids.size(), kMostTokens);
  std::vector<std::string> tokens;
  for (size_t i = 0; i < count; ++i) tokens.push_back(run.tokenizer->decode({completion.ids[i]}));
  line.add("tokens", std::span<const std::string>(tokens));
  line.add("rollout_logprobs", std::span(completion.rollout_logprobs).first(count));
  if (!old.empty()) line.add("old_logprobs", std::span(old).first(count));
}

}  // namespace

void dump_samples(Run& run, const std::vector<RolloutGroup>& groups, const std::vector<MiniBatch>& batches) {
  const size_t count = std::min(groups.size(), size_t(run.config.logging.samples));
  for (size_t g = 0; g < count; ++g) {
    const RolloutGroup& group = groups[g];
    const RolloutSample& sample = group.samples.front();
    JsonObject line(JsonEscapes::kCodes);
    line.add("step", run.step + 1)
        .add("id", group.prompt.id)
        .add("prompt", group.prompt.text)
        .add("response", sample.completion.text)
        .add("answer", group.prompt.answer)
        .add("extracted", sample.extracted)
        .add("reward", sample.reward)
        .add("correct", sample.correct)
        .add("status", status_name(sample.verdict))
        .add("reason", sample.reason)
        .add("finish", name_of(sample.completion.finish));
    if (g == 0) add_tokens(line, run, sample.completion, old_logprobs(run, batches, group));
    run.log_sample(line.str());
  }
}

}  // namespace mantissa
