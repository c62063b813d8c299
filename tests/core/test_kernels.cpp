// CPU kernels that the op table does not reach, or not in this form: the step's state machine, AdamW's numbers,
// segments and row moves, mixed types, non-finite values, and the promise that bits depend on neither threads nor
// instruction set.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "core/cpu/simd.h"
#include "tests/support/kernel_test.h"

namespace mantissa {
namespace {

// ---- optimizer --------------------------------------------------------------------------------------------

class StepTest : public KernelTest {
 protected:
  /// One step with the given gradient; returns the record after it.
  StepState step(const std::vector<float>& gradient, double max_norm = 0.0) {
    MANTISSA_RUN(exec_, grad_stats, state_, floats(gradient));
    MANTISSA_RUN(exec_, step_decide, state_, rule_, max_norm);
    return state_of(state_);
  }
  ScalerRule rule_{.dynamic = true, .growth_interval = 3, .min_scale = 0.5f, .max_scale = 8.0f};
  Tensor state_ = state_tensor({.loss_scale = 4.0f});
};

TEST_F(StepTest, NormIsOfTheUnscaledGradientAndClipsIt) {
  StepState s = step({12.0f, -16.0f}, 10.0);
  EXPECT_EQ(s.grad_norm, 5.0f);
  EXPECT_EQ(s.grad_factor, 0.25f);
  s = step({12.0f, -16.0f}, 1.0);
  EXPECT_EQ(s.grad_factor, 0.05f);
  s = step({12.0f, -16.0f}, 0.0);  // no clipping
  EXPECT_EQ(s.grad_factor, 0.25f);
  EXPECT_EQ(s.adam_step, 3);
  EXPECT_EQ(s.sum_squares, 0.0);
  EXPECT_EQ(step({0.0f}, 1.0).grad_factor, 0.125f);  // of the grown scale; a zero gradient is clean
}

TEST_F(StepTest, StatisticsAddUpOverBuffers) {
  MANTISSA_RUN(exec_, grad_stats, state_, floats({12.0f}));
  EXPECT_EQ(step({-16.0f}).grad_norm, 5.0f);
  MANTISSA_RUN(exec_, grad_stats, state_, floats({kInf}));
  EXPECT_EQ(step({1.0f}).overflow, 1);
  EXPECT_EQ(step({1.0f}).overflow, 0);
}

TEST_F(StepTest, ScaleGrowsAfterTheIntervalUpToTheMaximum) {
  step({1.0f});
  EXPECT_EQ(step({1.0f}).good_steps, 2);
  StepState s = step({1.0f});
  EXPECT_EQ(s.loss_scale, 8.0f);
  EXPECT_EQ(s.grad_factor, 0.25f);  // the gradient was made at 4
  EXPECT_EQ(s.good_steps, 0);
  for (int i = 0; i < 3; ++i) s = step({1.0f});
  EXPECT_EQ(s.loss_scale, 8.0f);
  EXPECT_EQ(s.good_steps, 0);
}

TEST_F(StepTest, OverflowHalvesTheScaleDownToTheMinimumAndNothingElseAdvances) {
  step({1.0f});
  for (float bad : {kInf, -kInf, kNan}) {
    const StepState before = state_of(state_);
    std::vector<float> gradient(70000, 1.0f);
    gradient[69999] = bad;
    const StepState s = step(gradient, 1.0);
    EXPECT_EQ(s.overflow, 1);
    EXPECT_EQ(s.loss_scale, before.loss_scale * 0.5f);
    EXPECT_EQ(s.good_steps, 0);
    EXPECT_EQ(s.skips_in_row, before.skips_in_row + 1);
    EXPECT_EQ(s.skips_total, before.skips_total + 1);
    EXPECT_EQ(s.adam_step, 1);
    EXPECT_FALSE(std::isfinite(s.grad_norm));
  }
  EXPECT_EQ(step({kNan}).loss_scale, 0.5f);  // the minimum
  const StepState s = step({1.0f});
  EXPECT_EQ(s.overflow, 0);
  EXPECT_EQ(s.skips_in_row, 0);
  EXPECT_EQ(s.skips_total, 4);
  EXPECT_EQ(s.adam_step, 2);
}

TEST_F(StepTest, HugeFiniteGradientsAreNotAnOverflow) {
  const StepState s = step(std::vector<float>(1000, 3e37f), 1.0);
  EXPECT_EQ(s.overflow, 0);
  EXPECT_NEAR(s.grad_norm / (3e37 * std::sqrt(1000.0) / 4), 1.0, 1e-5);
  EXPECT_GT(s.grad_factor, 0.0f);
}

TEST_F(KernelTest, AdamWFollowsItsFormula) {
  const int64_t n = 37;
  const Tensor start = random({n}, 5), grad = random({n}, 6, Dtype::kF32, 100.0f);
  const AdamWRule rule{0.9f, 0.95f, 1e-8f, 0.1f};
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    Tensor master = floats(to_host<float>(start)), m = exec_.zeros({n}, Dtype::kF32), v = exec_.zeros({n}, Dtype::kF32),
           compute = exec_.empty({n}, dtype);
    std::vector<double> w, first(size_t(n), 0.0), second(size_t(n), 0.0);
    for (float x : to_host<float>(start)) w.push_back(double(x));
    for (int t = 1; t <= 5; ++t) {
      const double lr = 0.01 * t, factor = 0.02;
      const Tensor state = state_tensor({.grad_factor = float(factor), .adam_step = t, .lr = float(lr)});
      MANTISSA_RUN(exec_, adamw, master, m, v, compute, grad, state, rule);
      for (size_t i = 0; i < size_t(n); ++i) {
        const double g = factor * double(grad.data<float>()[i]);
        first[i] = 0.9 * first[i] + 0.1 * g;
        second[i] = 0.95 * second[i] + 0.05 * g * g;
        const double mean = first[i] / (1 - std::pow(0.9, t)), square = second[i] / (1 - std::pow(0.95, t));
        w[i] -= lr * (mean / (std::sqrt(square) + 1e-8) + 0.1 * w[i]);
      }
    }
    Tensor rounded = exec_.empty({n}, dtype);
    MANTISSA_RUN(exec_, cast, rounded, master);
    EXPECT_EQ(std::memcmp(rounded.raw(), compute.raw(), compute.bytes()), 0);
    for (size_t i = 0; i < size_t(n); ++i) EXPECT_NEAR(master.data<float>()[i], w[i], 2e-6 * (1 + std::abs(w[i])));

    const std::vector<float> before = to_host<float>(master), m_before = to_host<float>(m);
    const Tensor skipped = state_tensor({.overflow = 1, .adam_step = 5, .lr = 1.0f});
    Tensor none;
    MANTISSA_RUN(exec_, adamw, master, m, v, none, grad, skipped, rule);
    EXPECT_EQ(to_host<float>(master), before);
    EXPECT_EQ(to_host<float>(m), m_before);
  }
}

// ---- elementwise ------------------------------------------------------------------------------------------

TEST_F(KernelTest, BinaryTakesMixedTypesAndRoundsOnce) {
  const std::vector<float> wide = {1.0f, 1.0f + 0x1p-12f, 70000.0f, 3.0f},
                           narrow = {0x1p-11f, 0x1p-11f, -6000.0f, 2.0f};
  const Tensor a = floats(wide), b = floats(narrow, {4}, Dtype::kF16);
  Tensor sum = exec_.empty({4}, Dtype::kF16), exact = exec_.empty({4}, Dtype::kF32);
  MANTISSA_RUN(exec_, binary, sum, a, b, Binary::kAdd);
  MANTISSA_RUN(exec_, binary, exact, a, b, Binary::kAdd);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(exact.data<float>()[i], wide[i] + to_float(b.data<Half>()[i]));
    EXPECT_EQ(sum.data<Half>()[i].bits, half_from_float(exact.data<float>()[i]).bits);
  }
  Tensor in_place = floats(wide);
  MANTISSA_RUN(exec_, binary, in_place, in_place, b, Binary::kMul);
  EXPECT_EQ(in_place.data<float>()[3], 6.0f);
}

