// How the columns of a chained product are cut into blocks that do not cross the border of a part, and how blocks that
// need u wait for those that make it.
#pragma once

#include "cuda/common.cuh"
#include "cuda/matmul/chained.h"

namespace mantissa::cuda_kernels {

/// Columns [begin, end), whose blocks are first_block and those after it.
struct Segment {
  int first_block, begin, end;
  int u_column, v_row;  // where the second product begins; u_column -1: there is none
};
struct Segments {
  static constexpr int kMost = 2 * int(kMostParts) + 1;  // the parts and what lies between them
  Segment list[kMost];
  int count = 0, blocks = 0;

  __device__ __forceinline__ const Segment& of(int block) const {
    int i = 0;
    while (i + 1 < count && block >= list[i + 1].first_block) ++i;
    return list[i];
  }
};

/// u as part of the kernel that uses it: its blocks come before all others, and blocks with a second product wait for
/// those of their rows.
struct MadeU {
  void* u = nullptr;
  int columns = 0;
  int blocks = 0;  // across, `down` of them for each piece of columns; 0: u is given
  int down = 1;
  float scale = 1.0f;
  unsigned* progress = nullptr;
  int users = 0;  // blocks across that wait
};

inline Segments segments_of(int64_t columns, const std::vector<ColumnRange>& parts, int64_t rank, int block_columns) {
  Segments all;
  const auto add = [&](int64_t begin, int64_t end, int64_t u_column, int64_t v_row) {
    if (begin == end) return;
    all.list[all.count++] = {all.blocks, int(begin), int(end), int(u_column), int(v_row)};
    all.blocks += int((end - begin + block_columns - 1) / block_columns);
  };
  int64_t done = 0, row = 0, column = 0;
  for (const ColumnRange& part : parts) {
    add(done, part.begin, -1, 0);
    add(part.begin, part.end, column, row);
    done = part.end;
    row += part.size();
    column += rank;
  }
  add(done, columns, -1, 0);
  return all;
}

inline MadeU made_u(const ChainedProduct& p, const Segments& segments, unsigned* progress) {
  MadeU made;
  if (!p.down) return made;
  made.u = const_cast<void*>(p.u);
  made.columns = int(p.u_columns());
  made.scale = p.down_scale;
  made.progress = progress;
  for (int i = 0; i < segments.count; ++i)
    if (segments.list[i].u_column >= 0)
      made.users +=
          (i + 1 < segments.count ? segments.list[i + 1].first_block : segments.blocks) - segments.list[i].first_block;
  return made;
}

// ---- waiting for u

/// By one thread, after all that its part of u was written by has met at a barrier behind publish().
__device__ __forceinline__ void count_progress(unsigned* progress) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(progress) : "memory");
}
/// By every thread that wrote: what it wrote can be read by others, by bulk copies too.
__device__ __forceinline__ void publish() {
  __threadfence();
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}
/// By one thread of a user: waits for `parts` counts.
__device__ __forceinline__ void await_progress(const unsigned* progress, unsigned parts) {
  unsigned seen;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(progress) : "memory");
  } while (seen < parts);
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}
/// By the same thread, some time later. The last of all users leaves the counter at zero.
__device__ __forceinline__ void end_progress(unsigned* progress, unsigned parts, unsigned users) {
  if (atomicAdd(progress, 1u) == parts + users - 1) *progress = 0;
}

}  // namespace mantissa::cuda_kernels
