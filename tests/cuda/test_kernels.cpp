// The elementwise, norm and optimizer kernels of the CUDA backend against those of the CPU. Where the arithmetic is the
// same the bits must be; elsewhere the bound is one rounding and the error of a sum in another order.
#include <bit>
#include <cmath>

#include "core/registry.h"
#include "tests/support/cuda_kernels.h"

namespace mantissa {
namespace {

// One element, less than a pack, around a tile, several blocks with a rest.
constexpr int64_t kSizes[] = {1, 7, 1024, 4099, 70001};

TEST_F(CudaKernels, FillAndCast) {
  for (int64_t n : kSizes)
    for (Dtype to : kTypes) {
      for (double value : {0.0, -0.0, 1.0 / 3, 1e9})
        same({n}, to, {}, [&](Exec& e, Tensor& out, const auto&) { MANTISSA_RUN(e, fill, out, value); });
      for (Dtype from : kTypes) {
        Tensor in = random({n}, from, 1, 100.0f);
        same({n}, to, {in}, [](Exec& e, Tensor& out, const auto& x) { MANTISSA_RUN(e, cast, out, x[0]); });
      }
    }
  same({1000}, Dtype::kI32, {}, [&](Exec& e, Tensor& out, const auto&) { MANTISSA_RUN(e, fill, out, -7.0); });
}

TEST_F(CudaKernels, CastRoundsEveryHalfwayCaseAndKeepsTheEnds) {
  std::vector<float> values = {0.0f,      -0.0f,    INFINITY, -INFINITY, 65504.0f,
                               65519.99f, 65520.0f, 1e-8f,    0x1p-25f,  0x1p-24f};
  for (uint32_t bits = 0x33000000u; bits < 0x47900000u; bits += 0x7ff) values.push_back(std::bit_cast<float>(bits));
  const Tensor in = tensor_from<float>(cpu(), values, {int64_t(values.size())});
  for (Dtype to : {Dtype::kF16, Dtype::kBF16})
    same(in.shape(), to, {in}, [](Exec& e, Tensor& out, const auto& x) { MANTISSA_RUN(e, cast, out, x[0]); });
}

TEST_F(CudaKernels, BinaryInAllTypes) {
  for (int64_t n : kSizes)
    for (Dtype to : kTypes)
      for (Dtype left : kTypes)
        for (Dtype right : kTypes) {
          const Tensor a = random({n}, left, 1), b = random({n}, right, 2);
          for (Binary op : {Binary::kAdd, Binary::kSub, Binary::kMul, Binary::kMin, Binary::kMax, Binary::kLessEqual})
            same({n}, to, {a, b},
                 [&](Exec& e, Tensor& out, const auto& x) { MANTISSA_RUN(e, binary, out, x[0], x[1], op); });
        }
}

TEST_F(CudaKernels, MinimumAndMaximumKeepNaN) {
  const Tensor a = tensor_from<float>(cpu(), std::vector<float>{NAN, 1, NAN, -INFINITY}, {4}),
               b = tensor_from<float>(cpu(), std::vector<float>{2, NAN, NAN, 3}, {4});
  for (Binary op : {Binary::kMin, Binary::kMax})
    close({4}, Dtype::kF32, {a, b}, 0, 1,
          [&](Exec& e, Tensor& out, const auto& x) { MANTISSA_RUN(e, binary, out, x[0], x[1], op); });
}

TEST_F(CudaKernels, UnalignedSlicesAndAliases) {
  for (Dtype dtype : kTypes) {
    const Tensor a = random({4099, 3}, dtype, 1), b = random({4099, 3}, dtype, 2);
    same({4098, 3}, dtype, {a, b}, [](Exec& e, Tensor& out, const auto& x) {
      MANTISSA_RUN(e, binary, out, x[0].slice(1, 4099), x[1].slice(0, 4098), Binary::kAdd);
    });
    same(
        {4099, 3}, dtype, {b},
        [](Exec& e, Tensor& out, const auto& x) { MANTISSA_RUN(e, binary, out, out, x[0], Binary::kSub); }, a);
  }
}

TEST_F(CudaKernels, Unary) {
  for (int64_t n : kSizes)
    for (Dtype dtype : kTypes) {
      const Tensor x = random({n}, dtype, 3, 2.0f);
      for (Unary op : {Unary::kAffine, Unary::kClamp, Unary::kWithinMask})
        same({n}, dtype, {x},
             [&](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, unary, out, in[0], op, -0.5, 0.75); });
      close({n}, dtype, {x}, 2 * unit_of(dtype) + 0x1p-21, 0,
            [&](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, unary, out, in[0], Unary::kExp, 0.0, 0.0); });
    }
}