TEST_F(KernelTest, ComparisonsAndTheirNaNs) {
  const Tensor a = floats({1.0f, 2.0f, kNan, 1.0f, 2.0f}), b = floats({2.0f, 1.0f, 1.0f, kNan, 2.0f});
  Tensor out = exec_.empty({5}, Dtype::kF32);
  MANTISSA_RUN(exec_, binary, out, a, b, Binary::kMin);
  const std::vector<float> low = to_host<float>(out);
  MANTISSA_RUN(exec_, binary, out, a, b, Binary::kMax);
  const std::vector<float> high = to_host<float>(out);
  EXPECT_EQ((std::vector<float>{low[0], low[1], low[4]}), (std::vector<float>{1, 1, 2}));
  EXPECT_EQ((std::vector<float>{high[0], high[1], high[4]}), (std::vector<float>{2, 2, 2}));
  for (size_t i : {2, 3}) EXPECT_TRUE(std::isnan(low[i]) && std::isnan(high[i]));
  MANTISSA_RUN(exec_, binary, out, a, b, Binary::kLessEqual);
  EXPECT_EQ(to_host<float>(out), (std::vector<float>{1, 0, 0, 0, 1}));
  MANTISSA_RUN(exec_, unary, out, a, Unary::kWithinMask, 1.0, 1.5);
  EXPECT_EQ(to_host<float>(out), (std::vector<float>{1, 0, 0, 1, 0}));
  MANTISSA_RUN(exec_, unary, out, a, Unary::kClamp, 1.25, 1.5);
  EXPECT_EQ(out.data<float>()[0], 1.25f);
  EXPECT_EQ(out.data<float>()[1], 1.5f);
  EXPECT_TRUE(std::isnan(out.data<float>()[2]));
}

