// Products of Match::kExact: c[M,N] = round(a[M,K] . b[N,K]^T + bias[N]) for 16-bit a and b, each element one chain
// over ascending k, 16 a step as the tensor cores add them, in one fp32 accumulator, with one rounding. K that is no
// multiple of 16 is filled up with zeros. Own kernels that are so by construction, and the means to find out whether a
// kernel of a library is.
#pragma once

#include "core/backend.h"
#include "core/dtype.h"

namespace mantissa::cuda_kernels {

/// Rows lie K elements apart in a and b, `c_stride` apart in c.
struct ExactProduct {
  int64_t rows, columns, depth;  // M, N, K
  Dtype type, out_type;          // fp16 or bf16; the same or fp32
  int64_t c_stride;
  const void *a, *b, *bias;  // bias[N] of out_type, or null
  void* c;
};

/// Own kernels are worth measuring up to so many rows.
inline constexpr int64_t kFewRows = 256;

/// Own kernels. Number 0 takes every shape and alignment, slowly. The others stream tiles and want K in multiples of 8
/// and rows on 16 bytes.
int exact_kernels();
bool exact_kernel_serves(Exec& exec, const ExactProduct& p, int kernel);
void run_exact_kernel(Exec& exec, const ExactProduct& p, int kernel);
/// The one to take without measuring.
int exact_kernel_for(Exec& exec, const ExactProduct& p);

/// How many elements of c differ from the definition, in kCheckedRows rows spread evenly over M, first and last among
/// them. Waits for the device.
inline constexpr int kCheckedRows = 16;
int64_t differing_elements(Exec& exec, const ExactProduct& p);
/// The same without waiting: adds to a number on the device.
void count_differing_elements(Exec& exec, const ExactProduct& p, unsigned long long* count);
/// Computes c anew by kernel 0, where that number is not zero by the time the device comes to it.
void repair_product(Exec& exec, const ExactProduct& p, const unsigned long long* differing);
/// Rows of numbers at random, exponents over 2^-8 .. 2^2, whose second half repeats the first, negated where `negated`.
/// A product of a negated and a plain operand is zero but for the rounding on the way: the mark of an order of sums.
void fill_cancelling(Exec& exec, void* data, int64_t rows, int64_t depth, Dtype type, bool negated);
/// A kernel of some microseconds that lets the one behind it begin early, as it stands before most products of a step.
void run_short_kernel(Exec& exec);

}  // namespace mantissa::cuda_kernels
