// The vocabulary family and sampling on CUDA against the CPU kernels. T tokens, V vocabulary.
#include <algorithm>

#include "core/registry.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class CudaVocab : public CudaFixture<::testing::Test> {
 protected:
  struct Scores {
    Tensor logprob, entropy, lse;
  };
  Scores score(Exec& exec, const Tensor& logits, const Tensor& targets, double inv_temperature) {
    const int64_t rows = logits.size(0);
    Scores s{exec.empty({rows}, Dtype::kF32), exec.empty({rows}, Dtype::kF32), exec.empty({rows}, Dtype::kF32)};
    MANTISSA_RUN(exec, logprob_fwd, s.logprob, s.entropy, s.lse, logits, targets, inv_temperature);
    return s;
  }
  Tensor some_ids(int64_t count, int64_t vocab, uint64_t purpose) {
    RandomStream stream(2, purpose);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t(stream.below(uint32_t(vocab))));
    return ints(ids);
  }

  struct Drawn {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
  };
  Drawn draw(Exec& exec, const Tensor& logits, SamplingRule rule, int first_prompt = 0) {
    const int64_t rows = logits.size(0);
    std::vector<int32_t> counters;
    for (int b = 0; b < rows; ++b) counters.insert(counters.end(), {b + first_prompt, 1, 2});
    const Tensor at = tensor_from<int32_t>(exec.backend(), counters, {rows, 3});
    Tensor tokens = exec.empty({rows}, Dtype::kI32), logprobs = exec.empty({rows}, Dtype::kF32);
    MANTISSA_RUN(exec, sample, tokens, logprobs, logits, at, key_tensor(exec.backend(), {11, 3}), rule);
    return {to_host<int32_t>(tokens), to_host<float>(logprobs)};
  }
  /// The draws of both backends: log-probabilities close, tokens equal but for at most one row in `rarely`,
  /// where the uniform lies on a bound within rounding.
  void expect_same_draws(const Tensor& logits, SamplingRule rule, int64_t rarely) {
    const Drawn want = draw(host, logits, rule), got = draw(gpu(), up(logits), rule);
    int64_t different = 0;
    for (size_t b = 0; b < want.tokens.size(); ++b) {
      different += got.tokens[b] != want.tokens[b];
      if (got.tokens[b] != want.tokens[b]) continue;
      EXPECT_NEAR(got.logprobs[b], want.logprobs[b], 2e-6 * (10 + std::abs(want.logprobs[b]))) << "row " << b;
    }
    EXPECT_LE(different, rarely ? logits.size(0) / rarely : 0)
        << "temperature " << rule.temperature << " top_p " << rule.top_p << " top_k " << rule.top_k;
  }
};

TEST_F(CudaVocab, EmbeddingGivesTheBitsOfTheCpu) {
  for (const Dtype table_type : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (const Dtype out_type : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
      for (const int64_t width : {1, 7, 64, 576}) {
        const Tensor table = random({50, width}, table_type, 1), ids = some_ids(77, 50, 2);
        Tensor want = host.empty({77, width}, out_type), got = poisoned({77, width}, out_type);
        MANTISSA_RUN(host, embedding_fwd, want, table, ids);
        MANTISSA_RUN(gpu(), embedding_fwd, got, up(table), up(ids));
        expect_same_bits(got, want);
      }
}

TEST_F(CudaVocab, EmbeddingGradientAddsInTokenOrder) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (const int64_t width : {5, 64, 2056})
      for (const int64_t vocab : {3, 700}) {  // long lists of tokens of one id, and lone ones
        const Tensor dout = random({1500, width}, dtype, 3), ids = some_ids(1500, vocab, 4);
        Tensor want = random({vocab, width}, Dtype::kF32, 5), got = up(want);
        MANTISSA_RUN(host, embedding_bwd, want, dout, ids);
        MANTISSA_RUN(gpu(), embedding_bwd, got, up(dout), up(ids));
        expect_same_bits(got, want);
      }
}

TEST_F(CudaVocab, LogProbabilitiesMatchTheCpu) {
  for (const int64_t vocab : {1, 7, 1000, 1024, 1025, 4099, 49152, 151936})
    for (const double inv_temperature : {1.0, 0.6, 2.5}) {
      SCOPED_TRACE(str("vocabulary ", vocab, " 1/T ", inv_temperature));
      const Tensor logits = random({9, vocab}, Dtype::kF32, 6, 4.0f), targets = some_ids(9, vocab, 7);
      const Scores want = score(host, logits, targets, inv_temperature),
                   got = score(gpu(), up(logits), up(targets), inv_temperature);
      expect_close(got.logprob, want.logprob, 1e-6, 10.0);
      expect_close(got.entropy, want.entropy, 2e-6, 10.0);
      expect_close(got.lse, want.lse, 1e-6, 10.0);
    }
}

TEST_F(CudaVocab, LogitsThatAreNotFinite) {
  const int64_t vocab = 2050;
  std::vector<float> values(6 * vocab, -1.0f);
  auto at = [&](int64_t row, int64_t v) -> float& { return values[size_t(row * vocab + v)]; };
  at(0, 5) = 3.0f;
  for (int64_t v = 1024; v < 2048; ++v) at(0, v) = -kInf;  // a chunk without probability
  at(1, 7) = kInf;
  at(2, 2049) = kNan;
  for (int64_t v = 0; v < vocab; ++v) at(3, v) = -kInf;
  for (int64_t v = 0; v < 1024; ++v) at(4, v) = kNan;
  at(5, 2000) = 1e30f;
  const Tensor logits = tensor_from<float>(cpu(), values, {6, vocab}), targets = ints({5, 3, 3, 3, 1500, 2000});
  const Scores want = score(host, logits, targets, 1.0), got = score(gpu(), up(logits), up(targets), 1.0);
  expect_close(got.logprob, want.logprob, 1e-6, 10.0);
  expect_close(got.lse, want.lse, 1e-6, 10.0);
  for (const SamplingRule rule :
       {SamplingRule{}, SamplingRule{.temperature = 0}, SamplingRule{.top_p = 0.9f}, SamplingRule{.top_k = 3}}) {
    const Drawn a = draw(host, logits, rule), b = draw(gpu(), up(logits), rule);
    EXPECT_EQ(a.tokens, b.tokens) << rule.temperature << " " << rule.top_p << " " << rule.top_k;
  }
}

TEST_F(CudaVocab, LogProbabilityGradientMatchesTheCpu) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (const int64_t vocab : {1, 7, 1000, 4099, 49152})
      for (const bool with_entropy : {false, true}) {
        SCOPED_TRACE(str(name_of(dtype), " vocabulary ", vocab, " entropy ", with_entropy));
        const Tensor logits = random({5, vocab}, Dtype::kF32, 8, 3.0f), targets = some_ids(5, vocab, 9);
        const Tensor dlogprob = random({5}, Dtype::kF32, 10), dentropy = random({5}, Dtype::kF32, 11);
        const Scores s = score(host, logits, targets, 0.8);
        const StepState state{.loss_scale = 1024.0f};
        Tensor want = host.empty(logits.shape(), dtype), got = poisoned(logits.shape(), dtype);
        MANTISSA_RUN(host, logprob_bwd, want, logits, s.lse, s.entropy, targets, dlogprob,
                     with_entropy ? dentropy : Tensor(), state_tensor(cpu(), state), 0.8);
        const Tensor x = up(logits);
        const auto run = [&](Tensor& to) {
          MANTISSA_RUN(gpu(), logprob_bwd, to, x, up(s.lse), up(s.entropy), up(targets), up(dlogprob),
                       with_entropy ? up(dentropy) : Tensor(), state_tensor(gpu().backend(), state), 0.8);
        };
        run(got);
        const double unit = dtype == Dtype::kF32 ? 4e-6 : 1.1 * 2 * unit_of(dtype);  // one step apart where both round
        expect_close(got, want, unit, dtype == Dtype::kF32 ? 1e-3 : 1e-4);
        if (dtype != Dtype::kF32) continue;
        Tensor in_place = x;
        run(in_place);
        expect_same_bits(in_place, got);
      }
}

