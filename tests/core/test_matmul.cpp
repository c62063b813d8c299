// The matrix product: every element equal, bit for bit, to one fused multiply-add chain over ascending k,
// whatever the form, types, sizes, instruction set, threads and batch.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>

#include "core/kernels.h"
#include "core/random.h"
#include "core/registry.h"
#include "tests/support/simd_levels.h"

namespace mantissa {
namespace {

struct Size {
  int64_t m, n, k;
};
// Around the tiles (14 x 32, 6 x 16, 2 x 16), the slices of k (128, 384), the 32 rows where the plan changes,
// and none.
constexpr Size kSizes[] = {{1, 1, 1},     {1, 33, 400},  {3, 5, 7},    {14, 32, 128}, {15, 16, 0},
                           {17, 31, 129}, {32, 33, 385}, {33, 65, 50}, {36, 33, 400}, {50, 15, 800}};

const char* name_of(Trans trans) {
  return trans == Trans::kNN ? "NN" : trans == Trans::kNT ? "NT" : "TN";
}

Tensor random_tensor(Shape shape, Dtype type, uint64_t seed) {
  RandomStream random(seed, 5);
  std::vector<float> values(size_t(shape.numel()));
  for (float& v : values) v = 2 * random.uniform() - 1;
  Exec exec(cpu());
  Tensor out = exec.empty(shape, type);
  MANTISSA_RUN(exec, cast, out, tensor_from<float>(cpu(), values, shape));
  return out;
}

/// Operands of a product and what c holds before.
struct Case {
  Case(Size size, Trans trans, Dtype type, Dtype c_type)
      : size(size),
        trans(trans),
        a(random_tensor(trans == Trans::kTN ? Shape{size.k, size.m} : Shape{size.m, size.k}, type, 1)),
        b(random_tensor(trans == Trans::kNT ? Shape{size.n, size.k} : Shape{size.k, size.n}, type, 2)),
        c(random_tensor({size.m, size.n}, c_type, 3)) {}

  Tensor run(bool accumulate, Match match = Match::kExact) const {
    Exec exec(cpu());
    exec.match = match;
    Tensor out = exec.empty(c.shape(), c.dtype());
    cpu().copy(out.raw(), c.raw(), c.bytes());
    MANTISSA_RUN(exec, matmul, out, a, b, trans, accumulate);
    return out;
  }

  /// `start` continued by the chain over k in [begin, end).
  template <class C>
  C chain(const std::vector<C>& left, const std::vector<C>& right, int64_t m, int64_t n, C start, int64_t begin,
          int64_t end) const {
    for (int64_t k = begin; k < end; ++k)
      start = std::fma(left[size_t(trans == Trans::kTN ? k * size.m + m : m * size.k + k)],
                       right[size_t(trans == Trans::kNT ? n * size.k + k : k * size.n + n)], start);
    return start;
  }

  Size size;
  Trans trans;
  Tensor a, b, c;
};

float rounded_to(Dtype type, float value) {
  return dispatch_floating(type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_same_v<T, double>)
      return value;
    else
      return to_float(round_to<T>(value));
  });
}

