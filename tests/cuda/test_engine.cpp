// The rollout engine on CUDA, whose decode steps are replayed from graphs.
#include "rl/rollout/engine.h"

#include <gtest/gtest.h>

#include <utility>

#include "core/registry.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/engine_test.h"

namespace mantissa {
namespace {

class CudaEngineTest : public EngineTest {
 protected:
  CudaEngineTest() : EngineTest(no_cuda_because().empty() ? find_backend("cuda") : cpu()) {}
  void SetUp() override {
    const std::string reason = no_cuda_because();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(CudaEngineTest, RepeatsBitForBitAndDependsOnKeys) {
  for (const Dtype dtype : kTypes) {
    SCOPED_TRACE(name_of(dtype));
    RolloutConfig config;
    config.max_batch = 7;
    Engine engine(model(dtype), config, precision(dtype));
    const Results first = engine.generate(requests_, options_);
    expect_same(engine.generate(requests_, options_), first);  // graphs recorded by the first call
    GenerateOptions other = options_;
    other.keys.seed += 1;
    EXPECT_NE(engine.generate(requests_, other)[0][0].ids, first[0][0].ids);
    other.sampling.temperature = 0.5;  // another rule: recorded anew
    EXPECT_NE(engine.generate(requests_, other)[4][0].rollout_logprobs, first[4][0].rollout_logprobs);
    expect_same(engine.generate(requests_, options_), first);
  }
}

TEST_F(CudaEngineTest, LogprobsAreNearTheTrainingPath) {
  for (const Dtype dtype : kTypes)
    for (const Match match : {Match::kExact, Match::kPeer}) {
      SCOPED_TRACE(testing::Message() << name_of(dtype) << (match == Match::kPeer ? " peer" : ""));
      const Results got = run(dtype, requests_, options_, precision(dtype, match), 5);
      const Results scored = score(dtype, got);
      for (size_t i = 0; i < got.size(); ++i)
        for (size_t j = 0; j < got[i].size(); ++j)
          for (size_t t = 0; t < got[i][j].ids.size(); ++t)
            EXPECT_NEAR(got[i][j].rollout_logprobs[t], scored[i][j].rollout_logprobs[t], logprob_bound(dtype));
    }
}

/// Heads that have exact attention; prompts on both sides of a segment of 1,024 keys.
class CudaExactEngineTest : public CudaEngineTest {
 protected:
  CudaExactEngineTest() {
    config_.heads = {4, 2, 16};
    config_.max_positions = 2048;
    config_.qkv_bias = true;
    RandomStream random(3, 2);
    prompts_.reserve(prompts_.size() + 2);
    for (const int64_t length : {1010, 1100}) {
      Prompt p;
      p.id = 20 + length;
      for (int64_t t = 0; t < length; ++t) p.ids.push_back(int32_t(random.below(61)));
      prompts_.push_back(p);
    }
    requests_.clear();
    for (const Prompt& p : prompts_) requests_.push_back({&p, 3, 0});
  }
};

TEST_F(CudaExactEngineTest, DraftsSaveStepsAndKeepTheBits) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
    SCOPED_TRACE(name_of(dtype));
    expect_drafts_to_keep_bits(dtype);
  }
}

TEST_F(CudaExactEngineTest, LogprobsEqualTheTrainingPathInAnySchedule) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
    SCOPED_TRACE(name_of(dtype));
    const EnginePrecision p = precision(dtype);
    const Results roomy = run(dtype, requests_, options_, p);
    EXPECT_EQ(stats_.preemptions, 0);
    expect_same(score(dtype, roomy), roomy);
    for (const int64_t max_batch : {1, 3, 7}) expect_same(run(dtype, requests_, options_, p, max_batch), roomy);
    expect_same(run(dtype, requests_, options_, p, 64, 20 * kAttentionTile), roomy);
    EXPECT_GT(stats_.preemptions, 0);
    for (size_t i = 0; i < requests_.size(); ++i) expect_same(run(dtype, {requests_[i]}, options_, p)[0], roomy[i]);
    GenerateOptions greedy = options_;
    greedy.sampling.temperature = 0;
    std::swap(options_, greedy);
    const Results best = run(dtype, requests_, options_, p);
    options_.sampling.temperature = 1;  // what greedy tokens' log-probs are reported at
    expect_same(score(dtype, best), best);
    std::swap(options_, greedy);
  }
}

TEST_F(CudaExactEngineTest, SoDoThoseOfAMixtureOfExperts) {
  config_.architecture = "qwen3_moe";
  config_.qkv_bias = false;
  config_.experts.count = 40;
  config_.experts.per_token = 3;
  config_.experts.feed_forward = 24;
  config_.experts.normalise = true;
  options_.record_routes = true;
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
    SCOPED_TRACE(name_of(dtype));
    const EnginePrecision p = precision(dtype);
    const Results roomy = run(dtype, requests_, options_, p);
    expect_same(score(dtype, roomy), roomy);
    expect_routes_of_training(dtype, roomy);
    for (const int64_t max_batch : {1, 7}) expect_same(run(dtype, requests_, options_, p, max_batch), roomy);
    const Results tight = run(dtype, requests_, options_, p, 64, 20 * kAttentionTile);
    expect_same(tight, roomy);
    expect_routes_of_training(dtype, tight);
  }
}

TEST_F(CudaEngineTest, GreedyTokensInFp32AreThoseOfTheCpu) {
  options_.sampling.temperature = 0;
  const Results got = run(Dtype::kF32, requests_, options_, precision(Dtype::kF32));
  const auto same_model = random_model(tiny_model(), cpu(), Dtype::kF32, false, 17);
  Exec host(cpu());
  Tensor head = same_model->params.compute[same_model->decoder->params().head];
  MANTISSA_RUN(host, unary, head, head, Unary::kAffine, 40.0, 0.0);
  Engine engine(*same_model, RolloutConfig(), precision(Dtype::kF32));
  const Results want = engine.generate(requests_, options_);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(got[i][0].ids, want[i][0].ids) << "request " << i;
}

}  // namespace
}  // namespace mantissa