TEST_F(CudaKernels, BiasAndSwiglu) {
  for (auto [rows, width] : {std::pair<int64_t, int64_t>{1, 1}, {3, 33}, {130, 8}, {300, 264}, {1000, 2048}})
    for (Dtype dtype : kTypes) {
      const Tensor x = random({rows, width}, dtype, 1), bias = random({width}, dtype, 2);
      same({rows, width}, dtype, {x, bias},
           [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, add_bias, out, in[0], in[1]); });
      close(
          {width}, Dtype::kF32, {x}, 1e-5, double(std::sqrt(rows)),
          [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, bias_bwd, out, in[0]); },
          random({width}, Dtype::kF32, 4));
      const Tensor gate_up = random({rows, 2 * width}, dtype, 5, 3.0f), dout = random({rows, width}, dtype, 6);
      close({rows, width}, dtype, {gate_up}, 2.1 * unit_of(dtype) + 1e-6, 1e-4,
            [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, swiglu_fwd, out, in[0]); });
      close({rows, 2 * width}, dtype, {dout, gate_up}, 2.1 * unit_of(dtype) + 4e-6, 1.0,
            [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, swiglu_bwd, out, in[0], in[1]); });
    }
}

TEST_F(CudaKernels, SumsAndSegments) {
  for (int64_t n : kSizes)
    for (Dtype dtype : kTypes) {
      const Tensor x = random({n}, dtype, 1);
      close({1}, Dtype::kF32, {x}, 2e-6, double(n),
            [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, sum, out, in[0]); });
      const Tensor offsets = ints({0, int32_t(n / 3), int32_t(n / 3), int32_t(n - n / 5), int32_t(n)});
      close({4}, Dtype::kF32, {x, offsets}, 2e-6, double(n),
            [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, segment_sum, out, in[0], in[1]); });
      same({n}, dtype, {random({4}, dtype, 2), offsets},
           [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, segment_expand, out, in[0], in[1]); });
    }
}

TEST_F(CudaKernels, GatherAndScatterRows) {
  for (int64_t width : {1, 5, 8, 1536})
    for (Dtype dtype : kTypes) {
      const Tensor table = random({50, width}, dtype, 1), few = random({4, width}, dtype, 2),
                   rows = ints({49, 0, 7, 8});
      same({4, width}, dtype, {table, rows},
           [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, gather_rows, out, in[0], in[1]); });
      same(
          {50, width}, dtype, {few, rows},
          [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, scatter_rows, out, in[0], in[1]); }, table);
    }
  const Tensor table = ints({1, 2, 3, 4, 5, 6}, {3, 2}), rows = ints({2, 0});
  same({2, 2}, Dtype::kI32, {table, rows},
       [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, gather_rows, out, in[0], in[1]); });
}

TEST_F(CudaKernels, CopyColumns) {
  for (const int64_t n : {1, 7, 8, 264})
    for (Dtype dtype : kTypes)
      for (const int64_t from : {0, 3, 16}) {
        const Tensor x = random({9, 280}, dtype, 1), old = random({9, n + 8}, Dtype::kF32, 2);
        same(
            {9, n + 8}, Dtype::kF32, {x},
            [&](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, copy_columns, out, 8, in[0], from, n); }, old);
        same({9, n}, dtype, {random({9, 280}, Dtype::kF32, 3)},
             [&](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, copy_columns, out, 0, in[0], from, n); });
      }
}

TEST_F(CudaKernels, Dropout) {
  const Tensor key = ints({-5, 77}), rows = ints({0, 0, 3, 1, -1, 70000}, {3, 2});
  for (const int64_t width : {1, 5, 8, 1536})
    for (Dtype dtype : kTypes)
      same({3, width}, dtype, {random({3, width}, dtype, 1), rows, key},
           [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, dropout, out, in[0], in[1], in[2], 12, 0.25); });
}

