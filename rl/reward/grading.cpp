#include "rl/reward/grading.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <thread>

#include "core/comm/place.h"
#include "core/error.h"
#include "rl/reward/python.h"

namespace mantissa {
namespace {

/// Calls work(0) to work(count - 1) on as many threads as the rank has cores. Threads of their own, not those of the
/// kernels: most of a grade by a program is waiting for it.
template <class Work>
void on_all_threads(size_t count, const Work& work) {
  std::atomic<size_t> next = 0;
  const auto worker = [&] {
    for (size_t i; (i = next.fetch_add(1)) < count;) work(i);
  };
  std::vector<std::jthread> threads;
  const size_t wanted = std::min(size_t(cores_of_rank()), count);
  while (threads.size() + 1 < wanted) threads.emplace_back(worker);
  worker();
}

constexpr int kSaysNothing = -1;

/// How well a reward knows whether an answer is right.
int knowledge(const std::string& kind, double weight) {
  if (weight < 0) return kSaysNothing;
  if (kind == "format") return 0;
  return kind == "command" || kind == "python" ? 1 : 2;  // a program's number may be of anything
}

/// What one reward gave a sample.
struct Part {
  Grade grade;
  double weight = 1;
  int knows = kSaysNothing;
  bool failed() const { return is_failure(grade.status); }
};

/// A sample and what its rewards gave it.
struct Graded {
  const Prompt& prompt;
  RolloutSample& sample;
  std::vector<Part> parts = {};

  /// Whether it is correct, and what became of its reward; see grade_samples.
  void conclude() {
    int most = kSaysNothing;
    for (const Part& part : parts) most = std::max(most, part.knows);
    const auto first = [&](const auto& fits) -> const Part* {
      const auto found = std::ranges::find_if(parts, fits);
      return found == parts.end() ? nullptr : &*found;
    };
    const auto decides = [&](const Part& part) { return part.knows == most; };
    const Part* decider = first(decides);
    if (decider == nullptr) return;
    const Part* undecided = first([&](const Part& part) { return decides(part) && part.failed(); });
    const Part* unsummed = first([](const Part& part) { return part.weight != 0 && part.failed(); });
    const Part* summed = unsummed ? unsummed : first([](const Part& part) { return part.weight != 0; });
    const auto extracts = [](const Part& part) { return !part.grade.extracted.empty(); };
    const Part* reader = first([&](const Part& part) { return decides(part) && extracts(part); });
    if (reader == nullptr) reader = first([&](const Part& part) { return extracts(part) && !part.failed(); });
    if (reader == nullptr) reader = decider;
    sample.correct = most > kSaysNothing && undecided == nullptr &&
                     std::ranges::all_of(parts, [&](const Part& p) { return !decides(p) || p.grade.correct; });
    sample.verdict = (undecided ? undecided : decider)->grade.status;
    if (summed) sample.status = summed->grade.status;
    sample.extracted = reader->grade.extracted;
    sample.reason = (undecided ? undecided : unsummed ? unsummed : reader)->grade.reason;
  }
};

}  // namespace

std::vector<Grade> grade_answers(const RewardConfig& config, std::span<const Answer> answers) {
  if (config.kind == "python") return grade_by_python(config, answers);
  std::vector<Grade> grades(answers.size());
  const size_t threads = size_t(cores_of_rank()), shares = (answers.size() + threads - 1) / threads;
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
  std::vector<Graded> all;
  for (RolloutGroup& group : groups)
    for (RolloutSample& sample : group.samples) {
      sample.reward = 0;
      sample.rewards.clear();
      sample.correct = false;
      sample.extracted.clear();
      sample.reason.clear();
      sample.status = sample.verdict = Grade::Status::kNoAnswer;
      all.push_back({group.prompt, sample});
    }
  const auto apply = [&](const std::string& name, const RewardConfig& reward, const NamedReward* named) {
    const double weight = named != nullptr ? named->weight : 1.0;
    tallies.push_back(
        {.name = name, .kind = reward.kind, .weight = weight, .max_failed_steps = reward.max_failed_steps});
    GradeTally& tally = tallies.back();
    std::vector<Graded*> own;
    std::vector<Answer> answers;
    for (Graded& graded : all) {
      if (named != nullptr) graded.sample.rewards.push_back(NAN);
      if (named != nullptr && !named->grades(graded.prompt)) continue;
      own.push_back(&graded);
      answers.push_back({graded.sample.completion.text, graded.prompt.answer, graded.prompt.record});
    }
    std::vector<Grade> grades = grade_answers(reward, answers);
    for (size_t i = 0; i < grades.size(); ++i) {
      RolloutSample& sample = own[i]->sample;
      ++counts[grades[i].status];
      ++tally.grades;
      if (is_failure(grades[i].status) && tally.failed++ == 0) tally.reason = grades[i].reason;
      sample.reward += weight * grades[i].reward;
      if (named != nullptr) sample.rewards.back() = is_failure(grades[i].status) ? NAN : grades[i].reward;
      own[i]->parts.push_back({std::move(grades[i]), weight, knowledge(reward.kind, weight)});
    }
  };
  if (config.named.empty()) apply("reward", config.one, nullptr);
  for (const auto& [name, named] : config.named) apply("reward." + name, named.reward, &named);
  for (Graded& graded : all) {
    graded.conclude();
    RolloutSample& sample = graded.sample;
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
