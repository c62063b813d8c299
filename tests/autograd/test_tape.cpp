// The tape: accumulation, sinks, recompute tiers, checkpoints, memory, observers.
#include "autograd/tape.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "autograd/nonfinite.h"
#include "autograd/ops.h"
#include "tests/support/message.h"
#include "tests/support/small_tensors.h"

namespace mantissa {
namespace {

TEST(Tape, GradientsOfAValueUsedSeveralTimesAdd) {
  Exec exec(cpu());
  Tape tape(exec, true);
  const Var x = tape.leaf(vec({1, -2, 3}));
  const Var y = ops::add(tape, ops::mul(tape, x, x), ops::affine(tape, x, 3));
  tape.backward(ops::sum(tape, y));
  EXPECT_EQ(host(x.grad()), (std::vector<float>{5, -1, 9}));
}

TEST(Tape, WhatIsRecordedAfterACallHasPlayedWhenItIsAnswered) {
  Exec exec(cpu());
  const Tensor first = exec.zeros({3}, Dtype::kF32), second = exec.zeros({3}, Dtype::kF32);
  std::vector<std::pair<std::vector<float>, std::vector<float>>> seen;
  Tape tape(exec, true);
  const auto look = [&] { seen.emplace_back(host(first), host(second)); };
  tape.when_played(look);
  const Var a = ops::mul(tape, tape.param(vec({1, 2, 3}), first), Var(vec({2, 2, 2})));
  tape.when_played(look);
  const Var b = ops::mul(tape, a, tape.param(vec({4, 5, 6}), second));
  tape.when_played(look);
  const Var unused = ops::mul(tape, b, b);  // plays nothing, and holds nobody up
  tape.when_played(look);
  tape.backward(ops::sum(tape, b));
  const std::vector<float> none(3), da{8, 10, 12}, db{2, 4, 6};
  EXPECT_EQ(seen, (decltype(seen){{none, none}, {none, none}, {none, db}, {da, db}}));
  Tape silent(exec, false);
  silent.when_played(look);
  EXPECT_EQ(silent.records(), 0u);
}

TEST(Tape, AGradientSharedByTwoInputsIsNotWrittenThroughEither) {
  // d = a + b hands one tensor to both; a then gets more. b must not see it.
  Exec exec(cpu());
  Tape tape(exec, true);
  const Var a = tape.leaf(vec({1, 2})), b = tape.leaf(vec({3, 4}));
  const Var scaled = ops::affine(tape, a, 10);
  const Var total = ops::add(tape, ops::add(tape, a, b), scaled);
  tape.backward(ops::sum(tape, total));
  EXPECT_EQ(host(a.grad()), (std::vector<float>{11, 11}));
  EXPECT_EQ(host(b.grad()), (std::vector<float>{1, 1}));
}

TEST(Tape, ANormAddsWhatItsInputHasFromElsewhere) {
  // x's gradient comes from the norm and from what is recorded before and after it, which plays after and before it. A
  // cast between x and the norm keeps the tape's own addition.
  Exec exec(cpu());
  constexpr int64_t kRows = 5, kWidth = 37;
  const Shape shape{kRows, kWidth};
  const Tensor x = uniform(exec, shape, Dtype::kF16, 1), w = uniform(exec, {kWidth}, Dtype::kF16, 2);
  const auto gradients = [&](int earlier, int later, int norms, bool apart) {
    Tape tape(exec, true);
    const Var leaf = tape.leaf(x), weight = tape.leaf(w);
    std::vector<Var> roots;
    std::vector<Tensor> douts;
    const auto use = [&](const Var& v) {
      roots.push_back(v);
      douts.push_back(uniform(exec, shape, Dtype::kF16, 10 + douts.size()));
    };
    for (int i = 0; i < earlier; ++i) use(ops::affine(tape, leaf, 3 + i));
    for (int i = 0; i < norms; ++i)
      use(ops::rms_norm(tape, apart ? ops::cast(tape, ops::cast(tape, leaf, Dtype::kF32), Dtype::kF16) : leaf, weight,
                        1e-5));
    for (int i = 0; i < later; ++i) use(ops::affine(tape, leaf, 7 + i));
    use(leaf);  // the caller's tensor: it must not be written to
    const std::vector<char> given = bits(douts.back());
    tape.backward(roots, douts);
    EXPECT_EQ(bits(douts.back()), given);
    return std::pair(bits(leaf.grad()), bits(weight.grad()));
  };
  for (int earlier : {0, 1, 2})
    for (int later : {0, 1, 2})
      for (int norms : {1, 2})
        EXPECT_EQ(gradients(earlier, later, norms, false), gradients(earlier, later, norms, true))
            << earlier << " uses before " << norms << " norms, " << later << " after";
}

TEST(Tape, ParameterGradientsAddInTheirSinkAcrossUsesAndTapes) {
  Exec exec(cpu());
  const Tensor w = uniform(exec, {5, 4}, Dtype::kF16, 1);
  const Tensor x = uniform(exec, {3, 4}, Dtype::kF16, 2);
  Tensor once = exec.zeros({5, 4}, Dtype::kF32), four = exec.zeros({5, 4}, Dtype::kF32);
  const auto play = [&](Tensor sink, int uses) {
    Tape tape(exec, true);
    Var total;
    for (int i = 0; i < uses; ++i) {
      const Var part = ops::sum(tape, ops::linear(tape, Var(x), tape.param(w, sink)));
      total = total.defined() ? ops::add(tape, total, part) : part;
    }
    tape.backward(total);
  };
  play(once, 1);
  play(four, 2);
  play(four, 2);
  const std::vector<float> a = host(once), b = host(four);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NE(a[i], 0);
    EXPECT_NEAR(b[i], 4 * a[i], 1e-6);
  }
}

TEST(Tape, AParameterInAnOpWithoutAccumulatingKernelAddsToo) {
  Exec exec(cpu());
  Tensor sink = vec({100, 200});
  Tape tape(exec, true);
  const Var w = tape.param(vec({1, 2}), sink);
  tape.backward(ops::sum(tape, ops::mul(tape, w, Var(vec({5, 7})))));
  EXPECT_EQ(host(sink), (std::vector<float>{105, 207}));
}

TEST(Tape, TheFirstGradientOfAFreshSinkIsWritten) {
  Exec exec(cpu());
  const Tensor w = uniform(exec, {5, 4}, Dtype::kF32, 1), x = uniform(exec, {3, 4}, Dtype::kF32, 2);
  // Each parameter is used twice. A linear layer can write; a product of elements only adds.
  const auto play = [&](const Sink& matrix, const Sink& vector) {
    Tape tape(exec, true);
    const auto use = [&](int64_t rows) {
      const Var y = ops::linear(tape, Var(x.slice(0, rows)), tape.param(w, matrix));
      const Var z = ops::mul(tape, tape.param(vec({2, 3}), vector), Var(vec({5, 7})));
      return ops::add(tape, ops::sum(tape, y), ops::sum(tape, z));
    };
    tape.backward(ops::add(tape, use(1), use(3)));
  };
  const auto stale = [&](Shape shape) {
    Tensor t = exec.empty(shape, Dtype::kF32);
    MANTISSA_RUN(exec, fill, t, double(NAN));
    return Sink(t, std::make_shared<bool>(true));
  };
  const Tensor zeros = exec.zeros({5, 4}, Dtype::kF32), none = exec.zeros({2}, Dtype::kF32);
  const Sink matrix = stale({5, 4}), vector = stale({2});
  for (int pass = 0; pass < 2; ++pass) {  // the second adds to the first
    play(zeros, none);
    play(matrix, vector);
    EXPECT_EQ(host(matrix.sum), host(zeros));
    EXPECT_EQ(host(vector.sum), host(none));
    EXPECT_FALSE(*matrix.fresh || *vector.fresh);
  }
  EXPECT_EQ(host(none), (std::vector<float>{20, 28}));
}

TEST(Tape, WithoutRecordingNothingIsKept) {
  Exec exec(cpu());
  Tape tape(exec, false);
  const Var x = tape.leaf(vec({1, 2, 3}));
  ops::sum(tape, x);  // kernels keep their scratch memory
  const size_t before = cpu().memory().in_use;
  {
    const Var y = ops::sum(tape, ops::exp(tape, ops::mul(tape, x, x)));
    EXPECT_FALSE(y.requires_grad());
    EXPECT_NE(message_of([&] { tape.backward(y); }).find("[backward]"), std::string::npos);
  }
  EXPECT_EQ(tape.records(), 0u);
  EXPECT_EQ(cpu().memory().in_use, before);
}

TEST(Tape, ConstantsAndStoppedGradientsLeaveNoRecord) {
  Exec exec(cpu());
  Tape tape(exec, true);
  const Var x = tape.leaf(vec({1, 2}));
  ops::mul(tape, ops::stop_gradient(x), Var(vec({1, 1})));
  ops::within(tape, x, 0, 1);
  ops::less_equal(tape, x, x);
  EXPECT_EQ(tape.records(), 0u);
}

TEST(Tape, MinimumAndMaximumGiveTiesToTheFirst) {
  Exec exec(cpu());
  Tape tape(exec, true);
  const Var a = tape.leaf(vec({1, 2, 3})), b = tape.leaf(vec({3, 2, 1}));
  const Var y = ops::add(tape, ops::minimum(tape, a, b), ops::affine(tape, ops::maximum(tape, a, b), 10));
  tape.backward(ops::sum(tape, y));
  EXPECT_EQ(host(a.grad()), (std::vector<float>{1, 11, 10}));
  EXPECT_EQ(host(b.grad()), (std::vector<float>{10, 0, 1}));
}

TEST(Tape, BackwardRunsOnceFromOneElement) {
  Exec exec(cpu());
  Tape tape(exec, true);
  const Var x = tape.leaf(vec({1, 2}));
  EXPECT_NE(message_of([&] { tape.backward(x); }).find("one element: got shape [2]"), std::string::npos);
  const Var y = ops::sum(tape, x);
  EXPECT_NE(message_of([&] { tape.backward(ops::sum(tape, Var(vec({1})))); }).find("no parameter"), std::string::npos);
  tape.backward(y);
  EXPECT_EQ(tape.records(), 0u);
  EXPECT_NE(message_of([&] { tape.backward(y); }).find("once"), std::string::npos);
}

TEST(Tape, OpsNameTheRuleAndTheValue) {
  Exec exec(cpu());
  Tape tape(exec, true);
  const Var a(vec({1, 2})), b(vec({1, 2, 3})), m(exec.zeros({2, 3}, Dtype::kF32));
  EXPECT_EQ(message_of([&] { ops::add(tape, a, b); }), "[add] b must have shape [2]: got [3]");
  EXPECT_NE(message_of([&] {
              ops::linear(tape, m, Var(exec.zeros({4, 5}, Dtype::kF32)));
            }).find("agree in K: got [2,3] and [4,5]"),
            std::string::npos);
  EXPECT_NE(
      message_of([&] { ops::linear(tape, m, Var(exec.zeros({4, 3}, Dtype::kF16))); }).find("must be fp32: got fp16"),
      std::string::npos);
  EXPECT_NE(message_of([&] { ops::rms_norm(tape, m, a, 1e-6); }).find("[rms_norm] w must have shape [3]"),
            std::string::npos);
  EXPECT_NE(message_of([&] { ops::swiglu(tape, m); }).find("even width"), std::string::npos);
  EXPECT_NE(message_of([&] { ops::attention(tape, m, ints({0, 2}), {3, 2, 8}); }).find("divide"), std::string::npos);
  EXPECT_NE(message_of([&] { tape.param(vec({1}), vec({1, 2})); }).find("[param]"), std::string::npos);
}

/// Counts kernel calls on top of the CPU backend.
class CountingBackend : public Backend {
 public:
  CountingBackend() : kernels_(cpu().kernels()) {
    kernels_.swiglu_fwd = [](Exec& e, Tensor& out, const Tensor& in) {
      ++swiglus;
      cpu().kernels().swiglu_fwd(e, out, in);
    };
    kernels_.rms_norm_fwd = [](Exec& e, Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& w, double eps) {
      ++norms;
      cpu().kernels().rms_norm_fwd(e, y, rstd, x, w, eps);
    };
    kernels_.matmul = [](Exec& e, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, bool accumulate) {
      ++matmuls;
      cpu().kernels().matmul(e, c, a, b, trans, accumulate);
    };
    kernels_.binary = [](Exec& e, Tensor& out, const Tensor& a, const Tensor& b, Binary op) {
      additions += op == Binary::kAdd;
      cpu().kernels().binary(e, out, a, b, op);
    };
    swiglus = norms = matmuls = additions = 0;
  }
  const std::string& name() const override { return cpu().name(); }
  const Kernels& kernels() const override { return kernels_; }
  std::shared_ptr<Storage> allocate(size_t bytes) override { return cpu().allocate(bytes); }
  void copy_from_host(void* dst, const void* src, size_t n) override { cpu().copy_from_host(dst, src, n); }
  void copy_to_host(void* dst, const void* src, size_t n) override { cpu().copy_to_host(dst, src, n); }
  void copy(void* dst, const void* src, size_t n) override { cpu().copy(dst, src, n); }
  void zero(void* dst, size_t n) override { cpu().zero(dst, n); }
  void synchronize() override {}
  MemoryInfo memory() const override { return cpu().memory(); }
  void reset_peak() override { cpu().reset_peak(); }
  std::string description() const override { return "counting"; }

