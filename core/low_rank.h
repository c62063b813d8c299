// The products of a low-rank update, made of kernels that every backend has: sums lie in memory, in the accumulator's
// type, between one product and the next.
#pragma once

#include "core/kernels.h"

namespace mantissa {

/// Kernels::matmul_low_rank.
void low_rank_by_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& bias, LowRankTerm& term);
/// Kernels::matmul_scaled.
void scaled_by_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, Trans trans, double scale);
/// Kernels::matmul_two.
void two_by_matmul(Exec& exec, Tensor& c, const Tensor& a, const Tensor& b, const Tensor& u, const Tensor& v);

}  // namespace mantissa