TEST_F(KernelTest, SwigluAtTheEndsOfTheRange) {
  const Tensor gate_up = floats({-200.0f, 200.0f, -90.0f, 0.0f, 2.0f, 2.0f, 2.0f, 2.0f}, {1, 8});
  Tensor out = exec_.empty({1, 4}, Dtype::kF32), grad = exec_.empty({1, 8}, Dtype::kF32);
  MANTISSA_RUN(exec_, swiglu_fwd, out, gate_up);
  EXPECT_EQ(out.data<float>()[1], 400.0f);
  MANTISSA_RUN(exec_, swiglu_bwd, grad, floats({1, 1, 1, 1}, {1, 4}), gate_up);
  EXPECT_EQ(grad.data<float>()[3], 1.0f);
  EXPECT_EQ(grad.data<float>()[5], 200.0f);
  for (float x : to_host<float>(grad)) EXPECT_TRUE(std::isfinite(x));
}

TEST_F(KernelTest, SegmentsSumAndExpandEmptyOnesIncluded) {
  const Tensor in = floats({1, 2, 3, 4, 5}), offsets = ints({0, 2, 2, 5});
  Tensor sums = exec_.empty({3}, Dtype::kF32), spread = exec_.empty({5}, Dtype::kF32),
         total = exec_.empty({1}, Dtype::kF32);
  MANTISSA_RUN(exec_, segment_sum, sums, in, offsets);
  EXPECT_EQ(to_host<float>(sums), (std::vector<float>{3, 0, 12}));
  MANTISSA_RUN(exec_, segment_expand, spread, sums, offsets);
  EXPECT_EQ(to_host<float>(spread), (std::vector<float>{3, 3, 12, 12, 12}));
  MANTISSA_RUN(exec_, sum, total, floats({1, 2, 3, 4}, {4}, Dtype::kF16));
  EXPECT_EQ(total.data<float>()[0], 10.0f);
  // A segment's sum does not depend on where it lies.
  const Tensor x = random({9000}, 8);
  Tensor two = exec_.empty({2}, Dtype::kF32), one = exec_.empty({1}, Dtype::kF32);
  MANTISSA_RUN(exec_, segment_sum, two, x, ints({0, 3, 9000}));
  MANTISSA_RUN(exec_, segment_sum, one, x.slice(3, 9000), ints({0, 8997}));
  EXPECT_EQ(two.data<float>()[1], one.data<float>()[0]);
}

TEST_F(KernelTest, GatherAndScatterMoveRows) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    const Tensor in = floats({0, 1, 10, 11, 20, 21, 30, 31}, {4, 2}, dtype), rows = ints({3, 1});
    Tensor out = exec_.empty({2, 2}, dtype), back = exec_.zeros({4, 2}, dtype);
    MANTISSA_RUN(exec_, gather_rows, out, in, rows);
    EXPECT_EQ(to_host_float(out), (std::vector<float>{30, 31, 10, 11}));
    MANTISSA_RUN(exec_, scatter_rows, back, out, rows);
    MANTISSA_RUN(exec_, scatter_rows, back, out, rows);  // adds
    EXPECT_EQ(to_host_float(back), (std::vector<float>{0, 0, 20, 22, 0, 0, 60, 62}));
  }
}

TEST_F(KernelTest, FindNonfiniteNamesTheFirst) {
  Tensor index = exec_.empty({1}, Dtype::kI32);
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF64})
    for (float bad : {kInf, -kInf, kNan}) {
      std::vector<float> values(10007, 60000.0f);
      Tensor t = floats(values, {10007}, dtype);
      MANTISSA_RUN(exec_, find_nonfinite, index, t);
      EXPECT_EQ(index.data<int32_t>()[0], -1);
      for (int at : {10006, 7001, 7000, 0}) {
        values[size_t(at)] = bad;
        t = floats(values, {10007}, dtype);
        MANTISSA_RUN(exec_, find_nonfinite, index, t);
        EXPECT_EQ(index.data<int32_t>()[0], at) << name_of(dtype);
      }
    }
}