void expect_equal(const Tensor& got, const std::vector<float>& want, const std::string& what) {
  const std::vector<float> values = to_host_float(got);
  ASSERT_EQ(values.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(values[i], want[i]) << what << " element " << i;
}

TEST(Matmul, IsOneChainForEveryFormTypeSizeAndInstructionSet) {
  const SimdLevels levels;
  for (Dtype type : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    for (Dtype c_type : {Dtype::kF32, type}) {
      for (Trans trans : {Trans::kNN, Trans::kNT, Trans::kTN}) {
        for (bool accumulate : {false, true}) {
          for (Size size : kSizes) {
            const Case x(size, trans, type, c_type);
            const auto a = to_host_float(x.a), b = to_host_float(x.b), c = to_host_float(x.c);
            std::vector<float> want;
            for (int64_t i = 0; i < size.m * size.n; ++i)
              want.push_back(rounded_to(
                  c_type, x.chain(a, b, i / size.n, i % size.n, accumulate ? c[size_t(i)] : 0.0f, 0, size.k)));
            for (const char* level : levels) {
              limit_simd(level);
              expect_equal(x.run(accumulate), want,
                           str(level, ' ', name_of(type), "->", name_of(c_type), ' ', name_of(trans), ' ', size.m, 'x',
                               size.n, 'x', size.k, accumulate ? " accumulated" : ""));
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

TEST(Matmul, DoubleIsOneChain) {
  const SimdLevels levels;
  for (Trans trans : {Trans::kNN, Trans::kNT, Trans::kTN}) {
    for (bool accumulate : {false, true}) {
      const Case x({7, 13, 50}, trans, Dtype::kF64, Dtype::kF64);
      const auto a = to_host<double>(x.a), b = to_host<double>(x.b), c = to_host<double>(x.c);
      for (const char* level : levels) {
        limit_simd(level);
        const auto got = to_host<double>(x.run(accumulate));
        for (int64_t i = 0; i < 7 * 13; ++i)
          ASSERT_EQ(got[size_t(i)], x.chain(a, b, i / 13, i % 13, accumulate ? c[size_t(i)] : 0.0, 0, 50)) << level;
      }
    }
  }
}

TEST(Matmul, RowAloneEqualsRowInAnyBatch) {
  for (Dtype type : {Dtype::kF32, Dtype::kF16}) {
    const Tensor a = random_tensor({600, 450}, type, 1), b = random_tensor({100, 450}, type, 2);
    Exec exec(cpu());
    Tensor all = exec.empty({600, 100}, type);
    MANTISSA_RUN(exec, matmul, all, a, b, Trans::kNT, false);
    for (int64_t rows : {1, 2, 13, 14, 15, 32, 33, 64, 337}) {
      const int64_t begin = 600 - rows;
      Tensor some = exec.empty({rows, 100}, type);
      MANTISSA_RUN(exec, matmul, some, a.slice(begin, 600), b, Trans::kNT, false);
      expect_equal(some, to_host_float(all.slice(begin, 600)), str(rows, " rows"));
    }
  }
}

TEST(Matmul, DoesNotDependOnThreads) {
  const int before = omp_get_max_threads();
  for (Size size : {Size{8, 900, 500}, Size{300, 700, 500}}) {
    for (Trans trans : {Trans::kNT, Trans::kTN}) {
      const Case x(size, trans, Dtype::kF16, Dtype::kF16);
      omp_set_num_threads(1);
      const std::vector<float> alone = to_host_float(x.run(true));
      for (int threads : {2, 3, 7}) {
        omp_set_num_threads(threads);
        expect_equal(x.run(true), alone, str(threads, " threads"));
      }
      omp_set_num_threads(before);
    }
  }
}

// Wider than the packed blocks (2048): each block must find its own rows, columns and resting place.
TEST(Matmul, SeveralBlocks) {
  for (Size size : {Size{40, 4500, 400}, Size{4500, 40, 400}}) {
    const Case x(size, Trans::kNN, Dtype::kBF16, Dtype::kBF16);
    const auto a = to_host_float(x.a), b = to_host_float(x.b), got = to_host_float(x.run(false));
    for (int64_t i = 0; i < size.m * size.n; i += 97)
      ASSERT_EQ(got[size_t(i)], rounded_to(Dtype::kBF16, x.chain(a, b, i / size.n, i % size.n, 0.0f, 0, size.k))) << i;
  }
}

// Four chains over quarters of K (rounded up), added in order; c, when accumulated, comes last.
TEST(Matmul, PeerRounding) {
  for (Dtype type : {Dtype::kF32, Dtype::kF16}) {
    for (Trans trans : {Trans::kNN, Trans::kNT, Trans::kTN}) {
      for (Size size : {Size{5, 40, 3}, Size{9, 70, 450}, Size{40, 35, 130}}) {
        const Case x(size, trans, type, type);
        const auto a = to_host_float(x.a), b = to_host_float(x.b), c = to_host_float(x.c);
        const int64_t part = (size.k + 3) / 4;
        for (bool accumulate : {false, true}) {
          std::vector<float> want;
          for (int64_t i = 0; i < size.m * size.n; ++i) {
            float sum = 0;
            for (int p = 0; p < 4; ++p) {
              const float chain =
                  x.chain(a, b, i / size.n, i % size.n, 0.0f, p * part, std::min(size.k, (p + 1) * part));
              sum = p == 0 ? chain : sum + chain;
            }
            want.push_back(rounded_to(type, accumulate ? c[size_t(i)] + sum : sum));
          }
          expect_equal(x.run(accumulate, Match::kPeer), want, str(name_of(trans), ' ', size.k));
        }
      }
    }
  }
}

// 0 * infinity and NaN reach every element of their row or column, and no other.
TEST(Matmul, NotFiniteValuesPropagate) {
  constexpr int64_t kSide = 40;
  std::vector<float> zeros(kSide * kSide, 0.0f);
  const SimdLevels levels;
  for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> left = zeros;
    left[3 * kSide + 39] = bad;
    for (int64_t rows : {int64_t(5), kSide}) {
      for (const char* level : levels) {
        limit_simd(level);
        Exec exec(cpu());
        const Tensor a = tensor_from<float>(cpu(), left, {kSide, kSide}),
                     b = tensor_from<float>(cpu(), zeros, {kSide, kSide});
        Tensor c = exec.empty({rows, kSide}, Dtype::kF32);
        MANTISSA_RUN(exec, matmul, c, a.slice(0, rows), b, Trans::kNT, false);
        const auto got = to_host<float>(c);
        for (int64_t i = 0; i < rows * kSide; ++i)
          ASSERT_EQ(std::isnan(got[size_t(i)]), i / kSide == 3) << level << ' ' << i;
        Tensor turned = exec.empty({kSide, kSide}, Dtype::kF32);
        MANTISSA_RUN(exec, matmul, turned, b, a, Trans::kNT, false);
        const auto columns = to_host<float>(turned);
        for (int64_t i = 0; i < kSide * kSide; ++i) ASSERT_EQ(std::isnan(columns[size_t(i)]), i % kSide == 3) << level;
      }
    }
  }
}

TEST(Matmul, OverflowsToInfinityAtTheStoreOnly) {
  const std::vector<Half> big(4, half_from_float(300.0f));
  const std::vector<Half> signs = {half_from_float(300), half_from_float(300), half_from_float(-300),
                                   half_from_float(-299)};
  Exec exec(cpu());
  Tensor c = exec.empty({1, 1}, Dtype::kF16);
  const Tensor a = tensor_from<Half>(cpu(), big, {1, 4});
  MANTISSA_RUN(exec, matmul, c, a, tensor_from<Half>(cpu(), signs, {1, 4}), Trans::kNT, false);
  EXPECT_EQ(to_host_float(c)[0], 300.0f);  // passes through 180000
  MANTISSA_RUN(exec, matmul, c, a, a, Trans::kNT, false);
  EXPECT_TRUE(std::isinf(to_host_float(c)[0]));
}

}  // namespace
}  // namespace mantissa
