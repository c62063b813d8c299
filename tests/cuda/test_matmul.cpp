// The matrix products of the CUDA backend against those of the CPU, within the error of a sum in another order; and the
// plans that it measures.
#include <array>

#include "core/registry.h"
#include "tests/support/cuda_kernels.h"

namespace mantissa {
namespace {

/// How far fp32 sums of k products of normal numbers may be apart, from the CPU's chain. Of up to 35,000 sums
/// of 257 to 1536 products the largest difference was 1.2 to 2.5 units of 1e-6 (1 + k / 8) for sums that are
/// cut off after every 16 products, as tensor cores do with 16-bit factors (simulated in fp64), and 1.5 for
/// cuBLASLt in fp32.
double sum_error_of(int64_t k, Dtype factors) {
  return (factors == Dtype::kF32 ? 2e-6 : 3e-6) * (1.0 + double(k) / 8);
}

TEST_F(CudaKernels, MatrixProducts) {
  const int64_t sizes[][3] = {{1, 1, 1},     {3, 5, 7},       {1, 64, 128},   {33, 31, 257},
                              {128, 96, 64}, {257, 136, 520}, {64, 1536, 896}};
  for (const auto& [m, n, k] : sizes)
    for (Trans trans : {Trans::kNN, Trans::kNT, Trans::kTN})
      for (Dtype in : kTypes) {
        const std::vector<Tensor> factors = {random(trans == Trans::kTN ? Shape{k, m} : Shape{m, k}, in, 1),
                                             random(trans == Trans::kNT ? Shape{n, k} : Shape{k, n}, in, 2)};
        for (Dtype out : {in, Dtype::kF32})
          for (bool accumulate : {false, true})
            for (bool deterministic : {true, false})
              for (Match match : {Match::kExact, Match::kPeer}) {
                SCOPED_TRACE(str("M=", m, " N=", n, " K=", k, " trans ", int(trans), " ", name_of(in), " -> ",
                                 name_of(out), accumulate ? " accumulate" : "", deterministic ? " deterministic" : "",
                                 match == Match::kPeer ? " peer" : ""));
                host.match = gpu().match = match;
                gpu().deterministic = deterministic;
                const double bound = 2.1 * unit_of(out), sum_error = sum_error_of(k, in);
                close(
                    {m, n}, out, factors, bound, sum_error / bound,
                    [&](Exec& e, Tensor& c, const auto& x) {
                      MANTISSA_RUN(e, matmul, c, x[0], x[1], trans, accumulate);
                    },
                    accumulate ? random({m, n}, out, 3) : Tensor());
                if (HasFailure()) return;
              }
      }
}

TEST_F(CudaKernels, ProductsWithABias) {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 7}, {64, 2048, 1536}, {300, 136, 520}})
    for (Dtype dtype : kTypes) {
      const std::vector<Tensor> inputs = {random({m, k}, dtype, 1), random({n, k}, dtype, 2),
                                          random({n + 8}, dtype, 3)};
      for (bool deterministic : {true, false})
        for (Match match : {Match::kExact, Match::kPeer}) {
          SCOPED_TRACE(str("M=", m, " N=", n, " K=", k, " ", name_of(dtype)));
          host.match = gpu().match = match;
          gpu().deterministic = deterministic;
          const double bound = 2.1 * unit_of(dtype), sum_error = sum_error_of(k, dtype);
          for (int64_t first : {0, 8, 1})  // the second finds a plan, and another bias; the third is not aligned
            close({m, n}, dtype, inputs, bound, sum_error / bound, [&](Exec& e, Tensor& c, const auto& x) {
              MANTISSA_RUN(e, matmul_bias, c, x[0], x[1], x[2].slice(first, first + n));
            });
        }
    }
}

TEST_F(CudaKernels, MeasuredPlansComeBack) {
  gpu().deterministic = false;
  Backend& backend = gpu().backend();
  const Tensor a = up(random({300, 520}, Dtype::kF16, 1)), b = up(random({136, 520}, Dtype::kF16, 2));
  const auto product = [&] {
    Tensor c = gpu().empty({300, 136}, Dtype::kF16);
    MANTISSA_RUN(gpu(), matmul, c, a, b, Trans::kNT, false);
    return bits_of(c);
  };
  const auto bits = product();
  const std::string measured = backend.measured_choices();
  EXPECT_NE(measured.find("cuBLASLt"), std::string::npos) << measured;
  backend.restore_measured_choices("another device\ncuBLASLt 1\n");
  EXPECT_EQ(backend.measured_choices(), measured) << "ignored";
  const std::string heads = measured.substr(0, measured.find('\n', measured.find("cuBLASLt")) + 1);
  backend.restore_measured_choices(heads);
  EXPECT_EQ(backend.measured_choices(), "");
  backend.restore_measured_choices(measured);
  EXPECT_EQ(backend.measured_choices(), measured);
  EXPECT_EQ(product(), bits);
}

TEST_F(CudaKernels, ProductsOfFp32AreNotTf32) {
  // 1 + 2^-12 survives only where the factors keep more than ten bits.
  const Tensor a = tensor_from<float>(cpu(), std::vector<float>(256 * 256, 1.0f + 0x1p-12f), {256, 256});
  same({256, 256}, Dtype::kF32, {a, a}, [](Exec& e, Tensor& c, const auto& x) {
    Tensor product = e.empty({256, 256}, Dtype::kF32);
    MANTISSA_RUN(e, matmul, product, x[0], x[1], Trans::kNT, false);
    MANTISSA_RUN(e, unary, c, product, Unary::kWithinMask, 256 * (1.0 + 0x1.ep-12), 256 * (1.0 + 0x1.2p-11));
  });
}

}  // namespace
}  // namespace mantissa
