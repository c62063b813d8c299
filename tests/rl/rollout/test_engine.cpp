// The rollout engine on a tiny random model: results that do not depend on how the work was scheduled,
// log-probs equal to those of the training path bit for bit, and clear errors.
#include "rl/rollout/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "core/registry.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/message.h"
#include "tests/support/tiny_model.h"

namespace mantissa {
namespace {

using Results = std::vector<std::vector<Completion>>;

constexpr Dtype kTypes[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};

/// How far rollout and training may be apart in a log-prob where their kernels round differently (numerics.md).
double logprob_bound(Dtype dtype) {
  return dtype == Dtype::kF32 ? 1e-4 : dtype == Dtype::kF16 ? 0.05 : 0.3;
}

class EngineTest : public testing::Test {
 protected:
  explicit EngineTest(Backend& backend = cpu()) : exec_(backend) {
    RandomStream random(3, 1);
    const int64_t lengths[] = {5, 64, 100, 1, 130, 63};
    for (size_t i = 0; i < std::size(lengths); ++i) {
      Prompt p;
      p.id = int64_t(10 + i);
      for (int64_t t = 0; t < lengths[i]; ++t) p.ids.push_back(int32_t(random.below(61)));
      prompts_.push_back(p);
    }
    for (const Prompt& p : prompts_) requests_.push_back({&p, 3, 0});
    options_.sampling.max_new_tokens = 30;
    options_.stop = StopRule({7});
    options_.sampling.temperature = 0.7;
    options_.keys = {42, 5};
    options_.policy_version = 9;
  }

  const Model& model(Dtype dtype) {
    std::unique_ptr<Model>& m = models_[size_t(dtype)];
    if (!m) {
      m = random_model(config_, exec_.backend(), dtype, false, 17);
      // Weights of std 0.02 make near-uniform predictions; a larger head makes them differ.
      Exec exec(exec_.backend());
      Tensor head = m->params.compute[m->decoder->params().head];
      MANTISSA_RUN(exec, unary, head, head, Unary::kAffine, 40.0, 0.0);
    }
    return *m;
  }

  static EnginePrecision precision(Dtype dtype, Match match = Match::kExact) { return {dtype, dtype, dtype, match}; }

  Results run(Dtype dtype, const std::vector<Request>& requests, const GenerateOptions& options,
              const EnginePrecision& precision, int64_t max_batch = 64, int64_t cache_tokens = 0) {
    RolloutConfig config;
    config.max_batch = max_batch;
    config.cache_tokens = cache_tokens;
    Engine engine(model(dtype), config, precision);
    Results results = engine.generate(requests, options);
    stats_ = engine.stats();
    return results;
  }

  void expect_drafts_to_keep_bits(Dtype dtype);

  /// Log-probs of every response token by the packed training path, in the order of `results`.
  Results score(Dtype dtype, const Results& results) {
    std::vector<int32_t> ids, positions, offsets = {0}, scored, targets;
    for (size_t i = 0; i < results.size(); ++i) {
      for (const Completion& c : results[i]) {
        std::vector<int32_t> sequence = requests_[i].prompt->ids;
        const size_t prompt = sequence.size();
        sequence.insert(sequence.end(), c.ids.begin(), c.ids.end());
        for (size_t t = 0; t < sequence.size(); ++t) {
          if (t + 1 >= prompt && t + 1 < sequence.size()) {
            scored.push_back(int32_t(ids.size()));
            targets.push_back(sequence[t + 1]);
          }
          ids.push_back(sequence[t]);
          positions.push_back(int32_t(t));
        }
        offsets.push_back(int32_t(ids.size()));
      }
    }
    const auto tensor = [this](const std::vector<int32_t>& v) {
      return tensor_from<int32_t>(exec_.backend(), v, {int64_t(v.size())});
    };
    const Model& m = model(dtype);
    Tape tape(exec_, true);  // recording, as in training
    ForwardContext ctx;
    ctx.tape = &tape;
    ctx.params = &m.params;
    ctx.residual = dtype;
    ctx.ids = tensor(ids);
    ctx.positions = tensor(positions);
    ctx.attention.offsets = tensor(offsets);
    const Var hidden = ops::gather_rows(tape, m.decoder->forward(ctx), tensor(scored));
    ops::HeadOptions head;
    head.temperature = options_.sampling.temperature;
    head.dtype = dtype;
    const std::vector<float> logprobs =
        to_host<float>(m.decoder->logprobs(ctx, hidden, tensor(targets), head).logprobs.value());
    Results out = results;
    size_t at = 0;
    for (std::vector<Completion>& group : out)
      for (Completion& c : group)
        for (float& logprob : c.rollout_logprobs) logprob = logprobs[at++];
    return out;
  }

