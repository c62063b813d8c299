// What the products of warpgroups (cuda/wgmma.cuh) share: the forms of their tiles, the order of tiles, the products of
// a piece of k, and the way of the sums to memory.
#pragma once

#include <numeric>

#include "cuda/matmul/exact.cuh"
#include "cuda/wgmma.cuh"

namespace mantissa::cuda_kernels {

inline constexpr int kTileStaging = 4096;  // bytes of a warp, on which rows become whole pieces before they are stored

template <int kRowsOf, int kColumnsOf>
struct TileForm {
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf;
  static constexpr int kGroups = kRows / kGroupRows, kThreads = (kGroups + 1) * kGroupThreads;
  static constexpr int kUnit = kColumns < 128 ? kColumns : 128, kUnits = kColumns / kUnit;  // columns of an instruction
  static constexpr int kRowBytes = kRows * kBoxRow, kStage = kRowBytes + kColumns * kBoxRow;  // a's part; all
  static constexpr int kStages = (192 << 10) / kStage;
  static constexpr int kShared = kStages * kStage + 4 * kGroups * kTileStaging + kStages * 2 * 8 + kBoxAlignment;
  static_assert(kRows % kGroupRows == 0 && kColumns % kUnit == 0 && kShared <= 227 << 10);
  using Sums = float[kUnits][kUnit / 2];
};

/// Tiles that each of two warpgroups has for itself, in turn.
struct TurnForm {
  static constexpr int kRows = 128, kColumns = 192, kEach = kRows / kGroupRows;
  static constexpr int kGroups = 2, kThreads = (kGroups + 1) * kGroupThreads;
  static constexpr int kUnit = kColumns;
  static constexpr int kRowBytes = kRows * kBoxRow, kStage = kRowBytes + kColumns * kBoxRow;
  using Sums = float[1][kColumns / 2];  // of 64 rows
};

inline constexpr int kTurnNotes = 4;
template <class Note>
constexpr int kTurnNoteBytes = kTurnNotes * int(2 * 8 + sizeof(Note));

struct TileOrder {
  int down, across;  // tiles

  __host__ __device__ int count() const { return down * across; }
};

#if __CUDA_ARCH_FEAT_SM90_ALL

/// Stages of shared memory in a ring. One thread has boxes copied into them, whole warpgroups read them; each side goes
/// through the same stages in the same order.
template <int kStages, int kStage>
class StageRing {
 public:
  /// `stages` on kBoxAlignment bytes, 16 bytes a stage for `barriers`. By all threads of the block.
  __device__ StageRing(uint32_t stages, uint32_t barriers, int readers)
      : stages_(stages), full_(barriers), empty_(barriers + 8 * kStages) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) {
        init_barrier(full_ + i * 8, 1);
        init_barrier(empty_ + i * 8, readers);
      }
      fence_barriers();
    }
    __syncthreads();
  }

  /// The stage in turn, and the barrier of copies into it.
  __device__ __forceinline__ uint32_t at() const { return stages_ + stage_ * kStage; }
  __device__ __forceinline__ uint32_t filled() const { return full_ + stage_ * 8; }
  __device__ __forceinline__ void next() {
    if (++stage_ == kStages) stage_ = 0, parity_ ^= 1;
  }
  /// A reader leaves so many stages to others.
  __device__ __forceinline__ void skip(int stages) {
    const int to = stage_ + stages;
    stage_ = to % kStages;
    parity_ ^= to / kStages & 1;
  }
  /// The thread that fills waits until the stage has been read; kStage bytes are to come.
  __device__ __forceinline__ void open() {
    wait_barrier(empty_ + stage_ * 8, parity_ ^ 1);
    expect_bytes(filled(), kStage);
  }
  /// A reader waits until the stage is filled.
  __device__ __forceinline__ void await() { wait_barrier(filled(), parity_); }
  /// By one thread of a warpgroup: it has read the stage before the one in turn.
  __device__ __forceinline__ void release_before() { arrive(empty_ + (stage_ == 0 ? kStages - 1 : stage_ - 1) * 8); }

 private:
  uint32_t stages_, full_, empty_;
  int stage_ = 0;
  uint32_t parity_ = 0;
};

/// One of two warpgroups, all of it together.
__device__ __forceinline__ void meet_group(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(kGroupThreads) : "memory");
}
/// Two warpgroups that share a ring and multiply in turn, each a tile of its own: what one of them does behind its
/// products has the other's beside it. A turn is given, once all of its pieces have come (there must be some), and
/// awaited, so that what comes next into a stage is the next tile's.
__device__ __forceinline__ void give_turn(int to) {
  asm volatile("bar.arrive %0, %1;" ::"r"(3 + to), "n"(2 * kGroupThreads) : "memory");
}
__device__ __forceinline__ void await_turn(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(3 + group), "n"(2 * kGroupThreads) : "memory");
}

/// What the thread that fills tells the two about each turn: in order, and to both.
template <class Note>
class TurnNotes {
 public:
  /// kTurnNoteBytes<Note> at `memory`, on 8 bytes. All threads of the block have to meet before it is used.
  __device__ explicit TurnNotes(char* memory)
      : noted_(shared_address(memory)),
        read_(noted_ + 8 * kTurnNotes),
        notes_(reinterpret_cast<Note*>(memory + 16 * kTurnNotes)) {
    if (threadIdx.x == 0)
      for (int i = 0; i < kTurnNotes; ++i) {
        init_barrier(noted_ + i * 8, 1);
        init_barrier(read_ + i * 8, 2);
      }
  }
  /// The number of the next turn.
  __device__ __forceinline__ int turn() const { return turn_; }
  __device__ __forceinline__ void put(const Note& note) {
    const int place = turn_ % kTurnNotes;
    if (turn_ >= kTurnNotes) wait_barrier(read_ + place * 8, (turn_ / kTurnNotes - 1) & 1);
    notes_[place] = note;
    arrive(noted_ + place * 8);
    ++turn_;
  }
  /// By a warpgroup.
  __device__ __forceinline__ Note take(int group) {
    const int place = turn_ % kTurnNotes;
    wait_barrier(noted_ + place * 8, turn_ / kTurnNotes & 1);
    const Note note = notes_[place];
    meet_group(group);
    if (threadIdx.x % kGroupThreads == 0) arrive(read_ + place * 8);
    ++turn_;
    return note;
  }

