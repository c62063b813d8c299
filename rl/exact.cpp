#include "rl/exact.h"

#include <cmath>
#include <cstring>

#include "core/hash.h"
#include "core/random.h"
#include "rl/logging/log.h"

namespace mantissa {
namespace {

constexpr uint64_t kDrawStream = 0xe8ac;  // purpose of the draw's random numbers

bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

}  // namespace

void ExactConfig::fields(Fields& f) {
  f.choice("check", check, {"sample", "all"},
           not_decisive("what is re-scored beside the first mini-batch: one micro-batch of the others, or all"));
}

/// The mini-batch whose update comes first: those without a token in the loss take none.
size_t ExactCheck::first_with_loss() const {
  size_t i = 0;
  while (i < batches_.size() && batches_[i].tokens == 0) ++i;
  return i;
}

void ExactCheck::prepare() {
  std::vector<std::pair<size_t, size_t>> others;  // mini-batch and micro-batch
  const size_t first = first_with_loss();
  for (size_t i = 0; i < batches_.size(); ++i)
    for (size_t j = 0; j < batches_[i].micro.size(); ++j) {
      TrainBatch& batch = batches_[i].micro[j];
      batch.old_logprobs = batch.rollout_logprobs;
      if (i != first) others.emplace_back(i, j);
    }
  if (!options_.all && others.size() > 1) {
    RandomStream random(options_.seed, mix64(kDrawStream) ^ uint64_t(options_.step));
    others = {others[random.below(uint32_t(others.size()))]};
  }
  for (const auto& [i, j] : others)
    compare(batches_[i].micro[j], trainer_.logprobs(batches_[i], j), "re-scored before the first update");
}

void ExactCheck::check_forward(const MiniBatch& mini) {
  if (forward_checked_) return;
  for (const TrainBatch& batch : mini.micro)
    for (const float logprob : batch.old_logprobs)
      if (!std::isfinite(logprob)) return;
  forward_checked_ = true;
  for (const TrainBatch& batch : mini.micro) compare(batch, batch.old_logprobs, "forwarded by the first update");
}

void ExactCheck::compare(const TrainBatch& batch, std::span<const float> logprobs, const char* where) {
  const std::vector<float>& mu = batch.rollout_logprobs;
  counts_.checked += int64_t(mu.size());
  sides_.add(batch, logprobs);
  int64_t differing = 0;
  size_t first = mu.size();
  for (size_t t = mu.size(); t-- > 0;)
    if (!same_bits(mu[t], logprobs[t])) ++differing, first = t;
  counts_.differing += differing;
  if (differing == 0) return;

  size_t sequence = 0;
  while (size_t(batch.response_offsets[sequence + 1]) <= first) ++sequence;
  const int64_t token = int64_t(first) - batch.response_offsets[sequence];
  std::string text =
      str("step ", options_.step, ": rollout and training differ though precision.match is exact: prompt ",
          batch.prompts[sequence], ", sample ", batch.samples[sequence], ", token ", token, " of ",
          batch.response_offsets[sequence + 1] - batch.response_offsets[sequence], ": log-prob ", shortest(mu[first]),
          " in the rollout, ", shortest(logprobs[first]), " ", where, "; ", differing, " of ", mu.size(),
          " tokens of this micro-batch differ");
  if (options_.locate) text += "; " + options_.locate(batch, sequence, token);
  if (options_.stop)
    fail(text, " (no step was taken; precision.on_difference: warn goes on, precision.match: fast promises nothing)");
  log_warning(text);
}

uint64_t rollout_digest(std::span<const RolloutGroup> groups, uint64_t digest) {
  const auto add = [&](const auto& values) { digest = mix64(digest ^ hash64(std::as_bytes(std::span(values)))); };
  for (const RolloutGroup& group : groups)
    for (const RolloutSample& sample : group.samples) {
      add(sample.completion.ids);
      add(sample.completion.rollout_logprobs);
    }
  return digest >> 16;
}

}  // namespace mantissa
