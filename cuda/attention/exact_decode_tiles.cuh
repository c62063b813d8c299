// Tiles of keys and values in a block's shared memory: the one that it works on and those on their way, in a ring. Two
// ways there: every thread copies pieces of 16 bytes, or one has boxes copied in bulk (Hopper, heads of 64 and 128),
// which brings the cache at 1.07 times the speed.
#pragma once

#include "cuda/attention/exact_decode_task.cuh"
#include "cuda/bulk.cuh"

namespace mantissa::cuda_kernels::exact {

/// What both have: `Keys` is how a tile lies, and tile i is in place i % kStages, keys before values.
template <class T, class KeysOf, int kStages>
class TileRing {
 public:
  using Keys = KeysOf;
  static constexpr int kCount = kStages;

  __device__ __forceinline__ uint32_t keys(int i) const { return stages_ + i % kStages * 2 * Keys::kBytes; }
  __device__ __forceinline__ uint32_t values(int i) const { return keys(i) + Keys::kBytes; }
  /// Writes a piece of the key or value in row r of tile i, which has come.
  __device__ __forceinline__ void put(int i, bool value, int r, int piece, const Pack<T>& x) {
    char* tile = shared_ + (i % kStages * 2 + value) * Keys::kBytes;
    *reinterpret_cast<Pack<T>*>(tile + Keys::at(r, piece)) = x;
  }

 protected:
  /// Tiles begin on `alignment` bytes.
  __device__ TileRing(char* shared, uint32_t alignment) {
    const uint32_t begin = shared_address(shared);
    stages_ = (begin + alignment - 1) / alignment * alignment;
    shared_ = shared + (stages_ - begin);
  }

 private:
  char* shared_;
  uint32_t stages_;
};

/// Copied by all threads, with zeros beyond the last key and nothing in the place of a new one.
template <class T, int kSize, int kStages>
class CopiedTiles : public TileRing<T, KeyTile<kSize>, kStages> {
 public:
  using Keys = KeyTile<kSize>;
  static constexpr int kShared = kStages * 2 * Keys::kBytes;

  __device__ CopiedTiles(const Task<T>& task, const Place& at, char* shared)
      : TileRing<T, Keys, kStages>(shared, 16), task_(task), at_(at) {}

  /// Begins to copy page `id`, tile i. All threads call it, past the last tile too, so that counting stays simple.
  __device__ __forceinline__ void start(int i, int32_t id) {
    if (i < at_.tiles()) {
      const int64_t cell = int64_t(task_.heads.kv) * kSize;
      const T* page = task_.pages + int64_t(id) * kTile * cell + int64_t(at_.group) * kSize;
      const int valid = at_.valid(i), new_row = at_.new_key - i * kTile;
#pragma unroll
      for (int j = 0; j < kTile * Keys::kPieces / kThreads; ++j) {
        const int piece = j * kThreads + threadIdx.x, r = piece / Keys::kPieces, c = piece % Keys::kPieces;
        const T* row = page + r * cell + c * 8;
        if (r == new_row) continue;
        copy_async(this->keys(i) + Keys::at(r, c), row, r < valid);
        copy_async(this->values(i) + Keys::at(r, c), row + task_.plane, r < valid);
      }
    }
    commit_copies();
  }
  /// Tile i has come as far as this thread copied it.
  __device__ __forceinline__ void wait(int) { wait_copies<kStages - 2>(); }

 private:
  const Task<T>& task_;
  const Place& at_;
};

/// A tile of boxes, beside each other: 64 elements of each row, whose pieces are swizzled (cuda/bulk.cuh).
template <int kSize>
struct BoxTile : TileReads<BoxTile<kSize>> {
  static constexpr int kPieces = kSize / 8, kBoxes = kSize / kBoxDepth, kBox = kTile * kBoxRow;
  static constexpr int kBytes = kBoxes * kBox;
  static __device__ __forceinline__ int at(int row, int piece) {
    return piece / 8 * kBox + row * kBoxRow + (piece % 8 ^ row % 8) * 16;
  }
};

/// Copied in boxes at the word of one thread.
template <class T, int kSize, int kStages>
class BoxedTiles : public TileRing<T, BoxTile<kSize>, kStages> {
 public:
  using Keys = BoxTile<kSize>;
  static constexpr int kShared = kStages * 2 * Keys::kBytes + kBoxAlignment;

  __device__ BoxedTiles(const Task<T>& task, const Place& at, char* shared)
      : TileRing<T, Keys, kStages>(shared, kBoxAlignment), task_(task), at_(at) {
#if __CUDA_ARCH__ >= 900
    __shared__ uint64_t came[kStages];
    came_ = shared_address(came);
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) init_barrier(came_ + 8 * i, 1);
      fence_barriers();
    }
    __syncthreads();
#else
    __trap();  // has_box_copies() should have said no
#endif
  }

  __device__ __forceinline__ void start(int i, int32_t id) {
#if __CUDA_ARCH__ >= 900
    if (i >= at_.tiles() || threadIdx.x >= kWarp || !elected()) return;
    const uint32_t came = came_ + i % kStages * 8;
    expect_bytes(came, 2 * Keys::kBytes);
#pragma unroll
    for (int box = 0; box < Keys::kBoxes; ++box) {
      const int column = at_.group * kSize + box * kBoxDepth, row = id * kTile;
      copy_box(this->keys(i) + box * Keys::kBox, task_.boxes, column, row, came);
      copy_box(this->values(i) + box * Keys::kBox, task_.boxes, column, row + task_.plane_rows, came);
    }
#endif
  }
  /// Tile i has come. What lies beyond its last key need not be finite: values there become zeros.
  __device__ __forceinline__ void wait(int i) {
#if __CUDA_ARCH__ >= 900
    wait_barrier(came_ + i % kStages * 8, i / kStages & 1);
    for (int piece = at_.valid(i) * Keys::kPieces + int(threadIdx.x); piece < kTile * Keys::kPieces; piece += kThreads)
      this->put(i, true, piece / Keys::kPieces, piece % Keys::kPieces, Pack<T>{});
#endif
  }

 private:
  const Task<T>& task_;
  const Place& at_;
  uint32_t came_;
};

}  // namespace mantissa::cuda_kernels::exact
