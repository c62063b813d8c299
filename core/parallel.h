// Splitting work over the threads of the CPU: the one place outside core/cpu that speaks OpenMP. The body runs in
// whatever function it was written in, so vector code (core/cpu/simd-inl.h) calls the code of its own target.
//
// A body must not throw, and must give every index the same bits whatever range or thread it falls to: how work is
// split depends on the number of threads, results must not. Inside another parallel region both forms run serially.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace mantissa {

/// Calls body(begin, end) for disjoint ranges that cover [0, n), one a thread, each from a multiple of `grain`: the
/// smallest piece worth a thread (about 10 microseconds of work). Storage that a thread needs is made once in the body.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& body) {
  const int64_t pieces = (n + grain - 1) / grain;
  if (pieces <= 1 || omp_in_parallel() || omp_get_max_threads() == 1) {
    if (n > 0) body(int64_t(0), n);
    return;
  }
#pragma omp parallel num_threads(int(std::min<int64_t>(pieces, omp_get_max_threads())))
  {
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t begin = pieces * thread / threads * grain;
    const int64_t end = std::min(n, pieces * (thread + 1) / threads * grain);
    if (begin < end) body(begin, end);
  }
}

/// Calls body(i) for every i in [0, n), in any order: for tasks of unequal cost, each worth a thread.
template <class F>
void parallel_tasks(int64_t n, F&& body) {
#pragma omp parallel for schedule(dynamic) if (n > 1 && !omp_in_parallel())
  for (int64_t i = 0; i < n; ++i) body(i);
}

}  // namespace mantissa
