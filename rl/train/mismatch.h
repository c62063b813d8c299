// How far the policy that sampled (mu) and the one that trains (pi_old) are apart, on the same tokens. Host code: it
// reads what the rollout and the scoring recorded.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "rl/types.h"

namespace mantissa {

/// Over N tokens of S sequences, x = old - mu of a token, r = exp x, x clamped to +-20 before exp. "Seq mean" is the
/// mean over sequences; a mean inside it is over the tokens of one sequence.
struct MismatchStats {
  int64_t tokens = 0, sequences = 0;
  double kl = 0;                // mean -x: the k1 estimate of KL[mu || pi_old] per token
  double k3_kl = 0;             // mean (r - x - 1)
  double abs_logprob_diff = 0;  // mean |x|
  double seq_k3_kl = 0;         // seq mean of sum (r - x - 1)
  double seq_k3_kl_stderr = 0;  // its standard error: sample deviation / sqrt(S)
  double log_ratio_slope = 0;   // least-squares slope of sum x against length, per 1000 tokens
  double training_ppl = 0;      // seq mean exp(-mean old)
  double rollout_ppl = 0;       // seq mean exp(-mean mu)
  double log_ppl_diff = 0;      // seq mean of (mean mu - mean old)
  double log_ppl_abs_diff = 0;  // seq mean |mean mu - mean old|
  double ppl_ratio = 0;         // seq mean exp(mean mu - mean old)
  double chi2_token = 0;        // mean r^2 - 1
  double chi2_seq = 0;          // seq mean exp(2 clamp(sum x, +-20)) - 1
  // of |exp old - exp mu|; sample deviation
  double probs_diff_max = 0, probs_diff_mean = 0, probs_diff_std = 0;
  double probs_pearson_corr = 0;  // of exp old and exp mu; 1 when they are equal, 0 when one does not vary
};

/// Log-probs of the same tokens from both sides, sequence by sequence.
struct LogprobSides {
  std::vector<float> rollout, old;
  std::vector<int32_t> lengths;  // of the sequences
  /// Sequence s owns [offsets()[s], offsets()[s+1]).
  std::vector<int32_t> offsets() const;
  /// Those of a micro-batch, with its old_logprobs or with what is given in their place.
  void add(const TrainBatch& batch) { add(batch, batch.old_logprobs); }
  void add(const TrainBatch& batch, std::span<const float> old_logprobs);
  /// Leaves out the sequences that have a log-prob, of either side, that is not finite.
  void keep_finite();
};

/// mu[N], old[N], offsets[S+1] ascending from 0 to N. Empty sequences count for nothing. Errors: sizes that do not
/// match, no token at all, a log-prob that is not finite.
MismatchStats mismatch_stats(std::span<const float> rollout_logprobs, std::span<const float> old_logprobs,
                             std::span<const int32_t> offsets);

/// What a sequence adds to them: its tokens, sum x = log(pi_old / mu), sum of token k3.
struct SequenceMismatch {
  int64_t length = 0;
  double log_ratio = 0, k3_kl = 0;
};

/// One for each sequence that has tokens. Errors as mismatch_stats.
std::vector<SequenceMismatch> sequence_mismatch(std::span<const float> rollout_logprobs,
                                                std::span<const float> old_logprobs, std::span<const int32_t> offsets);

/// Sequences of length [from, 2 from), from a power of two: means over them, standard error of the k3 sum.
struct LengthBucket {
  int64_t from = 1, sequences = 0;
  double length = 0, log_ratio = 0, k3_kl = 0, k3_kl_stderr = 0;
};

/// The buckets that hold a sequence, by ascending length.
std::vector<LengthBucket> length_buckets(std::span<const SequenceMismatch> sequences);

/// Tokens by d = |exp old - exp mu| in powers of two: entry b counts 2^-(b+1) < d <= 2^-b, the last entry all smaller
/// ones, equal probabilities included.
std::vector<int64_t> probs_diff_histogram(std::span<const float> rollout_logprobs, std::span<const float> old_logprobs,
                                          int entries = 28);

/// Under the names users of verl know: rollout_corr/{kl,k3_kl,...}, training/rollout_probs_diff_{max,mean,std},
/// training/rollout_actor_probs_pearson_corr.
std::map<std::string, double> mismatch_metrics(const MismatchStats& stats);

}  // namespace mantissa
