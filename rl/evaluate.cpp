#include "rl/evaluate.h"

#include <algorithm>
#include <map>

namespace mantissa {
namespace {

int64_t correct_of(const RolloutGroup& group) {
  return std::count_if(group.samples.begin(), group.samples.end(),
                       [](const RolloutSample& s) { return s.reward >= kCorrect; });
}

}  // namespace

double pass_at_k(int64_t n, int64_t c, int64_t k) {
  check(c >= 0 && c <= n && k >= 1 && k <= n, "[evaluate] pass@k needs 0 <= c <= n and 1 <= k <= n: got n ",
        n, ", c ", c, ", k ", k);
  double miss = 1.0;  // C(n-c, k) / C(n, k) as a product of k factors
  for (int64_t i = 0; i < k && miss > 0; ++i) miss *= double(std::max<int64_t>(0, n - c - i)) / double(n - i);
  return 1.0 - miss;
}

double pass_rate(const RolloutGroup& group) {
  return double(correct_of(group)) / double(group.samples.size());
}

double majority_correct(std::span<const RolloutSample> samples) {
  struct Votes {
    int64_t count = 0, correct = 0;
  };
  std::map<std::string, Votes> answers;
  for (const RolloutSample& s : samples) {
    if (s.extracted.empty()) continue;
    Votes& votes = answers[s.extracted];
    ++votes.count;
    votes.correct += s.reward >= kCorrect;
  }
  int64_t most = 0;
  for (const auto& [answer, votes] : answers) most = std::max(most, votes.count);
  double share = 0.0, leaders = 0.0;
  for (const auto& [answer, votes] : answers) {
    if (votes.count != most) continue;
    leaders += 1.0;
    share += double(votes.correct) / double(votes.count);
  }
  return leaders > 0 ? share / leaders : 0.0;
}

double EvalResult::pass_at(int64_t j) const {
  double sum = 0.0;
  for (const RolloutGroup& group : groups) sum += pass_at_k(k, correct_of(group), j);
  return groups.empty() ? 0.0 : sum / double(groups.size());
}

EvalResult evaluate_prompts(Engine& engine, const Tokenizer& tokenizer, std::span<const Prompt> prompts,
                            int k, const GenerateOptions& options, const RewardConfig& reward) {
  check(k >= 1, "[evaluate] needs at least one sample a problem: got ", k);
  std::vector<Request> requests;
  for (const Prompt& prompt : prompts) requests.push_back({.prompt = &prompt, .n = k});
  std::vector<std::vector<Completion>> completions = engine.generate(requests, options);

  EvalResult result;
  result.k = k;
  result.groups.resize(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    result.groups[i].prompt = prompts[i];
    result.groups[i].samples.resize(size_t(k));
  }
  // Grading is pure and its work is bounded: any thread may take any problem.
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < prompts.size(); ++i) {
    for (size_t j = 0; j < size_t(k); ++j) {
      RolloutSample& sample = result.groups[i].samples[j];
      sample.completion = std::move(completions[i][j]);
      sample.completion.text = tokenizer.decode(sample.completion.ids, true);
      const Grade graded = grade(reward, sample.completion.text, prompts[i].answer);
      sample.reward = reward_of(graded);
      sample.extracted = graded.extracted;
    }
  }
  if (prompts.empty()) return result;

  const double problems = double(prompts.size()), samples = problems * k;
  for (const RolloutGroup& group : result.groups) {
    result.avg += double(correct_of(group)) / samples;
    result.majority += majority_correct(group.samples) / problems;
    for (const RolloutSample& s : group.samples) {
      result.mean_reward += s.reward / samples;
      result.mean_length += double(s.completion.ids.size()) / samples;
      result.truncated += (s.completion.finish == Finish::kLength) / samples;
    }
  }
  result.pass = result.pass_at(k);
  return result;
}

}  // namespace mantissa
