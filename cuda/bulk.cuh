// Hopper's bulk copies of tiles into shared memory, and the barriers that tell when they have come.
//
// A box is 64 elements of 16 bits (128 bytes) by some rows; its 16-byte pieces are exchanged within groups of eight
// rows (swizzle of 128 bytes), so a box lies on kBoxAlignment bytes.
#pragma once

#include <cudaTypedefs.h>

#include "cuda/common.cuh"

namespace mantissa::cuda {

constexpr int kBoxDepth = 64;           // elements
constexpr int kBoxRow = kBoxDepth * 2;  // bytes
constexpr int kBoxAlignment = 1024;     // bytes

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ void init_barrier(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/// True in exactly one lane of a whole warp, always the same. The compiler knows that it is one; for lane 0 it puts
/// a loop around every copy.
__device__ __forceinline__ bool elected() {
  uint32_t chosen;
  asm volatile("{\n .reg .pred one;\n elect.sync _|one, 0xffffffff;\n selp.u32 %0, 1, 0, one;\n}\n" : "=r"(chosen));
  return chosen;
}
/// This thread arrives, and so many bytes are to come.
__device__ __forceinline__ void expect_bytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void wait_barrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred done;\nagain:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
      " @!done bra again;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
/// Whether the phase of that parity is over.
__device__ __forceinline__ bool test_barrier(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n .reg .pred done;\n mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n selp.u32 %0, 1, 0, done;\n}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done;
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// The box at (k, row); beyond the matrix it is zero.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int k, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(&map), "r"(k), "r"(row), "r"(barrier)
      : "memory");
}
/// This block's place in its cluster, whose blocks are numbered along x first.
__device__ __forceinline__ int2 place_in_cluster() {
  int2 at;
  asm volatile("mov.u32 %0, %%cluster_ctaid.x;\n mov.u32 %1, %%cluster_ctaid.y;" : "=r"(at.x), "=r"(at.y));
  return at;
}
/// All threads of the blocks of a cluster meet; behind fence_barriers() all see the barriers.
__device__ __forceinline__ void meet_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// Where an address of this block's shared memory is in another block of the cluster.
__device__ __forceinline__ uint32_t address_in(int block, uint32_t address) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
  return there;
}
/// arrive() in any block of the cluster. It orders reads that have ended before it, no writes: with the scope of a
/// cluster it would wait for the memory of the whole device.
__device__ __forceinline__ void arrive_there(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// copy_box() to the same address in each block of the cluster that has a bit in `blocks`, each with its own barrier.
__device__ __forceinline__ void copy_box_to(uint32_t blocks, uint32_t to, const CUtensorMap& map, int k, int row,
                                            uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(k), "r"(row), "r"(barrier), "h"(uint16_t(blocks))
      : "memory");
}
/// What describes the boxes of a matrix is brought near: the first copy by it would wait for that.
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
/// Brings it into the second-level cache.
__device__ __forceinline__ void prefetch_box(const CUtensorMap& map, int k, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(k), "r"(row) : "memory");
}

/// The same of one of several matrices (box_map of `count`).
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int k, int row, int matrix,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
          "r"(to),
      "l"(&map), "r"(k), "r"(row), "r"(matrix), "r"(barrier)
      : "memory");
}
/// What this thread wrote to shared memory is seen by what reads it in bulk: copies, and products of warpgroups.
__device__ __forceinline__ void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif  // __CUDA_ARCH__ >= 900

/// Whether device and driver can copy boxes.
bool has_box_copies(const DeviceFacts& device);
/// Of what is read once memory brings rows of a box, 128 bytes, of the rest twice as much at a time. Measured on an
/// H200: keys and values come at 4.45 TB/s so, else at 4.15; products whose blocks share operands lose 4 %.
enum class Read : uint8_t { kOften, kOnce };
/// Of a matrix whose rows of `width` 16-bit elements lie one after the other: boxes of 64 by `box_rows`. Rows and data
/// lie on 16 bytes.
CUtensorMap box_map(const void* data, Dtype type, int64_t rows, int64_t width, int box_rows, Read read = Read::kOften);
/// Of `count` such matrices, one after the other: what lies beyond one of them is zero, not the next.
CUtensorMap box_map(const void* data, Dtype type, int64_t count, int64_t rows, int64_t width, int box_rows,
                    Read read = Read::kOften);

}  // namespace mantissa::cuda
