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

}  // namespace

void grade_samples(const RewardConfig& config, std::span<RolloutGroup> groups, Metrics& metrics) {
  struct Answer {
    const RolloutGroup* group;
    RolloutSample* sample;
    Grade::Status status = Grade::Status::kNoAnswer;
  };
  std::vector<Answer> answers;
  for (RolloutGroup& group : groups)
    for (RolloutSample& sample : group.samples) answers.push_back({&group, &sample});
  // A grade depends on its own texts alone, and its work is bounded: any thread may take any answer.
  on_all_threads(answers.size(), [&](size_t i) {
    const Grade grade = mantissa::grade(config, answers[i].sample->completion.text, answers[i].group->prompt.answer);
    answers[i].sample->reward = grade.reward;
    answers[i].sample->extracted = grade.extracted;
    answers[i].status = grade.status;
  });
  for (const Grade::Status status : kGradeStatuses) {
    const std::string name = std::string("verifier/") + status_name(status);
    const double before = metrics.get(name);
    const auto count =
        std::count_if(answers.begin(), answers.end(), [&](const Answer& a) { return a.status == status; });
    metrics.set(name, double(count) + (std::isnan(before) ? 0.0 : before));
  }
}

}  // namespace mantissa
