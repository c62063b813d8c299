// Splitting work over the OpenMP threads. Kept apart from the SIMD code: the body runs in whatever function it was
// written in, and calls the vector code of its target.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace mantissa::cpu_kernels {

/// Calls body(begin, end) for disjoint ranges that cover [0, n), one range a thread, ranges starting at multiples of
/// `grain`: the smallest piece worth a thread (about 10 microseconds of work). Serial inside another parallel region.
/// The split depends on the number of threads, so body must give every index the same bits in any range. It must not
/// throw.
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

/// Calls body(i) for every i in [0, n), in any order and on any thread: for tasks of unequal cost, each worth a thread.
template <class F>
void parallel_tasks(int64_t n, F&& body) {
#pragma omp parallel for schedule(dynamic) if (n > 1 && !omp_in_parallel())
  for (int64_t i = 0; i < n; ++i) body(i);
}

}  // namespace mantissa::cpu_kernels
