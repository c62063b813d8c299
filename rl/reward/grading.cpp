#include "rl/reward/grading.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

namespace mantissa {
namespace {

/// Calls work(0) to work(count - 1) on as many threads as the machine has. Threads of their own, not those of the
/// kernels: most of a grade by a program is waiting for it.
template <class Work>
void on_all_threads(size_t count, const Work& work) {
  std::atomic<size_t> next = 0;
  const auto worker = [&] {
    for (size_t i; (i = next.fetch_add(1)) < count;) work(i);
  };
  std::vector<std::jthread> threads;
  const size_t wanted = std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), count);
  while (threads.size() + 1 < wanted) threads.emplace_back(worker);
  worker();
}

/// What becomes of one sample: its grades, one a reward that grades its row.
struct Answer {
  const Prompt* prompt;
  RolloutSample* sample;
  std::vector<Grade::Status> statuses = {};
};

void grade_answer(const RewardsConfig& config, Answer& answer) {
  RolloutSample& sample = *answer.sample;
  const auto ask = [&](const RewardConfig& reward) {
    Grade graded = grade(reward, sample.completion.text, answer.prompt->answer);
    answer.statuses.push_back(graded.status);
    if (sample.extracted.empty()) sample.extracted = std::move(graded.extracted);
    return graded.reward;
  };
  sample.extracted.clear();
  sample.rewards.clear();
  if (config.named.empty()) {
    sample.reward = ask(config.one);
    return;
  }
  sample.reward = 0;
  for (const auto& [name, named] : config.named) {
    sample.rewards.push_back(named.grades(*answer.prompt) ? ask(named.reward) : NAN);
    if (!std::isnan(sample.rewards.back())) sample.reward += named.weight * sample.rewards.back();
  }
}

}  // namespace

void grade_samples(const RewardsConfig& config, std::span<RolloutGroup> groups, Metrics& metrics) {
  std::vector<Answer> answers;
  for (RolloutGroup& group : groups)
    for (RolloutSample& sample : group.samples) answers.push_back({&group.prompt, &sample});
  // A grade depends on its own texts alone, and its work is bounded: any thread may take any answer.
  on_all_threads(answers.size(), [&](size_t i) { grade_answer(config, answers[i]); });
  for (const Grade::Status status : kGradeStatuses) {
    int64_t count = 0;
    for (const Answer& a : answers) count += std::count(a.statuses.begin(), a.statuses.end(), status);
    const std::string name = std::string("verifier/") + status_name(status);
    const double before = metrics.get(name);
    metrics.set(name, double(count) + (std::isnan(before) ? 0.0 : before));
  }
}

}  // namespace mantissa
