// What tests of CUDA kernels against the CPU's share: one kernel on both sides with the same inputs.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <utility>
#include <vector>

#include "core/registry.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {

inline constexpr Dtype kTypes[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};

class CudaKernels : public CudaFixture<testing::Test> {
 protected:
  using Fill = std::function<void(Exec&, Tensor& out, const std::vector<Tensor>& in)>;
  /// Runs on both sides with the same inputs, the output poisoned (or copied from `start`), and returns (gpu,
  /// cpu).
  std::pair<Tensor, Tensor> both(Shape shape, Dtype dtype, const std::vector<Tensor>& in, const Fill& run,
                                 const Tensor& start = {}) {
    std::vector<Tensor> there;
    for (const Tensor& t : in) there.push_back(t.defined() ? up(t) : Tensor());
    Tensor got = start.defined() ? up(start) : poisoned(shape, dtype), want = host.empty(shape, dtype);
    if (start.defined()) cpu().copy(want.raw(), start.raw(), start.bytes());
    run(gpu(), got, there);
    run(host, want, in);
    return {got, want};
  }
  void same(Shape shape, Dtype dtype, const std::vector<Tensor>& in, const Fill& run, const Tensor& start = {}) {
    const auto [got, want] = both(shape, dtype, in, run, start);
    expect_same_bits(got, want);
  }
  void close(Shape shape, Dtype dtype, const std::vector<Tensor>& in, double bound, double floor, const Fill& run,
             const Tensor& start = {}) {
    const auto [got, want] = both(shape, dtype, in, run, start);
    expect_close(got, want, bound, floor);
  }
};

}  // namespace mantissa