  static inline int swiglus, norms, matmuls, additions;

 private:
  Kernels kernels_;
};

/// A residual stack of norm -> gate_up -> swiglu -> down, by the tier.
struct Stack {
  static constexpr int64_t kRows = 64, kWidth = 24, kHidden = 48;
  static constexpr int kLayers = 6;

  explicit Stack(Exec& exec, Dtype dtype) : exec(exec), x(uniform(exec, {kRows, kWidth}, dtype, 1)) {
    for (int i = 0; i < kLayers; ++i) {
      weights.push_back({uniform(exec, {kWidth}, dtype, 10 + i),
                         uniform(exec, {2 * kHidden, kWidth}, dtype, 20 + i, 0.3f),
                         uniform(exec, {kWidth, kHidden}, dtype, 30 + i, 0.3f)});
      for (const Tensor& w : weights.back()) sinks.push_back(exec.zeros(w.shape(), Dtype::kF32));
    }
  }

  Var layer(Tape& tape, int i, const Var& x) const {
    Tape::Scope scope(tape, str("layers.", i));
    const auto w = [&](int k) { return tape.param(weights[size_t(i)][size_t(k)], sinks[size_t(3 * i + k)]); };
    Tape::Scope inner(tape, "mlp");
    const Var gate_up = ops::linear_recomputable(tape, ops::rms_norm(tape, x, w(0), 1e-5), w(1));
    return ops::add(tape, x, ops::linear(tape, ops::swiglu(tape, gate_up), w(2)));
  }

