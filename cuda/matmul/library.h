// cuBLASLt as this folder sees it: a product, the library's description of it, its algorithms and their launch.
//
// cuBLASLt counts columns first, so c[M,N] row-major is computed as c^T[N,M] = op(b)^T . op(a)^T: its A is our b.
#pragma once

#include <cublasLt.h>

#include <array>
#include <functional>
#include <vector>

#include "core/kernels.h"

namespace mantissa::cuda_kernels {

/// One product as the library sees it. Leading dimensions are row lengths in elements.
struct Product {
  int64_t rows, columns, depth;  // M, N, K
  Trans trans;
  Dtype type, out_type;
  int64_t a_stride, b_stride, c_stride;
  bool accumulate;
  const void *a, *b;
  void* c;
  const void* bias = nullptr;  // [columns] of out_type, added before the rounding
};

/// Everything the choice of an algorithm depends on; `mark` tells apart choices made under different rules.
using ProductKey = std::array<int64_t, 14>;
ProductKey key_of(const Product& p, bool mark);
/// Sizes that share a measurement, eight per power of two: token counts differ from one micro-batch to the next.
int64_t size_class(int64_t n);
ProductKey class_of(ProductKey key);

/// The library's description of products of one key.
class LibraryPlan {
 public:
  explicit LibraryPlan(const Product& p);

  /// At most `count` algorithms, the library's favourite first. Parts of a split K meet in fp32 in the workspace, or
  /// `split` is false and K is never split.
  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Product& p, int count, bool split) const;
  /// False where the algorithm does not serve these shapes; else it is the plan's from now on.
  bool take(const cublasLtMatmulAlgo_t& algorithm);
  void take(const cublasLtMatmulHeuristicResult_t& candidate);
  const cublasLtMatmulAlgo_t& algorithm() const { return algorithm_; }
  /// Computes p into c (p.c, or a place to measure), with the algorithm that was taken.
  void launch(Exec& exec, const Product& p, void* c) const;

 private:
  template <class Handle>
  using Destroy = cublasStatus_t (*)(Handle);
  using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy<cublasLtMatrixLayout_t>>;
  using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy<cublasLtMatmulDesc_t>>;

  static Layout make_layout(Dtype type, int64_t rows, int64_t columns, int64_t stride);

  Description description_{nullptr, cublasLtMatmulDescDestroy};
  Layout a_, b_, c_;  // the library's A, B and C = D
  cublasLtMatmulAlgo_t algorithm_{};
  size_t workspace_ = 0;
};

/// "cuBLASLt VERSION": algorithms of one version mean nothing to another.
std::string library_version();

/// Milliseconds of what `body` launches. Waits for the device.
float milliseconds(Exec& exec, const std::function<void()>& body);
/// The best of `runs` after one that is not counted.
float measure(Exec& exec, int runs, const std::function<void()>& body);

}  // namespace mantissa::cuda_kernels
