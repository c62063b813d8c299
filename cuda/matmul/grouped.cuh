// Tiles of grouped rows, found on the device.
#pragma once

#include "cuda/common.cuh"
#include "cuda/matmul/grouped.h"

namespace mantissa::cuda_kernels {

/// The tiles of all experts, one expert's after the other: blocks of its rows, the last of which may have fewer, each
/// by as many tiles across. Lanes of a warp work together: every call is the whole warp's.
class TileWalk {
 public:
  /// `height` rows of a block.
  __device__ TileWalk(const int32_t* offsets, int experts, int height, int across)
      : offsets_(offsets), experts_(experts), height_(height), across_(across) {
    look(0);
  }

  int expert, begin, end;  // what was found: an expert's rows,
  int tile, down;          // the number of the tile among its own, and the blocks of its rows

  /// False behind the last tile. Numbers ascend from call to call.
  __device__ bool find(int number) {
    while (number - before_ >= __shfl_sync(kAll, upto_, kWarp - 1)) {
      if (first_ + kWarp >= experts_) return false;
      before_ += __shfl_sync(kAll, upto_, kWarp - 1);
      look(first_ + kWarp);
    }
    const int lane = __ffs(__ballot_sync(kAll, upto_ > number - before_)) - 1;
    expert = first_ + lane;
    begin = __shfl_sync(kAll, begin_, lane);
    end = __shfl_sync(kAll, end_, lane);
    down = blocks_of(end - begin);
    tile = number - before_ - (__shfl_sync(kAll, upto_, lane) - down * across_);
    return true;
  }

 private:
  static constexpr unsigned kAll = 0xffffffffu;

  __device__ int blocks_of(int rows) const { return rows == 0 ? 0 : (rows - 1) / height_ + 1; }
  /// The experts from `first` on, one a lane.
  __device__ void look(int first) {
    const int lane = threadIdx.x % kWarp, own = first + lane;
    first_ = first;
    begin_ = offsets_[min(own, experts_)];
    end_ = offsets_[min(own + 1, experts_)];
    upto_ = blocks_of(end_ - begin_) * across_;
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(kAll, upto_, step);
      if (lane >= step) upto_ += other;
    }
  }

  const int32_t* offsets_;
  const int experts_, height_, across_;
  int first_, before_ = 0;  // the experts looked at; tiles of those before
  int begin_, end_, upto_;  // a lane's expert: its rows; tiles up to its last
};

/// Blocks of threads for tiles that are at most `most`: one a multiprocessor.
inline unsigned resident_blocks(Exec& exec, int64_t most) {
  return unsigned(std::min<int64_t>(most, device_facts(exec).sms));
}

}  // namespace mantissa::cuda_kernels
