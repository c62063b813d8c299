#include "rl/reward/grading.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <thread>

#include "core/error.h"
#include "rl/reward/python.h"

namespace mantissa {
namespace {

size_t cores() {
  return std::max(1u, std::thread::hardware_concurrency());
}

/// Calls work(0) to work(count - 1) on as many threads as the machine has. Threads of their own, not those of the
/// kernels: most of a grade by a program is waiting for it.
template <class Work>
void on_all_threads(size_t count, const Work& work) {
  std::atomic<size_t> next = 0;
  const auto worker = [&] {
    for (size_t i; (i = next.fetch_add(1)) < count;) work(i);
  };
  std::vector<std::jthread> threads;
  const size_t wanted = std::min(cores(), count);
  while (threads.size() + 1 < wanted) threads.emplace_back(worker);
  worker();
}

}  // namespace

std::vector<Grade> grade_answers(const RewardConfig& config, std::span<const Answer> answers) {
  if (config.kind == "python") return grade_by_python(config, answers);
  std::vector<Grade> grades(answers.size());
  const size_t shares = (answers.size() + cores() - 1) / cores();
  const size_t batch = std::clamp<size_t>(shares, 1, size_t(config.batch));
  // A grade depends on its own texts alone, and its work is bounded: any thread may take any answer.
  on_all_threads((answers.size() + batch - 1) / batch, [&](size_t i) {
    const auto own = answers.subspan(i * batch, std::min(batch, answers.size() - i * batch));
    if (config.kind == "command")
      std::ranges::move(grade_by_command(config, own), grades.begin() + std::ptrdiff_t(i * batch));
    else
      grades[i] = grade(config, own[0].response, own[0].gold, own[0].record);
  });
  return grades;
}

std::vector<GradeTally> grade_samples(const RewardsConfig& config, std::span<RolloutGroup> groups, Metrics& metrics) {
  std::vector<GradeTally> tallies;
  std::map<Grade::Status, int64_t> counts;
  for (RolloutGroup& group : groups)
    for (RolloutSample& sample : group.samples) {
      sample.reward = 0;
      sample.rewards.clear();
      sample.extracted.clear();
      sample.reason.clear();
      sample.status = Grade::Status::kNoAnswer;
    }
  const auto apply = [&](const std::string& name, const RewardConfig& reward, const NamedReward* named) {
    tallies.push_back({.name = name, .kind = reward.kind, .max_failed_steps = reward.max_failed_steps});
    GradeTally& tally = tallies.back();
    std::vector<RolloutSample*> samples;
    std::vector<Answer> answers;
    for (RolloutGroup& group : groups)
      for (RolloutSample& sample : group.samples) {
        if (named != nullptr) sample.rewards.push_back(NAN);
        if (named != nullptr && !named->grades(group.prompt)) continue;
        samples.push_back(&sample);
        answers.push_back({sample.completion.text, group.prompt.answer, group.prompt.record});
      }
    std::vector<Grade> grades = grade_answers(reward, answers);
    for (size_t i = 0; i < grades.size(); ++i) {
      RolloutSample& sample = *samples[i];
      Grade& grade = grades[i];
      ++counts[grade.status];
      ++tally.grades;
      if (is_failure(grade.status) && tally.failed++ == 0) tally.reason = grade.reason;
      sample.reward += named != nullptr ? named->weight * grade.reward : grade.reward;
      if (named != nullptr) sample.rewards.back() = grade.reward;
      if (is_failure(sample.status)) continue;
      if (sample.reason.empty() || (sample.extracted.empty() && !grade.extracted.empty())) {
        sample.extracted = std::move(grade.extracted);
        sample.reason = grade.reason;
        sample.status = grade.status;
      }
      if (!is_failure(grade.status)) continue;
      sample.reason = std::move(grade.reason);
      sample.status = grade.status;
    }
  };
  if (config.named.empty()) apply("reward", config.one, nullptr);
  for (const auto& [name, named] : config.named) apply("reward." + name, named.reward, &named);
  for (RolloutGroup& group : groups)
    for (RolloutSample& sample : group.samples) {
      if (std::abs(sample.reward) <= kMaxReward) continue;
      sample.reason = str("the weighted sum ", sample.reward, " is beyond ", kMaxReward, ", the most advantages hold");
      sample.reward = 0;
      sample.status = Grade::Status::kError;
      ++counts[Grade::Status::kError];
    }
  for (const Grade::Status status : kGradeStatuses) {
    const std::string name = std::string("verifier/") + status_name(status);
    const double before = metrics.get(name);
    metrics.set(name, double(counts[status]) + (std::isnan(before) ? 0.0 : before));
  }
  return tallies;
}

}  // namespace mantissa