TEST_F(CudaKernels, FindsTheFirstNonFiniteElement) {
  for (Dtype dtype : kTypes)
    for (const std::vector<int64_t>& bad : {std::vector<int64_t>{}, {0}, {70000}, {69999, 5, 40000}}) {
      Tensor x = random({70001}, dtype, 1);
      for (int64_t i : bad) {
        Tensor one = x.slice(i, i + 1);
        MANTISSA_RUN(host, fill, one, i % 2 ? INFINITY : double(NAN));
      }
      same({1}, Dtype::kI32, {x},
           [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, find_nonfinite, out, in[0]); });
    }
}

TEST_F(CudaKernels, FindsWhatDiffers) {
  for (const int64_t n : {1, 1000, 40001})
    for (const std::vector<int64_t>& changed : {std::vector<int64_t>{}, {0}, {n - 1, n / 2}, {n / 3, n - 1}}) {
      const Tensor a = random({n}, Dtype::kF32, 1), b = random({n}, Dtype::kF32, 1);
      for (size_t i = 0; i < changed.size(); ++i) {
        Tensor one = b.slice(changed[i], changed[i] + 1);
        MANTISSA_RUN(host, fill, one, i == 1 ? double(INFINITY) : 0.25);
      }
      for (const auto& [x, y] : {std::pair(a, b), std::pair(b, a)})
        same({4}, Dtype::kI32, {x, y},
             [](Exec& e, Tensor& out, const auto& in) { MANTISSA_RUN(e, find_difference, out, in[0], in[1]); });
    }
}

TEST_F(CudaKernels, RmsNorm) {
  for (auto [rows, width] :
       {std::pair<int64_t, int64_t>{1, 1}, {5, 33}, {5, 128}, {67, 576}, {40, 1536}, {7, 3584}, {9, 4099}, {3, 9000}})
    for (Dtype dtype : kTypes)
      for (Dtype wide : {dtype, Dtype::kF32}) {
        const Tensor x = random({rows, width}, wide, 1, 2.0f), w = random({width}, dtype, 2),
                     dy = random({rows, width}, dtype, 3);
        Tensor rstd = host.empty({rows}, Dtype::kF32), y = host.empty({rows, width}, dtype);
        MANTISSA_RUN(host, rms_norm_fwd, y, rstd, x, w, 1e-5);
        close({rows, width}, dtype, {x, w}, 2.1 * unit_of(dtype) + 1e-5, 1e-4,
              [&](Exec& e, Tensor& out, const auto& in) {
                Tensor r = e.empty({rows}, Dtype::kF32);
                MANTISSA_RUN(e, rms_norm_fwd, out, r, in[0], in[1], 1e-5);
                if (&e == &gpu()) expect_close(r, rstd, 1e-5, 0);
              });
        const Tensor branch = random({rows, width}, dtype, 5);
        Tensor sum = poisoned(x.shape(), wide), normed = poisoned(x.shape(), dtype),
               r = gpu().zeros({rows}, Dtype::kF32);
        MANTISSA_RUN(gpu(), add_rms_norm_fwd, sum, normed, r, up(x), up(branch), up(w), 1e-5);
        Tensor want_sum = poisoned(x.shape(), wide), want = poisoned(x.shape(), dtype),
               want_r = gpu().zeros({rows}, Dtype::kF32);
        MANTISSA_RUN(gpu(), binary, want_sum, up(x), up(branch), Binary::kAdd);
        MANTISSA_RUN(gpu(), rms_norm_fwd, want, want_r, want_sum, up(w), 1e-5);
        expect_same_bits(sum, want_sum);
        expect_same_bits(normed, want);
        expect_same_bits(r, want_r);
        const double unit = unit_of(wide);
        close({rows, width}, wide, {dy, x, w, rstd}, 2.1 * unit + 1e-5, 4.0, [&](Exec& e, Tensor& out, const auto& in) {
          Tensor none;
          MANTISSA_RUN(e, rms_norm_bwd, out, none, in[0], in[1], in[2], in[3], Tensor());
        });
        close(
            {width}, Dtype::kF32, {dy, x, w, rstd}, 1e-5, double(std::sqrt(rows)),
            [&](Exec& e, Tensor& dw, const auto& in) {
              Tensor dx = e.empty({rows, width}, wide);
              MANTISSA_RUN(e, rms_norm_bwd, dx, dw, in[0], in[1], in[2], in[3], Tensor());
            },
            random({width}, Dtype::kF32, 4));
      }
}

