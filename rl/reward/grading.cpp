#include "rl/reward/grading.h"

#include <cmath>

namespace mantissa {

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
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < answers.size(); ++i) {
    const Grade grade = mantissa::grade(config, answers[i].sample->completion.text, answers[i].group->prompt.answer);
    answers[i].sample->reward = grade.reward;
    answers[i].sample->extracted = grade.extracted;
    answers[i].status = grade.status;
  }
  for (const Grade::Status status : kGradeStatuses) {
    const std::string name = std::string("verifier/") + status_name(status);
    const double before = metrics.get(name);
    const auto count =
        std::count_if(answers.begin(), answers.end(), [&](const Answer& a) { return a.status == status; });
    metrics.set(name, double(count) + (std::isnan(before) ? 0.0 : before));
  }
}

}  // namespace mantissa
