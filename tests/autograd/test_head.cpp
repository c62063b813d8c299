// The head: log-probs in chunks, the loss scale, types, memory.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/small_tensors.h"

namespace mantissa {
namespace {

struct Head {
  explicit Head(Exec& exec, Dtype dtype, int64_t tokens = 37, int64_t vocab = 129)
      : exec(exec), hidden(uniform(exec, {tokens, 24}, dtype, 1)), w(uniform(exec, {vocab, 24}, dtype, 2)) {
    std::vector<int32_t> t;
    for (int64_t i = 0; i < tokens; ++i) t.push_back(int32_t(i * 31 % vocab));
    targets = ints(t);
    sink = exec.zeros(w.shape(), Dtype::kF32);
  }
  /// Bits of log-probs, entropy, d(hidden), d(w) of sum(logprobs) + sum(entropy) / 2.
  std::vector<Tensor> run(const ops::HeadOptions& options) {
    MANTISSA_RUN(exec, fill, sink, 0.0);
    Tape tape(exec, true);
    const Var h = tape.leaf(hidden);
    const ops::TokenLogprobs s = ops::token_logprobs(tape, h, tape.param(w, sink), targets, options);
    tape.backward(ops::add(tape, ops::sum(tape, s.logprobs), ops::affine(tape, ops::sum(tape, s.entropy), 0.5)));
    return {s.logprobs.value(), s.entropy.value(), h.grad(), ops::cast(tape, Var(sink), Dtype::kF64).value()};
  }
  Exec& exec;
  Tensor hidden, w, targets, sink;
};

TEST(TokenLogprobs, ChunksDoNotChangeBits) {
  Exec exec(cpu());
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    Head head(exec, dtype);
    ops::HeadOptions options;
    options.dtype = dtype;
    const std::vector<Tensor> whole = head.run(options);
    for (int64_t chunk : {1, 5, 36}) {
      options.chunk = chunk;
      const std::vector<Tensor> chunked = head.run(options);
      for (size_t i = 0; i < whole.size(); ++i) EXPECT_EQ(bits(chunked[i]), bits(whole[i])) << chunk << " " << i;
    }
  }
}

TEST(TokenLogprobs, TheLossScaleMultipliesGradientsAlone) {
  Exec exec(cpu());
  Head head(exec, Dtype::kF32);
  ops::HeadOptions options;
  const std::vector<Tensor> plain = head.run(options);
  StepState state;
  state.loss_scale = 1024;
  options.state = state_tensor(cpu(), state);
  const std::vector<Tensor> scaled = head.run(options);
  EXPECT_EQ(bits(scaled[0]), bits(plain[0]));
  for (size_t i : {2, 3}) {
    std::vector<float> expected = host(plain[i]);
    for (float& v : expected) v *= 1024;
    EXPECT_EQ(host(scaled[i]), expected);  // a power of two is exact
  }
}

TEST(TokenLogprobs, TheHeadMayHaveAnotherType) {
  Exec exec(cpu());
  Head half(exec, Dtype::kF16), wide(exec, Dtype::kF32);
  MANTISSA_RUN(exec, cast, wide.hidden, half.hidden);
  MANTISSA_RUN(exec, cast, wide.w, half.w);
  ops::HeadOptions options;  // fp32
  const std::vector<Tensor> a = half.run(options), b = wide.run(options);
  for (size_t i : {0, 1, 3}) EXPECT_EQ(bits(a[i]), bits(b[i])) << i;
  EXPECT_EQ(a[2].dtype(), Dtype::kF16);
}

TEST(TokenLogprobs, PeerRoundsLogitsToTheHeadsType) {
  Exec exec(cpu()), peer(cpu());
  peer.match = Match::kPeer;
  ops::HeadOptions options;
  for (const auto& [dtype, low, high] : {std::tuple{Dtype::kBF16, 1e-4, 2e-2}, std::tuple{Dtype::kF32, 0.0, 1e-5}}) {
    options.dtype = dtype;
    const std::vector<float> a = host(Head(exec, dtype).run(options)[0]), b = host(Head(peer, dtype).run(options)[0]);
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, double(std::abs(a[i] - b[i])));
    EXPECT_GE(worst, low) << name_of(dtype);
    EXPECT_LE(worst, high) << name_of(dtype);
  }
}

TEST(TokenLogprobs, LogitsOfAllTokensNeverExist) {
  Exec exec(cpu());
  constexpr int64_t kTokens = 256, kVocab = 4096;
  Head head(exec, Dtype::kF32, kTokens, kVocab);
  ops::HeadOptions options;
  options.chunk = 8;
  head.run(options);  // the kernels' scratch memory has its size now
  const size_t before = cpu().memory().in_use;
  cpu().reset_peak();
  head.run(options);
  const size_t sink_as_fp64 = size_t(kVocab) * 24 * 8;
  EXPECT_LT(cpu().memory().peak - before, kTokens * kVocab * 4 / 4 + sink_as_fp64);
}

}  // namespace
}  // namespace mantissa