TEST_F(CudaKernels, ANormsGradientAddsWhatCameBefore) {
  for (auto [rows, width] : {std::pair<int64_t, int64_t>{1, 1},
                             {5, 33},
                             {67, 576},
                             {40, 1536},
                             {33, 2050},
                             {7, 3584},
                             {9, 4099},
                             {3, 5120},
                             {3, 9000},
                             {3, 9001}})
    for (Dtype dtype : kTypes)
      for (Dtype wide : kTypes)
        for (int64_t first : {0, 1}) {  // a part of another tensor may start anywhere
          const Tensor x = up(random({rows, width}, wide, 1, 2.0f)), w = up(random({width}, dtype, 2)),
                       dy = up(random({rows, width}, dtype, 3)),
                       before =
                           up(random({rows * width + 1}, wide, 4)).slice(first, first + rows * width).view(x.shape());
          Tensor y = poisoned({rows, width}, dtype), rstd = poisoned({rows}, Dtype::kF32);
          MANTISSA_RUN(gpu(), rms_norm_fwd, y, rstd, x, w, 1e-5);
          Tensor dx = poisoned(x.shape(), wide), apart = poisoned(x.shape(), wide),
                 dw = gpu().zeros({width}, Dtype::kF32), dw_apart = gpu().zeros({width}, Dtype::kF32);
          MANTISSA_RUN(gpu(), rms_norm_bwd, dx, dw, dy, x, w, rstd, before);
          MANTISSA_RUN(gpu(), rms_norm_bwd, apart, dw_apart, dy, x, w, rstd, Tensor());
          MANTISSA_RUN(gpu(), binary, apart, before, apart, Binary::kAdd);
          expect_same_bits(dx, apart);
          expect_same_bits(dw, dw_apart);
        }
}

TEST_F(CudaKernels, QkNorm) {
  for (Heads heads : {Heads{3, 1, 8}, Heads{4, 2, 128}, Heads{2, 2, 264}})
    for (int64_t rows : {1, 77})
      for (Dtype dtype : kTypes) {
        const Tensor x = random({rows, heads.row()}, dtype, 1), qw = random({heads.size}, dtype, 2),
                     kw = random({heads.size}, dtype, 3), dy = random({rows, heads.row()}, dtype, 4);
        const Shape rstd_shape{rows, heads.query + heads.kv};
        Tensor rstd = host.empty(rstd_shape, Dtype::kF32), y = host.empty(x.shape(), dtype);
        MANTISSA_RUN(host, qk_norm_fwd, y, rstd, x, qw, kw, heads, 1e-5);
        close(x.shape(), dtype, {x, qw, kw}, 2.1 * unit_of(dtype) + 1e-5, 1e-4,
              [&](Exec& e, Tensor& out, const auto& in) {
                Tensor r = e.empty(rstd_shape, Dtype::kF32);
                MANTISSA_RUN(e, qk_norm_fwd, out, r, in[0], in[1], in[2], heads, 1e-5);
                if (&e == &gpu()) expect_close(r, rstd, 1e-5, 0);
              });
        for (int which = 0; which < 3; ++which)  // dqkv, dqw, dkw
          close(
              which == 0 ? x.shape() : Shape{heads.size}, which == 0 ? dtype : Dtype::kF32, {dy, x, qw, kw, rstd},
              (which == 0 ? 2.1 * unit_of(dtype) : 0.0) + 1e-5,
              which == 0 ? 4.0 : double(std::sqrt(rows * heads.query)),
              [&](Exec& e, Tensor& out, const auto& in) {
                Tensor dx = which == 0 ? out : e.empty(in[1].shape(), dtype);
                Tensor dq = which == 1 ? out : which == 0 ? Tensor() : e.zeros({heads.size}, Dtype::kF32);
                Tensor dk = which == 2 ? out : which == 0 ? Tensor() : e.zeros({heads.size}, Dtype::kF32);
                MANTISSA_RUN(e, qk_norm_bwd, dx, dq, dk, in[0], in[1], in[2], in[3], in[4], heads);
              },
              which == 0 ? Tensor() : random({heads.size}, Dtype::kF32, 5));
      }
}