TEST_F(KernelTest, FindDifferenceComparesBits) {
  const auto expect = [&](const std::vector<float>& a, const std::vector<float>& b, Difference want) {
    Tensor found = exec_.empty({4}, Dtype::kI32);
    MANTISSA_RUN(exec_, find_difference, found, floats(a), floats(b));
    const Difference got = *static_cast<const Difference*>(found.raw());
    EXPECT_TRUE(got.count == want.count && got.first == want.first && got.not_finite == want.not_finite &&
                got.largest == want.largest)
        << got.count << ' ' << got.first << ' ' << got.not_finite << ' ' << got.largest;
  };
  expect({-1, 0, -2}, {-1, 0, -2}, {});
  expect({-1, 0, -2}, {-1, -0.0f, -2.5f}, {2, 1, 0, 0.5f});
  expect({kNan, -1, kInf}, {kNan, -1, kInf}, {0, -1, 2, 0});
  expect({-1, -kInf, -3}, {-1.25f, -2, -3}, {2, 0, 1, kInf});
  expect({-1, -2}, {-1, kNan}, {1, 1, 0, kInf});
}

TEST_F(KernelTest, FillRoundsAndFillsEveryType) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF64}) {
    Tensor t = exec_.empty({5000}, dtype);
    MANTISSA_RUN(exec_, fill, t, 1.5);
    for (float x : to_host_float(t)) ASSERT_EQ(x, 1.5f);
  }
  EXPECT_EQ(to_host<int32_t>(exec_.zeros({3}, Dtype::kI32)), (std::vector<int32_t>{0, 0, 0}));
}

TEST_F(KernelTest, RmsNormReadsAWiderResidual) {
  const int64_t rows = 3, width = 130;
  const Tensor x = random({rows, width}, 9, Dtype::kF32, 300.0f), w = random({width}, 10, Dtype::kF16);
  Tensor y = exec_.empty({rows, width}, Dtype::kF16), rstd = exec_.empty({rows}, Dtype::kF32);
  MANTISSA_RUN(exec_, rms_norm_fwd, y, rstd, x, w, 1e-5);  // squares leave the range of fp16
  for (int64_t t = 0; t < rows; ++t) {
    const float* row = x.data<float>() + t * width;
    double squares = 0.0;
    for (int64_t c = 0; c < width; ++c) squares += double(row[c]) * double(row[c]);
    const double r = 1.0 / std::sqrt(squares / double(width) + 1e-5);
    EXPECT_NEAR(rstd.data<float>()[t] / r, 1.0, 1e-6);
    for (int64_t c = 0; c < width; ++c) {
      const double exact = double(row[c]) * r * double(to_float(w.data<Half>()[c]));
      EXPECT_NEAR(to_float(y.data<Half>()[t * width + c]), exact, std::abs(exact) * 0x1.01p-11 + 1e-7);
    }
  }
}

TEST_F(KernelTest, GradientsOfWeightsAreAdded) {
  Tensor table = floats({1, 1, 1, 1, 1, 1}, {3, 2}), bias = floats({1, 1});
  const Tensor dout = floats({1, 2, 3, 4, 5, 6}, {3, 2}, Dtype::kF16);
  MANTISSA_RUN(exec_, embedding_bwd, table, dout, ints({2, 0, 2}));
  EXPECT_EQ(to_host<float>(table), (std::vector<float>{4, 5, 1, 1, 7, 9}));
  MANTISSA_RUN(exec_, bias_bwd, bias, dout);
  EXPECT_EQ(to_host<float>(bias), (std::vector<float>{10, 13}));
}

// ---- bits -------------------------------------------------------------------------------------------------