 private:
  uint32_t noted_, read_;
  Note* notes_;
  int turn_ = 0;
};

/// A warpgroup's products of a tile: begin(piece, from) starts those of a piece, which lies at `from`.
template <class Ring, class Begin>
__device__ __forceinline__ void multiply_pieces(Ring& ring, int pieces, Begin&& begin) {
  const bool first_thread = threadIdx.x % kGroupThreads == 0;
  for (int piece = 0; piece < pieces; ++piece) {
    ring.await();
    begin(piece, ring.at());
    commit_group();
    wait_groups<1>();  // the piece before has been read
    if (piece > 0 && first_thread) ring.release_before();
    ring.next();
  }
  wait_groups<0>();
  if (pieces > 0 && first_thread) ring.release_before();
}

/// {down, across} of a tile, in an order that keeps what neighbours share in the cache: all columns of kGroup tiles of
/// rows, then the next.
__device__ __forceinline__ int2 place_of(int tile, const TileOrder& order) {
  constexpr int kGroup = 16;
  const int group = tile / (kGroup * order.across), first = group * kGroup;
  const int height = min(kGroup, order.down - first), within = tile - first * order.across;
  return {first + within % height, within / height};
}

/// Begins a warpgroup's products of a piece, which lies at `from`.
template <class F, class T, bool kByColumns>
__device__ __forceinline__ void multiply_piece(typename F::Sums& sums, uint32_t from, int group) {
#pragma unroll
  for (int step = 0; step < kBoxDepth / 16; ++step) {
    const uint64_t a = rows_operand(from + group * kGroupRows * kBoxRow + step * 32);
#pragma unroll
    for (int unit = 0; unit < F::kUnits; ++unit) {
      const uint32_t at = from + F::kRowBytes + unit * F::kUnit * kBoxRow;  // boxes of columns are as long
      const uint64_t b =
          kByColumns ? columns_operand(at + step * 16 * kBoxRow, kBoxDepth * kBoxRow) : rows_operand(at + step * 32);
      group_mma<T, kByColumns>(sums[unit], a, b);
    }
  }
}

/// The same of a tile that the warpgroup has for itself.
template <class T, bool kByColumns>
__device__ __forceinline__ void multiply_piece(TurnForm::Sums (&sums)[TurnForm::kEach], uint32_t from) {
#pragma unroll
  for (int step = 0; step < kBoxDepth / 16; ++step) {
    const uint32_t at = from + TurnForm::kRowBytes + step * (kByColumns ? 16 * kBoxRow : 32);
    const uint64_t b = kByColumns ? columns_operand(at, kBoxDepth * kBoxRow) : rows_operand(at);
#pragma unroll
    for (int each = 0; each < TurnForm::kEach; ++each)
      group_mma<T, kByColumns>(sums[each][0], rows_operand(from + each * kGroupRows * kBoxRow + step * 32), b);
  }
}

/// Scaled sums and bias of a warp's 16 rows, rounded, from registers through `staging` to c.
template <class F, class Out>
__device__ __forceinline__ void store_tile(Out* c, typename F::Sums& sums, float scale, const Out* bias, int first_row,
                                           int first_column, int rows, int columns, int64_t c_stride, bool whole,
                                           char* staging) {
  constexpr int kInPiece = 16 / int(sizeof(Out)), kInStaging = 256 / int(sizeof(Out));
  constexpr int kPass = std::gcd(F::kColumns, kInStaging), kPieces = kPass / kInPiece;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int pass = 0; pass < F::kColumns / kPass; ++pass) {
#pragma unroll
    for (int j = 0; j < kPass / 8; ++j) {
      const int block = pass * (kPass / 8) + j, column = first_column + block * 8 + 2 * t;
      const float* s = &sums[block / (F::kUnit / 8)][block % (F::kUnit / 8) * 4];
      const float b0 = bias && column < columns ? to_float(bias[column]) : 0.0f;
      const float b1 = bias && column + 1 < columns ? to_float(bias[column + 1]) : 0.0f;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float low = scale * s[2 * r], high = scale * s[2 * r + 1];
        if (bias) low += b0, high += b1;
        const int row = g + 8 * r, byte = (j * 8 + t * 2) * int(sizeof(Out));
        char* to = staging + row * 256 + (((byte >> 4) ^ (row & 7)) << 4) + byte % 16;
        if constexpr (sizeof(Out) == 2)
          *reinterpret_cast<uint32_t*>(to) = pack_two<Out>(low, high);
        else
          *reinterpret_cast<float2*>(to) = make_float2(low, high);
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 16 * kPieces; i += kWarp) {
      const int r = i / kPieces, piece = i % kPieces, row = first_row + r;
      const int column = first_column + pass * kPass + piece * kInPiece;
      if (row >= rows || column >= columns) continue;
      const char* from = staging + r * 256 + ((piece ^ (r & 7)) << 4);
      Out* to = c + row * c_stride + column;
      if (whole && column + kInPiece <= columns) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int e = 0; e < min(kInPiece, columns - column); ++e) to[e] = reinterpret_cast<const Out*>(from)[e];
      }
    }
    __syncwarp();
  }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace mantissa::cuda_kernels
