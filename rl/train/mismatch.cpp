// Mismatch statistics: one pass over tokens and sequences in fp64, in order.
#include "rl/train/mismatch.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"

namespace mantissa {
namespace {

/// Mean, deviation and products of a pair of series, by updates of running means (no cancellation).
class Moments {
 public:
  void add(double x, double y) {
    const double n = double(++n_), dx = x - mean_x_, dy = y - mean_y_;
    mean_x_ += dx / n;
    mean_y_ += dy / n;
    xx_ += dx * (x - mean_x_);
    yy_ += dy * (y - mean_y_);
    xy_ += dx * (y - mean_y_);
  }
  double mean_x() const { return mean_x_; }
  double mean_y() const { return mean_y_; }
  /// Sample deviation of x; 0 for a single value.
  double deviation_x() const { return n_ > 1 ? std::sqrt(xx_ / double(n_ - 1)) : 0.0; }
  double standard_error_x() const { return n_ > 0 ? deviation_x() / std::sqrt(double(n_)) : 0.0; }
  /// Least-squares slope of y over x; 0 when x does not vary.
  double slope() const { return xx_ > 0 ? xy_ / xx_ : 0.0; }
  /// 0 when one of them does not vary.
  double correlation() const { return xx_ > 0 && yy_ > 0 ? xy_ / std::sqrt(xx_ * yy_) : 0.0; }

 private:
  int64_t n_ = 0;
  double mean_x_ = 0, mean_y_ = 0, xx_ = 0, yy_ = 0, xy_ = 0;
};

double limited(double log_ratio) {
  return std::clamp(log_ratio, -20.0, 20.0);
}

double token_k3(double log_ratio) {
  return std::expm1(limited(log_ratio)) - limited(log_ratio);
}

void check_sides(std::span<const float> mu, std::span<const float> old, std::span<const int32_t> offsets) {
  check(mu.size() == old.size(), "[mismatch] rollout and old log-probs must be as many: got ", mu.size(), " and ",
        old.size());
  check(!mu.empty() && offsets.size() >= 2 && offsets.front() == 0 && size_t(offsets.back()) == mu.size() &&
            std::is_sorted(offsets.begin(), offsets.end()),
        "[mismatch] offsets must ascend from 0 to the number of tokens, at least 1: got ", offsets.size(),
        " offsets for ", mu.size(), " tokens");
  for (size_t t = 0; t < mu.size(); ++t)
    check(std::isfinite(mu[t]) && std::isfinite(old[t]), "[mismatch] log-probs must be finite: token ", t,
          " of sequence ", std::upper_bound(offsets.begin(), offsets.end(), int32_t(t)) - offsets.begin() - 1, " has ",
          mu[t], " (rollout) and ", old[t], " (old)");
}

}  // namespace

std::vector<int32_t> LogprobSides::offsets() const {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

void LogprobSides::add(const TrainBatch& batch, std::span<const float> old_logprobs) {
  for (size_t s = 1; s < batch.response_offsets.size(); ++s)
    lengths.push_back(batch.response_offsets[s] - batch.response_offsets[s - 1]);
  rollout.insert(rollout.end(), batch.rollout_logprobs.begin(), batch.rollout_logprobs.end());
  old.insert(old.end(), old_logprobs.begin(), old_logprobs.end());
}

void LogprobSides::keep_finite() {
  LogprobSides kept;
  size_t begin = 0;
  for (const int32_t length : lengths) {
    const std::span mu = std::span(rollout).subspan(begin, size_t(length));
    const std::span pi = std::span(old).subspan(begin, size_t(length));
    const auto finite = [](float x) { return std::isfinite(x); };
    begin += size_t(length);
    if (!std::ranges::all_of(mu, finite) || !std::ranges::all_of(pi, finite)) continue;
    kept.lengths.push_back(length);
    kept.rollout.insert(kept.rollout.end(), mu.begin(), mu.end());
    kept.old.insert(kept.old.end(), pi.begin(), pi.end());
  }
  *this = std::move(kept);
}

MismatchStats mismatch_stats(std::span<const float> mu, std::span<const float> old, std::span<const int32_t> offsets) {
  check_sides(mu, old, offsets);
  MismatchStats s;
  Moments probs, diffs, seq_k3, lengths;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    const double n = offsets[i + 1] - offsets[i];
    if (n == 0) continue;
    double mu_sum = 0, old_sum = 0, k3_sum = 0;
    for (int32_t t = offsets[i]; t < offsets[i + 1]; ++t) {
      const double m = mu[size_t(t)], o = old[size_t(t)], x = o - m;
      const double r = std::exp(limited(x)), k3 = token_k3(x);
      s.kl -= x;
      s.k3_kl += k3;
      s.abs_logprob_diff += std::abs(x);
      s.chi2_token += r * r;
      const double diff = std::abs(std::exp(o) - std::exp(m));
      s.probs_diff_max = std::max(s.probs_diff_max, diff);
      diffs.add(diff, 0);
      probs.add(std::exp(m), std::exp(o));
      mu_sum += m, old_sum += o, k3_sum += k3;
    }
    const double log_ppl_diff = (mu_sum - old_sum) / n;
    s.training_ppl += std::exp(-old_sum / n);
    s.rollout_ppl += std::exp(-mu_sum / n);
    s.log_ppl_diff += log_ppl_diff;
    s.log_ppl_abs_diff += std::abs(log_ppl_diff);
    s.ppl_ratio += std::exp(log_ppl_diff);
    s.chi2_seq += std::exp(2 * limited(old_sum - mu_sum));
    seq_k3.add(k3_sum, 0);
    lengths.add(n, old_sum - mu_sum);
    ++s.sequences;
  }
  s.tokens = int64_t(mu.size());
  for (double* sum : {&s.kl, &s.k3_kl, &s.abs_logprob_diff, &s.chi2_token}) *sum /= double(s.tokens);
  for (double* sum : {&s.training_ppl, &s.rollout_ppl, &s.log_ppl_diff, &s.log_ppl_abs_diff, &s.ppl_ratio, &s.chi2_seq})
    *sum /= double(s.sequences);
  s.chi2_token -= 1;
  s.chi2_seq -= 1;
  s.seq_k3_kl = seq_k3.mean_x();
  s.seq_k3_kl_stderr = seq_k3.standard_error_x();
  s.log_ratio_slope = 1000 * lengths.slope();
  s.probs_diff_mean = diffs.mean_x();
  s.probs_diff_std = diffs.deviation_x();
  s.probs_pearson_corr = s.probs_diff_max == 0 ? 1.0 : probs.correlation();
  return s;
}

std::vector<SequenceMismatch> sequence_mismatch(std::span<const float> mu, std::span<const float> old,
                                                std::span<const int32_t> offsets) {
  check_sides(mu, old, offsets);
  std::vector<SequenceMismatch> out;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    SequenceMismatch sequence{.length = offsets[i + 1] - offsets[i]};
    for (size_t t = size_t(offsets[i]); t < size_t(offsets[i + 1]); ++t) {
      const double x = double(old[t]) - mu[t];
      sequence.log_ratio += x;
      sequence.k3_kl += token_k3(x);
    }
    if (sequence.length > 0) out.push_back(sequence);
  }
  return out;
}

