// What tests of the rollout engine share, on any backend: a tiny random model, prompts of several lengths, the
// log-probs of responses by the training path.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/random.h"
#include "core/registry.h"
#include "rl/rollout/engine.h"
#include "tests/support/message.h"
#include "tests/support/tiny_model.h"

namespace mantissa {

using Results = std::vector<std::vector<Completion>>;

inline constexpr Dtype kTypes[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};

/// How far rollout and training may be apart in a log-prob where their kernels round differently (numerics.md).
inline double logprob_bound(Dtype dtype) {
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

  /// Of `results` that recorded routes: they are those that the packed training forward chooses, of prompt and response
  /// but for its last token.
  void expect_routes_of_training(Dtype dtype, const Results& results);

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

inline void expect_same(const std::vector<Completion>& a, const std::vector<Completion>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t j = 0; j < a.size(); ++j) {
    EXPECT_EQ(a[j].ids, b[j].ids) << "sample " << j;
    EXPECT_EQ(a[j].rollout_logprobs, b[j].rollout_logprobs) << "sample " << j;  // no NaN here: == is equality of bits
    EXPECT_EQ(a[j].finish, b[j].finish) << "sample " << j;
    EXPECT_EQ(a[j].policy_version, b[j].policy_version);
  }
}

inline void expect_same(const Results& a, const Results& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    expect_same(a[i], b[i]);
  }
}

inline void EngineTest::expect_routes_of_training(Dtype dtype, const Results& results) {
  const int64_t layers = config_.experts.before(config_.layers), slots = config_.experts.per_token;
  const auto upload = [&](const std::vector<int32_t>& v) {
    return tensor_from<int32_t>(exec_.backend(), v, {int64_t(v.size())});
  };
  for (size_t i = 0; i < results.size(); ++i)
    for (const Completion& c : results[i]) {
      std::vector<int32_t> ids = requests_[i].prompt->ids, positions;
      ids.insert(ids.end(), c.ids.begin(), c.ids.end() - 1);
      const int64_t tokens = int64_t(ids.size());
      for (int32_t t = 0; t < tokens; ++t) positions.push_back(t);
      Tape tape(exec_, true);
      ForwardContext ctx;
      ctx.tape = &tape;
      ctx.params = &model(dtype).params;
      ctx.residual = dtype;
      ctx.ids = upload(ids);
      ctx.positions = upload(positions);
      ctx.attention.offsets = upload({0, int32_t(tokens)});
      ctx.attention.longest = tokens;
      ctx.routes.chosen = exec_.empty({layers, tokens, slots}, Dtype::kI32);
      model(dtype).decoder->forward(ctx);
      const std::vector<int32_t> chosen = to_host<int32_t>(ctx.routes.chosen);
      TokenRoutes::Bytes want;
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t layer = 0; layer < layers; ++layer)
          for (int64_t j = 0; j < slots; ++j) want.push_back(uint8_t(chosen[size_t((layer * tokens + t) * slots + j)]));
      ASSERT_TRUE(c.routes.recorded());
      TokenRoutes::Bytes got = *c.routes.prompt;
      got.insert(got.end(), c.routes.response->begin(), c.routes.response->end());
      EXPECT_EQ(got, want) << "request " << i;
    }
}

/// Twice the same rollout with drafts: in the second one all responses are repetitions. How many guesses are made on a
/// device is a matter of what steps take there.
inline void EngineTest::expect_drafts_to_keep_bits(Dtype dtype) {
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
    if (exec_.backend().name() != "cpu") continue;
    EXPECT_GT(stats.accepted, 100);
    EXPECT_LT(stats.decode_steps, plain.decode_steps);
  }
}

}  // namespace mantissa
