#include "rl/exact.h"

#include <algorithm>

#include "core/hash.h"
#include "core/random.h"
#include "rl/logging/log.h"

namespace mantissa {
namespace {

constexpr uint64_t kDrawStream = 0xe8ac;  // purpose of the draw's random numbers
constexpr int64_t kDifferenceWords = sizeof(Difference) / sizeof(int32_t);

}  // namespace

void ExactConfig::fields(Fields& f) {
  f.choice("check", check, {"sample", "all"},
           not_decisive("what is re-scored beside the first mini-batch: one micro-batch of the others, or all"));
}

void ExactCheck::prepare() {
  using Places = std::vector<std::pair<size_t, size_t>>;  // mini-batch and micro-batch
  const auto find = [&](int64_t MiniBatch::*tokens) {
    return size_t(std::ranges::find_if(batches_, [&](const MiniBatch& m) { return m.*tokens > 0; }) - batches_.begin());
  };
  // A mini-batch without a token in the loss takes no step; one that forwards none takes a step all the same.
  const size_t first = find(&MiniBatch::tokens), forwarded = find(&MiniBatch::forwarded);
  const size_t instead = forwarded == first ? batches_.size() : forwarded;
  Places chosen, others;
  size_t passes = 0, other_passes = 0;  // as many on every rank
  for (size_t i = 0; i < batches_.size(); ++i) {
    MiniBatch& mini = batches_[i];
    for (TrainBatch& batch : mini.micro) batch.old_logprobs = batch.rollout_logprobs;
    if (i == first) continue;
    (i == instead ? passes : other_passes) += std::max(mini.micro.size(), size_t(mini.rounds));
    for (size_t j = 0; j < mini.micro.size(); ++j) (i == instead ? chosen : others).emplace_back(i, j);
  }
  if (!options_.all) other_passes = std::min<size_t>(other_passes, 1);
  if (!options_.all && others.size() > 1) {
    RandomStream random(options_.seed, mix64(kDrawStream) ^ uint64_t(options_.step));
    others = {others[random.below(uint32_t(others.size()))]};
  }
  chosen.insert(chosen.end(), others.begin(), others.end());
  passes += other_passes;
  std::vector<Scored> scored;
  for (const auto& [i, j] : chosen) {
    Tensor logprobs = trainer_.logprobs(batches_[i], j);
    scored.push_back({batches_[i].micro[j], std::move(logprobs), batches_[i].device[j].rollout_logprobs});
  }
  for (size_t i = chosen.size(); i < passes; ++i) trainer_.join_logprobs();
  const std::vector<Difference> differences = compare(scored);
  for (size_t i = 0; i < scored.size(); ++i) take(scored[i], differences[i], "re-scored before the first update");
}

void ExactCheck::check_forward(const MiniBatch& mini) {
  if (forward_checked_) return;
  std::vector<Scored> scored;
  for (size_t i = 0; i < mini.micro.size(); ++i)
    scored.push_back({mini.micro[i], mini.device[i].old_logprobs, mini.device[i].rollout_logprobs});
  const std::vector<Difference> differences = compare(scored);
  for (const Difference& difference : differences)
    if (difference.not_finite > 0) return;
  forward_checked_ = true;
  for (size_t i = 0; i < scored.size(); ++i) take(scored[i], differences[i], "forwarded by the first update");
}

std::vector<Difference> ExactCheck::compare(std::span<const Scored> scored) const {
  std::vector<Difference> differences(scored.size());
  if (scored.empty()) return differences;
  Exec& exec = trainer_.exec();
  Tensor found = exec.empty({int64_t(scored.size()), kDifferenceWords}, Dtype::kI32);
  for (size_t i = 0; i < scored.size(); ++i) {
    Tensor row = found.slice(int64_t(i), int64_t(i) + 1);
    MANTISSA_RUN(exec, find_difference, row, scored[i].logprobs, scored[i].mu);
  }
  exec.backend().copy_to_host(differences.data(), found.raw(), found.bytes());
  return differences;
}

/// Where nothing differs mu has been seen to be the training path's log-probs.
void ExactCheck::take(const Scored& scored, const Difference& difference, const char* where) {
  const std::vector<float>& mu = scored.batch.rollout_logprobs;
  counts_.checked += int64_t(mu.size());
  counts_.differing += difference.count;
  if (difference.count == 0) return sides_.add(scored.batch, mu);
  const std::vector<float> logprobs = to_host<float>(scored.logprobs);
  sides_.add(scored.batch, logprobs);
  const std::string text = describe(scored, difference, logprobs[size_t(difference.first)], where);
  if (options_.stop)
    fail(text, " (no step was taken; precision.on_difference: warn goes on, precision.match: fast promises nothing)");
  log_warning(text);
}

std::string ExactCheck::describe(const Scored& scored, const Difference& difference, float logprob,
                                 const char* where) const {
  const TrainBatch& batch = scored.batch;
  size_t sequence = 0;
  while (batch.response_offsets[sequence + 1] <= difference.first) ++sequence;
  const int64_t token = difference.first - batch.response_offsets[sequence];
  std::string text =
      str("step ", options_.step, ": rollout and training differ though precision.match is exact: prompt ",
          batch.prompts[sequence], ", sample ", batch.samples[sequence], ", token ", token, " of ",
          batch.response_offsets[sequence + 1] - batch.response_offsets[sequence], ": log-prob ",
          shortest(batch.rollout_logprobs[size_t(difference.first)]), " in the rollout, ", shortest(logprob), " ",
          where, "; ", difference.count, " of ", batch.rollout_logprobs.size(),
          " tokens of this micro-batch differ, by at most ", shortest(difference.largest));
  if (options_.locate) text += "; " + options_.locate(batch, sequence, token);
  return text;
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