TEST_F(CudaVocab, DrawsMatchTheCpu) {
  for (const int64_t vocab : {1, 5, 1000, 1024, 3001, 49152}) {
    const Tensor logits = random({300, vocab}, Dtype::kF32, 12, 2.0f);
    for (const double temperature : {1.0, 0.0, 0.7, 2.0})
      expect_same_draws(logits, {.temperature = temperature}, temperature == 0 ? 0 : 100);
  }
}

TEST_F(CudaVocab, FilteredDrawsMatchTheCpu) {
  for (const int64_t vocab : {5, 1000, 3001, 49152}) {
    const Tensor logits = random({200, vocab}, Dtype::kF32, 13, 2.5f);
    for (const float top_p : {1.0f, 0.95f, 0.5f, 0.01f})
      for (const int top_k : {0, 1, 4, 60, 700})
        if (top_p < 1 || top_k > 0)
          expect_same_draws(logits, {.temperature = 0.8, .top_p = top_p, .top_k = top_k}, 100);
  }
}

TEST_F(CudaVocab, FiltersBreakTiesByIndex) {
  // Few different values: the cuts fall into runs of equal logits, also across chunks.
  const int64_t rows = 200, vocab = 2500;
  std::vector<float> values;
  RandomStream stream(3, 14);
  for (int64_t i = 0; i < rows * vocab; ++i)
    values.push_back(float(stream.below(4)) * 0.5f - (i % 3 == 0 ? 0.0f : 2.0f));
  const Tensor logits = tensor_from<float>(cpu(), values, {rows, vocab});
  for (const SamplingRule rule : {SamplingRule{.top_k = 10}, SamplingRule{.top_k = 300}, SamplingRule{.top_k = 2400},
                                  SamplingRule{.top_p = 0.3f}, SamplingRule{.top_p = 0.7f, .top_k = 500}})
    expect_same_draws(logits, rule, 100);
}

TEST_F(CudaVocab, RowsDoNotDependOnTheirBatchAndTrainingAgreesWithRollout) {
  for (const int64_t vocab : {3001, 49152}) {
    const Tensor logits = up(random({70, vocab}, Dtype::kF32, 15, 3.0f));
    for (const SamplingRule rule :
         {SamplingRule{.temperature = 0.9}, SamplingRule{.temperature = 0.9, .top_p = 0.9f}}) {
      const Drawn all = draw(gpu(), logits, rule);
      for (const int64_t b : {0, 33, 69}) {
        const Drawn one = draw(gpu(), logits.slice(b, b + 1), rule, int(b));
        EXPECT_EQ(one.tokens[0], all.tokens[size_t(b)]);
        EXPECT_EQ(one.logprobs[0], all.logprobs[size_t(b)]);
      }
      // The scorer finds the same bits for the tokens that were drawn.
      const Scores s = score(gpu(), logits, up(ints(all.tokens)), float(1.0 / 0.9));
      EXPECT_EQ(to_host<float>(s.logprob), all.logprobs);
    }
  }
}

}  // namespace
}  // namespace mantissa