  /// Loss of a forward pass; gradients go to the sinks and the returned leaf.
  Var run(Recompute tier, Observer observer = nullptr) {
    for (Tensor& sink : sinks) MANTISSA_RUN(exec, fill, sink, 0.0);
    Tape tape(exec, true, tier);
    tape.set_observer(std::move(observer));
    const Var leaf = tape.leaf(x);
    Var h = leaf;
    for (int i = 0; i < kLayers; ++i) {
      if (tier == Recompute::kFull)
        h = tape.checkpoint([this, i](Tape& t, std::span<const Var> in) { return std::vector{layer(t, i, in[0])}; },
                            {h})[0];
      else
        h = layer(tape, i, h);
    }
    const Var loss = ops::sum(tape, ops::mul(tape, h, h));
    h = Var();
    tape.backward(loss);
    return leaf;
  }

  Exec& exec;
  Tensor x;
  std::vector<std::vector<Tensor>> weights;
  std::vector<Tensor> sinks;
};

constexpr Recompute kTiers[] = {Recompute::kNone, Recompute::kElementwise, Recompute::kMlp, Recompute::kFull};

TEST(Tape, EveryTierGivesTheSameBits) {
  Exec exec(cpu());
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    Stack stack(exec, dtype);
    std::vector<std::vector<char>> expected;
    for (Recompute tier : kTiers) {
      std::vector<std::vector<char>> got{bits(stack.run(tier).grad())};
      for (const Tensor& sink : stack.sinks) got.push_back(bits(sink));
      if (tier == Recompute::kNone) expected = got;
      EXPECT_EQ(got, expected) << "tier " << int(tier) << " " << name_of(dtype);
    }
  }
}