TEST_F(CudaKernels, OptimizerStepsFollowTheCpu) {
  for (Dtype copy_type : {Dtype::kF16, Dtype::kBF16, Dtype::kF32})
    for (int64_t n : {int64_t(1), int64_t(4099), int64_t(200003)}) {
      const ScalerRule scaler{.dynamic = true, .growth_interval = 2};
      const AdamWRule rule{.weight_decay = 0.1f};
      StepState start;
      start.loss_scale = 1024.0f;
      start.lr = 1e-2f;
      struct Side {
        Exec* exec;
        Tensor w, m, v, copy, state;
      };
      const Tensor w = random({n}, Dtype::kF32, 1);
      Side sides[2];
      for (Side& s : sides) {
        s.exec = &s == sides ? &host : &gpu();
        Backend& b = s.exec->backend();
        s.w = s.exec->empty({n}, Dtype::kF32);
        b.copy_from_host(s.w.raw(), w.raw(), w.bytes());
        s.m = s.exec->zeros({n}, Dtype::kF32), s.v = s.exec->zeros({n}, Dtype::kF32);
        s.copy = s.exec->zeros({n}, copy_type);
        s.state = state_tensor(b, start);
      }
      for (uint64_t step = 0; step < 5; ++step) {
        Tensor grad = random({n}, Dtype::kF32, 10 + step, 1024.0f);
        if (step == 2) {  // an overflow: nothing moves but the scaler
          Tensor last = grad.slice(n - 1, n);
          MANTISSA_RUN(host, fill, last, INFINITY);
        }
        StepState states[2];
        for (Side& s : sides) {
          const Tensor g = s.exec == &host ? grad : up(grad);
          MANTISSA_RUN(*s.exec, grad_stats, s.state, g);
          MANTISSA_RUN(*s.exec, step_decide, s.state, scaler, 1.0);
          MANTISSA_RUN(*s.exec, adamw, s.w, s.m, s.v, s.copy, g, s.state, rule);
          s.exec->backend().copy_to_host(&states[&s - sides], s.state.raw(), sizeof(StepState));
        }
        const StepState &want = states[0], &got = states[1];
        EXPECT_EQ(got.loss_scale, want.loss_scale);
        EXPECT_EQ(got.overflow, step == 2);
        EXPECT_EQ(got.adam_step, want.adam_step);
        EXPECT_EQ(got.good_steps, want.good_steps);
        EXPECT_EQ(got.skips_total, want.skips_total);
        EXPECT_EQ(got.skips_in_row, want.skips_in_row);
        EXPECT_EQ(got.sum_squares, 0.0);
        if (step != 2) {
          EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-6 * want.grad_norm);
        }
        expect_close(sides[1].m, sides[0].m, 1e-5, 1e-7);
        expect_close(sides[1].v, sides[0].v, 1e-5, 1e-9);
        expect_close(sides[1].w, sides[0].w, 1e-5, 1e-5);
        Tensor rounded = gpu().empty({n}, copy_type);  // the copy is the master, rounded once
        MANTISSA_RUN(gpu(), cast, rounded, sides[1].w);
        expect_same_bits(sides[1].copy, rounded);
      }
    }
}

TEST_F(CudaKernels, GradStatsRepeatBitForBit) {
  const Tensor g = up(random({3000001}, Dtype::kF32, 1));
  double first = 0;
  for (int i = 0; i < 3; ++i) {
    Tensor state = state_tensor(gpu().backend(), StepState());
    MANTISSA_RUN(gpu(), grad_stats, state, g);
    StepState s;
    gpu().backend().copy_to_host(&s, state.raw(), sizeof(s));
    if (i == 0) first = s.sum_squares;
    EXPECT_EQ(s.sum_squares, first);
    EXPECT_NEAR(s.sum_squares, 3000001.0, 30000.0);
  }
}

TEST_F(CudaKernels, Fp64IsRefusedByName) {
  Tensor x = gpu().empty({4}, Dtype::kF64), y = gpu().empty({4}, Dtype::kF64);
  try {
    MANTISSA_RUN(gpu(), cast, y, x);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[cast] fp64 runs on the CPU only"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace mantissa
