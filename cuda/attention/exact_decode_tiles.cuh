// Tiles of keys and values in a block's shared memory: the one that it works on and those on their way, in a ring. Two
// ways there: every thread copies pieces of 16 bytes, or one has boxes copied in bulk (Hopper, heads of 64 and 128),
// which brings the cache at 1.07 times the speed.
#pragma once

#include "cuda/attention/exact_decode.cuh"
#include "cuda/bulk.cuh"

namespace mantissa::cuda_kernels::exact {

/// Copied by all threads, with zeros beyond the last key and nothing in the place of a new one.
template <class T, int kSize, int kStages>
class CopiedTiles {
 public:
  using Keys = KeyTile<kSize>;
  static constexpr int kCount = kStages, kShared = kStages * 2 * Keys::kBytes;

  __device__ CopiedTiles(const Task<T>& task, const Place& at, char* shared)
      : task_(task), at_(at), shared_(shared), stages_(shared_address(shared)) {}

  /// Begins to copy page `id`, tile i. All threads call it, past the last tile too, so that counting stays simple.
  __device__ __forceinline__ void start(int i, int32_t id) {
    if (i < at_.tiles()) {
      const int64_t cell = int64_t(task_.heads.kv) * kSize;
      const T* page = task_.pages + int64_t(id) * kTile * cell + int64_t(at_.group) * kSize;
      const uint32_t to = keys(i);
      const int valid = at_.valid(i), new_row = at_.new_key - i * kTile;
#pragma unroll
      for (int j = 0; j < kTile * Keys::kPieces / kThreads; ++j) {
        const int piece = j * kThreads + threadIdx.x, r = piece / Keys::kPieces, c = piece % Keys::kPieces;
        const T* row = page + r * cell + c * 8;
        if (r == new_row) continue;
        copy_async(to + Keys::at(r, c), row, r < valid);
        copy_async(to + Keys::kBytes + Keys::at(r, c), row + task_.plane, r < valid);
      }
    }
    commit_copies();
  }
  /// Tile i has come as far as this thread copied it.
  __device__ __forceinline__ void wait(int) { wait_copies<kStages - 2>(); }
  /// A piece of the key or value in row r of tile i, which has come.
  __device__ __forceinline__ void put(int i, bool value, int r, int piece, const Pack<T>& x) {
    char* tile = shared_ + (i % kStages * 2 + value) * Keys::kBytes;
    *reinterpret_cast<Pack<T>*>(tile + Keys::at(r, piece)) = x;
  }
  __device__ __forceinline__ uint32_t keys(int i) const { return stages_ + i % kStages * 2 * Keys::kBytes; }
  __device__ __forceinline__ uint32_t values(int i) const { return keys(i) + Keys::kBytes; }

 private:
  const Task<T>& task_;
  const Place& at_;
  char* const shared_;
  const uint32_t stages_;
};

/// A tile of boxes, beside each other: 64 elements of each row, whose pieces are swizzled (cuda/bulk.cuh).
template <int kSize>
struct BoxTile {
  static constexpr int kPieces = kSize / 8, kBoxes = kSize / kBoxDepth, kBox = kTile * kBoxRow;
  static constexpr int kBytes = kBoxes * kBox;

  static __device__ __forceinline__ int at(int row, int piece) {
    return piece / 8 * kBox + row * kBoxRow + (piece % 8 ^ row % 8) * 16;
  }
  static __device__ __forceinline__ void load_keys(uint32_t (&r)[4], uint32_t tile, int row, int k) {
    const int lane = threadIdx.x % kWarp;
    load_matrices(r, tile + at(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  }
  static __device__ __forceinline__ void load_values(uint32_t (&r)[4], uint32_t tile, int row, int n) {
    const int lane = threadIdx.x % kWarp;
    load_matrices_transposed(r, tile + at(row + lane % 16, 2 * n + lane / 16));
  }
};

/// Copied in boxes at the word of one thread.
template <class T, int kSize, int kStages>
class BoxedTiles {
 public:
  using Keys = BoxTile<kSize>;
  static constexpr int kCount = kStages, kShared = kStages * 2 * Keys::kBytes + kBoxAlignment;

#if __CUDA_ARCH__ >= 900
  __device__ BoxedTiles(const Task<T>& task, const Place& at, char* shared) : task_(task), at_(at) {
    __shared__ uint64_t came[kStages];
    const uint32_t begin = shared_address(shared);
    stages_ = (begin + kBoxAlignment - 1) / kBoxAlignment * kBoxAlignment;
    shared_ = shared + (stages_ - begin);
    came_ = shared_address(came);
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) init_barrier(came_ + 8 * i, 1);
      fence_barriers();
    }
    __syncthreads();
  }

  __device__ __forceinline__ void start(int i, int32_t id) {
    if (i >= at_.tiles() || threadIdx.x >= kWarp || !elected()) return;
    const uint32_t came = came_ + i % kStages * 8;
    expect_bytes(came, 2 * Keys::kBytes);
#pragma unroll
    for (int box = 0; box < Keys::kBoxes; ++box) {
      const int column = at_.group * kSize + box * kBoxDepth, row = id * kTile;
      copy_box(keys(i) + box * Keys::kBox, task_.boxes, column, row, came);
      copy_box(values(i) + box * Keys::kBox, task_.boxes, column, row + task_.plane_rows, came);
    }
  }
  /// What lies beyond the last key need not be finite: values there become zeros.
  __device__ __forceinline__ void wait(int i) {
    wait_barrier(came_ + i % kStages * 8, i / kStages & 1);
    for (int piece = at_.valid(i) * Keys::kPieces + int(threadIdx.x); piece < kTile * Keys::kPieces; piece += kThreads)
      put(i, true, piece / Keys::kPieces, piece % Keys::kPieces, Pack<T>{});
  }
  __device__ __forceinline__ void put(int i, bool value, int r, int piece, const Pack<T>& x) {
    char* tile = shared_ + (i % kStages * 2 + value) * Keys::kBytes;
    *reinterpret_cast<Pack<T>*>(tile + Keys::at(r, piece)) = x;
  }
  __device__ __forceinline__ uint32_t keys(int i) const { return stages_ + i % kStages * 2 * Keys::kBytes; }
  __device__ __forceinline__ uint32_t values(int i) const { return keys(i) + Keys::kBytes; }

 private:
  const Task<T>& task_;
  const Place& at_;
  char* shared_;
  uint32_t stages_, came_;
#else
  __device__ BoxedTiles(const Task<T>&, const Place&, char*) {
    __trap();  // has_box_copies() should have said no
  }
  __device__ void start(int, int32_t) {}
  __device__ void wait(int) {}
  __device__ void put(int, bool, int, int, const Pack<T>&) {}
  __device__ uint32_t keys(int) const { return 0; }
  __device__ uint32_t values(int) const { return 0; }
#endif
};

}  // namespace mantissa::cuda_kernels::exact