TEST_F(KernelTest, BitsDependOnNeitherThreadsNorInstructionSet) {
  const int64_t rows = 150, width = 333, vocab = 2500;
  const auto run = [&](Dtype dtype) {
    const Tensor x = random({rows, width}, 20, dtype), dy = random({rows, width}, 21, dtype),
                 w = random({width}, 22, dtype);
    Tensor y = exec_.empty(x.shape(), dtype), dx = exec_.empty(x.shape(), dtype),
           rstd = exec_.empty({rows}, Dtype::kF32), dw = exec_.zeros({width}, Dtype::kF32),
           dbias = exec_.zeros({width}, Dtype::kF32), total = exec_.empty({1}, Dtype::kF32);
    MANTISSA_RUN(exec_, rms_norm_fwd, y, rstd, x, w, 1e-6);
    MANTISSA_RUN(exec_, rms_norm_bwd, dx, dw, dy, x, w, rstd, y);
    MANTISSA_RUN(exec_, bias_bwd, dbias, dy);
    MANTISSA_RUN(exec_, sum, total, x);
    const Heads heads{2, 1, 8};
    const Tensor qkv = random({rows, heads.row()}, 23, dtype), head_w = random({8}, 24, dtype);
    Tensor normed = exec_.empty(qkv.shape(), dtype), head_rstd = exec_.empty({rows, 3}, Dtype::kF32),
           dqkv = exec_.empty(qkv.shape(), dtype), dqw = exec_.zeros({8}, Dtype::kF32),
           dkw = exec_.zeros({8}, Dtype::kF32);
    MANTISSA_RUN(exec_, qk_norm_fwd, normed, head_rstd, qkv, head_w, head_w, heads, 1e-6);
    MANTISSA_RUN(exec_, qk_norm_bwd, dqkv, dqw, dkw, normed, qkv, head_w, head_w, head_rstd, heads);
    const Tensor gate_up = random({rows, 2 * width}, 25, dtype);
    Tensor act = exec_.empty({rows, width}, dtype), dgate_up = exec_.empty(gate_up.shape(), dtype),
           power = exec_.empty(x.shape(), dtype);
    MANTISSA_RUN(exec_, swiglu_fwd, act, gate_up);
    MANTISSA_RUN(exec_, swiglu_bwd, dgate_up, dy, gate_up);
    MANTISSA_RUN(exec_, unary, power, x, Unary::kExp, 0.0, 0.0);
    const Tensor logits = random({20, vocab}, 26);
    const Draw draw = sample(logits, {.temperature = 0.9}), filtered = sample(logits, {.top_p = 0.9f, .top_k = 30});
    const Tensor ids = ints(draw.tokens);
    Tensor logprob = exec_.empty({20}, Dtype::kF32), entropy = exec_.empty({20}, Dtype::kF32),
           lse = exec_.empty({20}, Dtype::kF32), dlogits = exec_.empty({20, vocab}, dtype);
    MANTISSA_RUN(exec_, logprob_fwd, logprob, entropy, lse, logits, ids, 1.0 / 0.9);
    MANTISSA_RUN(exec_, logprob_bwd, dlogits, logits, lse, entropy, ids, logprob, entropy, Tensor(), 1.0 / 0.9);
    Tensor dtable = exec_.zeros({vocab, width}, Dtype::kF32);
    MANTISSA_RUN(exec_, embedding_bwd, dtable, x.slice(0, 20), ids);
    const int64_t n = 70001;
    Tensor master = random({n}, 27), m = exec_.zeros({n}, Dtype::kF32), v = exec_.zeros({n}, Dtype::kF32),
           copy = exec_.empty({n}, dtype), state = state_tensor({.lr = 0.1f});
    const Tensor grad = random({n}, 28);
    MANTISSA_RUN(exec_, grad_stats, state, grad);
    MANTISSA_RUN(exec_, step_decide, state, ScalerRule{}, 1.0);
    MANTISSA_RUN(exec_, adamw, master, m, v, copy, grad, state, AdamWRule{});
    std::vector<std::vector<char>> bits;
    for (const Tensor& t : {y,        dx,
                            rstd,     dw,
                            dbias,    total,
                            normed,   head_rstd,
                            dqkv,     dqw,
                            dkw,      act,
                            dgate_up, power,
                            logprob,  entropy,
                            lse,      dlogits,
                            dtable,   master,
                            m,        v,
                            copy,     state,
                            ids,      ints(filtered.tokens)}) {
      bits.emplace_back(t.bytes());
      std::memcpy(bits.back().data(), t.raw(), t.bytes());
    }
    return bits;
  };
  const int threads = omp_get_max_threads();
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    omp_set_num_threads(1);
    const auto expected = run(dtype);
    for (int count : {2, 5}) {
      omp_set_num_threads(count);
      EXPECT_TRUE(run(dtype) == expected) << name_of(dtype) << " with " << count << " threads";
    }
    for (const char* level : {"avx2", "scalar"}) {
      limit_simd(level);
      EXPECT_TRUE(run(dtype) == expected) << name_of(dtype) << " with " << level;
      limit_simd(nullptr);
    }
  }
  omp_set_num_threads(threads);
}

}  // namespace
}  // namespace mantissa
