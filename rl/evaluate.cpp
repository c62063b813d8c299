#include "rl/evaluate.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/random.h"
#include "rl/data_parallel.h"
#include "rl/reward/grading.h"

namespace mantissa {
namespace {

constexpr int kResamples = 2000;
constexpr uint64_t kBootstrapStream = 0xb007;

}  // namespace

void EvalConfig::fields(Fields& f) {
  f.field("every", every, not_decisive("steps between evaluations; 0 = never"), at_least(0));
  f.field("before_training", before_training, not_decisive("also evaluate before the first step"));
  f.field("files", files, not_decisive("files of JSON lines, read with the keys and the template of data"));
  f.field("limit", limit, not_decisive("only so many problems of each file, from the first; 0 = all"), at_least(0));
  f.field("n", n, not_decisive("samples per problem"), between(1, 65536));
  f.field("temperature", temperature, not_decisive("sampling temperature; 0 = greedy"), between(0, 100));
  f.field("top_p", top_p, not_decisive("keep the likeliest tokens up to this probability; 1 is off"), between(1e-6, 1));
}

double pass_at_k(int64_t n, int64_t c, int64_t k) {
  check(c >= 0 && c <= n && k >= 1 && k <= n, "[evaluate] pass@k needs 0 <= c <= n and 1 <= k <= n: got n ", n, ", c ",
        c, ", k ", k);
  double miss = 1.0;  // C(n-c, k) / C(n, k) as a product of k factors
  for (int64_t i = 0; i < k && miss > 0; ++i) miss *= double(std::max<int64_t>(0, n - c - i)) / double(n - i);
  return 1.0 - miss;
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
    votes.correct += s.correct;
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

ProblemResult problem_result(const RolloutGroup& group) {
  ProblemResult result{.row = group.prompt.id, .samples = int64_t(group.samples.size())};
  for (const RolloutSample& s : group.samples) {
    result.correct += s.correct;
    result.truncated += s.completion.finish == Finish::kLength;
    result.tokens += int64_t(s.completion.ids.size());
    result.reward += s.reward;
    result.statuses.push_back(s.verdict);
    if (is_failure(s.verdict)) result.failure = s.reason;
  }
  result.majority = majority_correct(group.samples);
  return result;
}

double pass_at(std::span<const ProblemResult> problems, int64_t k) {
  double sum = 0.0;
  for (const ProblemResult& p : problems) sum += pass_at_k(p.samples, p.correct, k);
  return problems.empty() ? 0.0 : sum / double(problems.size());
}

Interval bootstrap_interval(std::span<const double> values) {
  if (values.empty()) return {};
  RandomStream random(0, kBootstrapStream);
  std::vector<double> means(kResamples);
  for (double& mean : means) {
    for (size_t i = 0; i < values.size(); ++i) mean += values[random.below(uint32_t(values.size()))];
    mean /= double(values.size());
  }
  std::sort(means.begin(), means.end());
  return {means[kResamples / 40], means[kResamples - 1 - kResamples / 40]};
}

EvalSummary summarize(std::span<const ProblemResult> problems) {
  EvalSummary s;
  if (problems.empty()) return s;
  s.problems = int64_t(problems.size());
  s.samples = problems[0].samples;
  std::vector<double> avg, pass, majority;
  for (const ProblemResult& p : problems) {
    check(p.samples == s.samples && p.samples > 0, "[evaluate] problems must have equally many samples: got ",
          s.samples, " and ", p.samples);
    avg.push_back(p.pass_rate());
    pass.push_back(p.correct > 0);
    majority.push_back(p.majority);
    const double all = double(s.problems * s.samples);
    s.mean_reward += p.reward / all;
    s.mean_length += double(p.tokens) / all;
    s.truncated += double(p.truncated) / all;
  }
  const auto mean = [](const std::vector<double>& values) {
    double sum = 0.0;
    for (const double v : values) sum += v;
    return sum / double(values.size());
  };
  s.avg = mean(avg), s.pass = mean(pass), s.majority = mean(majority);
  s.avg_interval = bootstrap_interval(avg);
  s.pass_interval = bootstrap_interval(pass);
  s.majority_interval = bootstrap_interval(majority);
  return s;
}

std::vector<std::string> set_names(const std::vector<std::string>& files) {
  std::vector<std::string> names;
  for (const std::string& file : files) names.push_back(std::filesystem::path(file).stem().string());
  std::vector<std::string> out = names;
  for (size_t i = 0; i < files.size(); ++i)
    if (std::count(names.begin(), names.end(), names[i]) > 1) out[i] = files[i];
  return out;
}

std::vector<RolloutGroup> sample_and_grade(Engine& engine, std::span<const Prompt> prompts, int k,
                                           const GenerateOptions& options, const RewardsConfig& reward,
                                           Metrics& metrics, Comm& comm) {
  check(k >= 1, "[evaluate] needs at least one sample a problem: got ", k);
  std::vector<RolloutGroup> groups;
  for (const Prompt& prompt : prompts) groups.push_back({prompt, {}});
  sample_own(engine, groups, k, options, comm);
  Metrics counters;
  grade_samples(reward, groups, counters);
  share_samples(groups, comm);
  add_counters(metrics, counters, comm);
  return groups;
}

}  // namespace mantissa