TEST(Tape, TiersTradeMemoryAndBackwardFreesAll) {
  Exec exec(cpu());
  Stack stack(exec, Dtype::kF32);
  stack.run(Recompute::kNone);  // kernels keep their scratch memory
  std::vector<size_t> peaks;
  for (Recompute tier : kTiers) {
    const size_t before = cpu().memory().in_use;
    cpu().reset_peak();
    stack.run(tier);
    EXPECT_EQ(cpu().memory().in_use, before) << "tier " << int(tier);
    peaks.push_back(cpu().memory().peak);
  }
  EXPECT_LT(peaks[1], peaks[0]);
  EXPECT_LT(peaks[2], peaks[1]);
  EXPECT_LT(peaks[3], peaks[1]);  // without attention kMlp keeps the layers' inputs alone, too
}

TEST(Tape, ValuesAreRemadeAtMostOnce) {
  CountingBackend backend;
  Exec exec(backend);
  Stack stack(exec, Dtype::kF32);
  constexpr int kLayers = Stack::kLayers;
  // Three products a matmul layer (forward, dx, dw), plus the remade ones.
  const int expected[][3] = {{1, 1, 6}, {2, 2, 6}, {2, 2, 7}, {2, 2, 8}};
  for (size_t tier = 0; tier < 4; ++tier) {
    CountingBackend::swiglus = CountingBackend::norms = CountingBackend::matmuls = 0;
    stack.run(kTiers[tier]);
    EXPECT_EQ(CountingBackend::swiglus, expected[tier][0] * kLayers) << tier;
    EXPECT_EQ(CountingBackend::norms, expected[tier][1] * kLayers) << tier;
    EXPECT_EQ(CountingBackend::matmuls, expected[tier][2] * kLayers) << tier;
  }
}