  std::string error_of(const std::vector<Request>& requests, const GenerateOptions& options, int64_t cache_tokens = 0) {
    return message_of([&] { run(Dtype::kF32, requests, options, precision(Dtype::kF32), 4, cache_tokens); });
  }

  Exec exec_;
  ModelConfig config_ = tiny_model();
  std::vector<Prompt> prompts_;
  std::vector<Request> requests_;
  GenerateOptions options_;
  EngineStats stats_;

 private:
  std::unique_ptr<Model> models_[4];
};

void expect_same(const std::vector<Completion>& a, const std::vector<Completion>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t j = 0; j < a.size(); ++j) {
    EXPECT_EQ(a[j].ids, b[j].ids) << "sample " << j;
    EXPECT_EQ(a[j].rollout_logprobs, b[j].rollout_logprobs) << "sample " << j;  // no NaN here: == is equality of bits
    EXPECT_EQ(a[j].finish, b[j].finish) << "sample " << j;
    EXPECT_EQ(a[j].policy_version, b[j].policy_version);
  }
}

void expect_same(const Results& a, const Results& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    expect_same(a[i], b[i]);
  }
}

/// Twice the same rollout with drafts: in the second one all responses are repetitions.
void EngineTest::expect_drafts_to_keep_bits(Dtype dtype) {
  const Results without = run(dtype, requests_, options_, precision(dtype));
  const EngineStats plain = stats_;
  for (const int64_t max_batch : {5, 64}) {
    RolloutConfig config;
    config.max_batch = max_batch;
    config.draft = "history";
    Engine engine(model(dtype), config, precision(dtype));
    expect_same(engine.generate(requests_, options_), without);
    expect_same(engine.generate(requests_, options_), without);
    const EngineStats& stats = engine.stats();
    EXPECT_EQ(stats.decode_tokens, plain.decode_tokens);
    if (max_batch < 2 * 18) continue;  // no row was free before the last sequences
    EXPECT_GT(stats.accepted, stats.drafted / 2);
    EXPECT_GT(stats.accepted, 100);
    EXPECT_LT(stats.decode_steps, plain.decode_steps);
  }
}

TEST_F(EngineTest, ResultsDoNotDependOnTheSchedule) {
  for (const Dtype dtype : kTypes) {
    for (const Match match : {Match::kExact, Match::kPeer}) {
      SCOPED_TRACE(testing::Message() << name_of(dtype) << (match == Match::kPeer ? " peer" : ""));
      const EnginePrecision p = precision(dtype, match);
      const Results roomy = run(dtype, requests_, options_, p);
      EXPECT_EQ(stats_.preemptions, 0);
      EXPECT_EQ(stats_.prefill_tokens, 5 + 64 + 100 + 1 + 130 + 63);
      int64_t decoded = 0;
      for (const auto& group : roomy)
        for (const Completion& c : group) decoded += int64_t(c.ids.size()) - 1;
      EXPECT_EQ(stats_.decode_tokens, decoded);
      EXPECT_LE(stats_.decode_steps, 29);

      for (const int64_t max_batch : {1, 3, 7}) expect_same(run(dtype, requests_, options_, p, max_batch), roomy);
      expect_same(run(dtype, requests_, options_, p, 64, 4 * kAttentionTile), roomy);
      EXPECT_GT(stats_.preemptions, 0);
      EXPECT_LE(stats_.peak_pages, 4);

      std::vector<Request> reversed(requests_.rbegin(), requests_.rend());
      Results backwards = run(dtype, reversed, options_, p, 5);
      std::reverse(backwards.begin(), backwards.end());
      expect_same(backwards, roomy);
      for (size_t i = 0; i < requests_.size(); ++i) expect_same(run(dtype, {requests_[i]}, options_, p)[0], roomy[i]);
    }
  }
}