std::vector<LengthBucket> length_buckets(std::span<const SequenceMismatch> sequences) {
  struct Sums {
    Moments k3_and_length, log_ratio;
    int64_t count = 0;
  };
  std::map<int64_t, Sums> buckets;
  for (const SequenceMismatch& s : sequences) {
    Sums& sums = buckets[int64_t(std::bit_floor(uint64_t(s.length)))];
    sums.k3_and_length.add(s.k3_kl, double(s.length));
    sums.log_ratio.add(s.log_ratio, 0);
    ++sums.count;
  }
  std::vector<LengthBucket> out;
  for (const auto& [from, sums] : buckets)
    out.push_back({.from = from,
                   .sequences = sums.count,
                   .length = sums.k3_and_length.mean_y(),
                   .log_ratio = sums.log_ratio.mean_x(),
                   .k3_kl = sums.k3_and_length.mean_x(),
                   .k3_kl_stderr = sums.k3_and_length.standard_error_x()});
  return out;
}

std::vector<int64_t> probs_diff_histogram(std::span<const float> mu, std::span<const float> old, int entries) {
  check(mu.size() == old.size() && entries >= 1,
        "[mismatch] a histogram needs as many rollout as old log-probs and an entry: got ", mu.size(), ", ", old.size(),
        " and ", entries);
  std::vector<int64_t> counts(size_t(entries), 0);
  for (size_t t = 0; t < mu.size(); ++t) {
    const double diff = std::abs(std::exp(double(old[t])) - std::exp(double(mu[t])));
    size_t entry = 0;
    for (double edge = 0.5; diff <= edge && entry + 1 < counts.size(); edge *= 0.5) ++entry;
    ++counts[entry];
  }
  return counts;
}

std::map<std::string, double> mismatch_metrics(const MismatchStats& s) {
  return {
      {"rollout_corr/kl", s.kl},
      {"rollout_corr/k3_kl", s.k3_kl},
      {"rollout_corr/abs_logprob_diff", s.abs_logprob_diff},
      {"rollout_corr/seq_k3_kl", s.seq_k3_kl},
      {"rollout_corr/seq_k3_kl_stderr", s.seq_k3_kl_stderr},
      {"rollout_corr/log_ratio_slope", s.log_ratio_slope},
      {"rollout_corr/training_ppl", s.training_ppl},
      {"rollout_corr/rollout_ppl", s.rollout_ppl},
      {"rollout_corr/log_ppl_diff", s.log_ppl_diff},
      {"rollout_corr/log_ppl_abs_diff", s.log_ppl_abs_diff},
      {"rollout_corr/ppl_ratio", s.ppl_ratio},
      {"rollout_corr/chi2_token", s.chi2_token},
      {"rollout_corr/chi2_seq", s.chi2_seq},
      {"training/rollout_probs_diff_max", s.probs_diff_max},
      {"training/rollout_probs_diff_mean", s.probs_diff_mean},
      {"training/rollout_probs_diff_std", s.probs_diff_std},
      {"training/rollout_actor_probs_pearson_corr", s.probs_pearson_corr},
  };
}

}  // namespace mantissa