TEST(Tape, AResidualStreamsGradientsCostNoAddition) {
  CountingBackend backend;
  Exec exec(backend);
  Stack stack(exec, Dtype::kF16);
  for (const Recompute tier : kTiers) {
    CountingBackend::additions = 0;
    stack.run(tier);
    const int forwards = tier == Recompute::kFull ? 2 : 1;
    EXPECT_EQ(CountingBackend::additions, forwards * Stack::kLayers + 1) << int(tier);  // and that of mul(h, h)
  }
}

TEST(Tape, FrozenWeightsCostNoGradient) {
  CountingBackend backend;
  Exec exec(backend);
  Tape tape(exec, true);
  const Var x = tape.leaf(uniform(exec, {3, 4}, Dtype::kF32, 1));
  const Var y = ops::linear(tape, x, tape.param(uniform(exec, {5, 4}, Dtype::kF32, 2), Tensor()));
  tape.backward(ops::sum(tape, y));
  EXPECT_EQ(CountingBackend::matmuls, 2);  // forward and dx
  EXPECT_TRUE(x.grad().defined());
}

TEST(Tape, CheckpointOfFrozenPartsIsSilent) {
  Exec exec(cpu());
  Tape tape(exec, true);
  const Var x = tape.leaf(vec({1, 2}));
  const Var frozen = tape.checkpoint([](Tape& t, std::span<const Var> in) { return std::vector{ops::exp(t, in[0])}; },
                                     {Var(vec({0, 0}))})[0];
  tape.backward(ops::sum(tape, ops::mul(tape, x, frozen)));
  EXPECT_EQ(host(x.grad()), (std::vector<float>{1, 1}));
}

TEST(Tape, ObserverSeesScopesOpsAndDirections) {
  Exec exec(cpu());
  Stack stack(exec, Dtype::kF32);
  for (Recompute tier : {Recompute::kNone, Recompute::kFull}) {
    std::vector<std::string> seen;
    stack.run(tier,
              [&](const Observation& o) { seen.push_back(str(o.scope, "/", o.op, o.backward ? "/backward" : "")); });
    const auto count = [&](const std::string& what) { return std::count(seen.begin(), seen.end(), what); };
    const int forwards = tier == Recompute::kFull ? 2 : 1;
    EXPECT_EQ(count("layers.3.mlp/swiglu"), forwards);
    EXPECT_EQ(count("layers.3.mlp/swiglu/backward"), 1);
    EXPECT_EQ(count("layers.0.mlp/rms_norm/backward"), 2);  // dx and dw
    EXPECT_EQ(count("/sum"), 1);
  }
}

TEST(Tape, TheFirstOverflowIsNamed) {
  Exec exec(cpu());
  {
    Stack stack(exec, Dtype::kF16);
    NonFiniteReport report;
    stack.run(Recompute::kNone, find_first_nonfinite(exec, report));
    EXPECT_FALSE(report.found) << report.text();
    stack.weights[3][2].data<Half>()[5] = half_from_float(INFINITY);
    stack.run(Recompute::kNone, find_first_nonfinite(exec, report));
    EXPECT_EQ(report.scope, "layers.3.mlp");
    EXPECT_EQ(report.op, "linear");
    EXPECT_FALSE(report.backward);
    EXPECT_EQ(report.text().find("layers.3.mlp linear forward: "), 0u) << report.text();
  }
  NonFiniteReport report;
  Tape tape(exec, true);
  tape.set_observer(find_first_nonfinite(exec, report));
  const Var x = tape.leaf(uniform(exec, {4}, Dtype::kF16, 1));
  Tape::Scope scope(tape, "head");
  const Var y = ops::affine(tape, ops::cast(tape, ops::affine(tape, x, 1000), Dtype::kF32), 1000);
  tape.backward(ops::sum(tape, y));  // 1000 * 1000 does not fit in fp16
  EXPECT_EQ(report.text(), "head affine backward: inf at element 0 of fp16 [4]");
}

}  // namespace
}  // namespace mantissa