TEST_F(EngineTest, TheScheduleDoesNotDependOnEarlierRolloutsOrFreeMemory) {
  RolloutConfig config;
  config.max_batch = 64;
  const auto fresh = [&] { return Engine(model(Dtype::kF32), config, precision(Dtype::kF32)); };
  Engine first = fresh(), resumed = fresh();
  const std::vector<Request> few(requests_.begin(), requests_.begin() + 3);
  first.generate(few, options_);
  EXPECT_GT(first.kv_cache_limit(), 0);
  first.set_kv_cache_limit(6);  // as if memory had been short at the start
  const Results got = first.generate(requests_, options_);
  EXPECT_LE(first.stats().peak_pages, 6);
  EXPECT_GT(first.stats().preemptions, 0);
  first.generate(few, options_);  // the pool is larger than these need
  resumed.set_kv_cache_limit(first.kv_cache_limit());
  expect_same(resumed.generate(requests_, options_), got);
  resumed.generate(few, options_);
  EXPECT_EQ(resumed.stats().decode_steps, first.stats().decode_steps);
  EXPECT_EQ(resumed.stats().preemptions, first.stats().preemptions);
  EXPECT_EQ(first.kv_cache_limit(), 6);
  first.set_kv_cache_limit(1);
  try {
    first.generate(requests_, options_);
    FAIL() << "no sequence fits";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the limit that the first rollout set is 64"), std::string::npos) << e.what();
  }
}

TEST_F(EngineTest, SaysHowManyPagesWantOfMemoryTook) {
  const ModelConfig& c = model(Dtype::kF32).config;
  const double page = double(c.layers * 2 * kAttentionTile * c.heads.kv * c.heads.size * int64_t(sizeof(float)));
  const MemoryInfo memory = exec_.backend().memory();
  RolloutConfig config;
  config.max_batch = 64;
  config.memory_fraction = 6.5 * page / double(memory.capacity - memory.in_use);
  Engine engine(model(Dtype::kF32), config, precision(Dtype::kF32));
  engine.set_kv_cache_limit(int64_t{1} << 40);  // there was more when the run began
  expect_same(engine.generate(requests_, options_), run(Dtype::kF32, requests_, options_, precision(Dtype::kF32)));
  EXPECT_EQ(engine.stats().peak_pages, 6);
  EXPECT_GT(engine.stats().lost_pages, 0);
  engine.generate({requests_.data(), 1}, options_);
  EXPECT_EQ(engine.stats().lost_pages, 0) << "these fit";
  EXPECT_EQ(engine.kv_cache_limit(), int64_t{1} << 40);
}

TEST_F(EngineTest, PreemptionIsExactWhenTheCacheRounds) {
  EnginePrecision p = precision(Dtype::kF32);
  p.kv_cache = Dtype::kBF16;
  const Results roomy = run(Dtype::kF32, requests_, options_, p);
  expect_same(run(Dtype::kF32, requests_, options_, p, 64, 4 * kAttentionTile), roomy);
  EXPECT_GT(stats_.preemptions, 0);
  // The rounding is real: it shows in the log-probs.
  EXPECT_NE(run(Dtype::kF32, requests_, options_, precision(Dtype::kF32))[4][0].rollout_logprobs,
            roomy[4][0].rollout_logprobs);
}

TEST_F(EngineTest, LogprobsEqualTheTrainingPath) {
  for (const Dtype dtype : kTypes) {
    SCOPED_TRACE(name_of(dtype));
    const Results same = run(dtype, requests_, options_, precision(dtype));
    expect_same(score(dtype, same), same);

    const Results peer = run(dtype, requests_, options_, precision(dtype, Match::kPeer));
    const Results scored = score(dtype, peer);
    int different = 0;
    for (size_t i = 0; i < peer.size(); ++i)
      for (size_t j = 0; j < peer[i].size(); ++j)
        for (size_t t = 0; t < peer[i][j].ids.size(); ++t) {
          const float mu = peer[i][j].rollout_logprobs[t], old = scored[i][j].rollout_logprobs[t];
          different += mu != old;
          EXPECT_NEAR(mu, old, logprob_bound(dtype));
        }
    EXPECT_GT(different, 0);
  }
}

TEST_F(EngineTest, DraftsSaveStepsAndKeepTheBits) {
  for (const Dtype dtype : kTypes) {
    SCOPED_TRACE(name_of(dtype));
    expect_drafts_to_keep_bits(dtype);
  }
  RolloutConfig config;
  config.draft = "history";
  const std::string said =
      message_of([&] { Engine(model(Dtype::kF16), config, precision(Dtype::kF16, Match::kFast)); });
  EXPECT_NE(said.find("rollout.draft: history needs rollout and training to agree bit for bit"), std::string::npos)
      << said;
}

TEST_F(EngineTest, RepeatsAndDependsOnKeys) {
  const EnginePrecision p = precision(Dtype::kF32);
  const Results first = run(Dtype::kF32, requests_, options_, p);
  expect_same(run(Dtype::kF32, requests_, options_, p), first);
  EXPECT_NE(first[0][0].ids, first[0][1].ids);
  GenerateOptions other = options_;
  other.keys.seed = 43;
  EXPECT_NE(run(Dtype::kF32, requests_, other, p)[0][0].ids, first[0][0].ids);
  other = options_;
  other.keys.step = 6;
  EXPECT_NE(run(Dtype::kF32, requests_, other, p)[0][0].ids, first[0][0].ids);
  // Samples are numbered from first_sample.
  const Results later = run(Dtype::kF32, {{&prompts_[2], 2, 1}}, options_, p);
  expect_same(later[0], {first[2][1], first[2][2]});
}

TEST_F(EngineTest, GreedyAndFilters) {
  const EnginePrecision p = precision(Dtype::kF16);
  options_.sampling.temperature = 0;
  const Results greedy = run(Dtype::kF16, requests_, options_, p);
  for (const auto& group : greedy) {
    expect_same(group, {group[0], group[0], group[0]});
  }
  // Greedy reports log-probs at temperature 1; keeping one token, or next to none of the mass, is greedy.
  options_.sampling.temperature = 1;
  expect_same(score(Dtype::kF16, greedy), greedy);
  options_.sampling.top_k = 1;
  expect_same(run(Dtype::kF16, requests_, options_, p), greedy);
  options_.sampling.top_k = 0;
  options_.sampling.top_p = 1e-4;
  expect_same(run(Dtype::kF16, requests_, options_, p), greedy);
}

TEST_F(EngineTest, StopTokensEndAndBelong) {
  const EnginePrecision p = precision(Dtype::kF32);
  options_.stop = StopRule();
  const Results open = run(Dtype::kF32, requests_, options_, p);
  const std::vector<int32_t> ends = {3, 7, 11};
  options_.stop = StopRule(ends);
  const Results stopped = run(Dtype::kF32, requests_, options_, p);
  int stops = 0;
  for (size_t i = 0; i < open.size(); ++i) {
    for (size_t j = 0; j < open[i].size(); ++j) {
      Completion expected = open[i][j];
      EXPECT_EQ(expected.ids.size(), 30u);
      EXPECT_EQ(expected.finish, Finish::kLength);
      const auto stop = std::find_first_of(expected.ids.begin(), expected.ids.end(), ends.begin(), ends.end());
      if (stop != expected.ids.end()) {
        ++stops;
        expected.finish = Finish::kStop;
        expected.ids.erase(stop + 1, expected.ids.end());
        expected.rollout_logprobs.resize(expected.ids.size());
      }
      expect_same({stopped[i][j]}, {expected});
    }
  }
  EXPECT_GT(stops, 0);
}

TEST_F(EngineTest, ResponsesEndAtTheLastPosition) {
  prompts_[0].ids.resize(250, 4);
  options_.stop = StopRule();
  options_.sampling.max_new_tokens = 1000;
  const Results r = run(Dtype::kF32, {requests_[0]}, options_, precision(Dtype::kF32));
  EXPECT_EQ(r[0][0].ids.size(), 6u);
  EXPECT_EQ(r[0][0].finish, Finish::kLength);
}

TEST_F(EngineTest, Cancelled) {
  RolloutConfig config;
  config.max_batch = 4;
  Engine engine(model(Dtype::kF32), config, precision(Dtype::kF32));
  int polls = 0;
  GenerateOptions options = options_;
  options.cancelled = [&] { return ++polls == 5; };
  EXPECT_THROW(engine.generate(requests_, options), Interrupted);
  EXPECT_EQ(polls, 5);
  expect_same(engine.generate(requests_, options_), run(Dtype::kF32, requests_, options_, precision(Dtype::kF32)));
  EXPECT_TRUE(engine.generate({}, options_).empty());
}

TEST_F(EngineTest, Errors) {
  const auto expect_error = [&](const std::string& part, int64_t cache_tokens = 0) {
    const std::string text = error_of(requests_, options_, cache_tokens);
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  // 100 prompt tokens and 30 new ones, the last of which is not fed: 129 tokens, 3 pages.
  expect_error(
      "prompt 12 (100 tokens) with up to 30 new ones needs 192 tokens (3 pages of 64), but "
      "rollout.cache_tokens is 150",
      150);
  const std::vector<int32_t> ids = prompts_[3].ids;
  prompts_[3].ids.clear();
  expect_error("request 3 (prompt 13): the prompt has no tokens");
  prompts_[3].ids.assign(256, 1);
  expect_error("a prompt of 256 tokens leaves no position for a response: the model has 256 positions");
  prompts_[3].ids = {5, 61};
  expect_error("token 1 is 61, ids must lie in [0, 61)");
  prompts_[3].ids = {-1};
  expect_error("token 0 is -1");
  prompts_[3].ids = ids;
  requests_[2].n = 0;
  expect_error("n must be at least 1: got 0");
  requests_[2].n = 1;
  options_.stop = StopRule({61});
  expect_error("stop ids must lie in [0, 61): got 61");
  options_.stop = StopRule();
  options_.sampling.temperature = NAN;
  expect_error("temperature");
  options_.sampling.temperature = 1;
  options_.sampling.top_p = 0;
  expect_error("top_p must lie in (0, 1]: got 0");
  options_.sampling.top_p = 1;
  options_.sampling.max_new_tokens = 0;
  expect_error("max_new_tokens must be at least 1: got 0");
}

// ---- the same engine on CUDA: decode steps are replayed from graphs ----

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
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
    SCOPED_TRACE(name_of(dtype));
    const EnginePrecision p = precision(dtype);
    const Results roomy = run(dtype, requests_, options_, p);
    expect_same(score(dtype, roomy), roomy);
    for (const int64_t max_batch : {1, 7}) expect_same(run(dtype, requests_, options_, p, max_batch), roomy);
    expect_same(run(dtype, requests_, options_, p, 64, 20 * kAttentionTile), roomy);
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
