// Hopper's products of a warpgroup: 64 rows by 16 to 168 columns, operands in boxes of shared memory
// (cuda/bulk.cuh) or the left one in registers, sums in registers. A step is 16 of k, and steps ascend: the bits are
// those of mma.sync m16n8k16.
//
// Lane 4 g + t of warp w has of sums[4 j + i] row 16 w + g + 8 (i / 2), column 8 j + 2 t + i % 2.
#pragma once

#include "cuda/bulk.cuh"

namespace mantissa::cuda {

constexpr int kGroupRows = 64, kGroupThreads = 128;

/// Where a warpgroup reads an operand: boxes whose rows are the operand's rows (k along the box), or boxes whose rows
/// are k; those lie `next_box` bytes apart.
__device__ __forceinline__ uint64_t rows_operand(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kEightRows = 8 * kBoxRow;
  return kSwizzle128 | kEightRows >> 4 << 32 | uint64_t(1) << 16 | (address & 0x3ffff) >> 4;
}
__device__ __forceinline__ uint64_t columns_operand(uint32_t address, uint32_t next_box) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62, kEightRows = 8 * kBoxRow;
  return kSwizzle128 | kEightRows >> 4 << 32 | uint64_t(next_box >> 4) << 16 | (address & 0x3ffff) >> 4;
}

#if __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ void begin_group() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most kPending groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_groups() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Sums are read behind this, not before: it stands behind the wait for their group.
template <int kSums>
__device__ __forceinline__ void settle(float (&sums)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// Sums as operands of an instruction, and the places that they take in its text.
#define MANTISSA_SUMS_8(x) \
  "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3]), "+f"(x[4]), "+f"(x[5]), "+f"(x[6]), "+f"(x[7])
#define MANTISSA_SUMS_12(x) MANTISSA_SUMS_8(x), "+f"(x[8]), "+f"(x[9]), "+f"(x[10]), "+f"(x[11])
#define MANTISSA_SUMS_16(x) MANTISSA_SUMS_12(x), "+f"(x[12]), "+f"(x[13]), "+f"(x[14]), "+f"(x[15])
#define MANTISSA_SUMS_24(x)                                                                                       \
  MANTISSA_SUMS_16(x), "+f"(x[16]), "+f"(x[17]), "+f"(x[18]), "+f"(x[19]), "+f"(x[20]), "+f"(x[21]), "+f"(x[22]), \
      "+f"(x[23])
#define MANTISSA_SUMS_28(x) MANTISSA_SUMS_24(x), "+f"(x[24]), "+f"(x[25]), "+f"(x[26]), "+f"(x[27])
#define MANTISSA_SUMS_32(x)                                                                                       \
  MANTISSA_SUMS_24(x), "+f"(x[24]), "+f"(x[25]), "+f"(x[26]), "+f"(x[27]), "+f"(x[28]), "+f"(x[29]), "+f"(x[30]), \
      "+f"(x[31])
#define MANTISSA_SUMS_36(x) MANTISSA_SUMS_32(x), "+f"(x[32]), "+f"(x[33]), "+f"(x[34]), "+f"(x[35])
#define MANTISSA_SUMS_48(x)                                                                                       \
  MANTISSA_SUMS_32(x), "+f"(x[32]), "+f"(x[33]), "+f"(x[34]), "+f"(x[35]), "+f"(x[36]), "+f"(x[37]), "+f"(x[38]), \
      "+f"(x[39]), "+f"(x[40]), "+f"(x[41]), "+f"(x[42]), "+f"(x[43]), "+f"(x[44]), "+f"(x[45]), "+f"(x[46]),     \
      "+f"(x[47])
#define MANTISSA_SUMS_64(x)                                                                                       \
  MANTISSA_SUMS_48(x), "+f"(x[48]), "+f"(x[49]), "+f"(x[50]), "+f"(x[51]), "+f"(x[52]), "+f"(x[53]), "+f"(x[54]), \
      "+f"(x[55]), "+f"(x[56]), "+f"(x[57]), "+f"(x[58]), "+f"(x[59]), "+f"(x[60]), "+f"(x[61]), "+f"(x[62]),     \
      "+f"(x[63])
#define MANTISSA_SUMS_68(x) MANTISSA_SUMS_64(x), "+f"(x[64]), "+f"(x[65]), "+f"(x[66]), "+f"(x[67])
#define MANTISSA_SUMS_72(x) MANTISSA_SUMS_68(x), "+f"(x[68]), "+f"(x[69]), "+f"(x[70]), "+f"(x[71])
#define MANTISSA_SUMS_84(x)                                                                                       \
  MANTISSA_SUMS_68(x), "+f"(x[68]), "+f"(x[69]), "+f"(x[70]), "+f"(x[71]), "+f"(x[72]), "+f"(x[73]), "+f"(x[74]), \
      "+f"(x[75]), "+f"(x[76]), "+f"(x[77]), "+f"(x[78]), "+f"(x[79]), "+f"(x[80]), "+f"(x[81]), "+f"(x[82]),     \
      "+f"(x[83])
#define MANTISSA_SUMS_96(x)                                                                                       \
  MANTISSA_SUMS_84(x), "+f"(x[84]), "+f"(x[85]), "+f"(x[86]), "+f"(x[87]), "+f"(x[88]), "+f"(x[89]), "+f"(x[90]), \
      "+f"(x[91]), "+f"(x[92]), "+f"(x[93]), "+f"(x[94]), "+f"(x[95])
#define MANTISSA_PLACES_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define MANTISSA_PLACES_12 MANTISSA_PLACES_8 ",%8,%9,%10,%11"
#define MANTISSA_PLACES_16 MANTISSA_PLACES_12 ",%12,%13,%14,%15"
#define MANTISSA_PLACES_24 MANTISSA_PLACES_16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define MANTISSA_PLACES_28 MANTISSA_PLACES_24 ",%24,%25,%26,%27"
#define MANTISSA_PLACES_32 MANTISSA_PLACES_24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define MANTISSA_PLACES_36 MANTISSA_PLACES_32 ",%32,%33,%34,%35"
#define MANTISSA_PLACES_48 MANTISSA_PLACES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define MANTISSA_PLACES_64 MANTISSA_PLACES_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define MANTISSA_PLACES_68 MANTISSA_PLACES_64 ",%64,%65,%66,%67"
#define MANTISSA_PLACES_72 MANTISSA_PLACES_68 ",%68,%69,%70,%71"
#define MANTISSA_PLACES_84 MANTISSA_PLACES_68 ",%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83"
#define MANTISSA_PLACES_96 MANTISSA_PLACES_84 ",%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define MANTISSA_MULTIPLY_AS(type, columns, n, rest, ...)                                                    \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" MANTISSA_PLACES_##n \
               "}, " rest                                                                                    \
               : MANTISSA_SUMS_##n(sums)                                                                     \
               : __VA_ARGS__)
/// n sums += a . b, by as many columns; `rest` of the text: places of what follows, a and b first.
#define MANTISSA_MULTIPLY(columns, n, rest, ...)                \
  if constexpr (std::is_same_v<T, __half>)                      \
    MANTISSA_MULTIPLY_AS("f16", columns, n, rest, __VA_ARGS__); \
  else                                                          \
    MANTISSA_MULTIPLY_AS("bf16", columns, n, rest, __VA_ARGS__)

/// sums += a . b of 16 steps of k, from where the descriptors point; 2 columns a sum. kByColumns: b is a
/// columns_operand; kLeftByColumns: a is one.
template <class T, bool kByColumns, bool kLeftByColumns = false, int kSums>
__device__ __forceinline__ void group_mma(float (&sums)[kSums], uint64_t a, uint64_t b) {
#define MANTISSA_OPERANDS "l"(a), "l"(b), "n"(int(kLeftByColumns)), "n"(int(kByColumns))
  if constexpr (kSums == 8) {
    MANTISSA_MULTIPLY("16", 8, "%8, %9, 1, 1, 1, %10, %11;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 12) {
    MANTISSA_MULTIPLY("24", 12, "%12, %13, 1, 1, 1, %14, %15;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 16) {
    MANTISSA_MULTIPLY("32", 16, "%16, %17, 1, 1, 1, %18, %19;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 24) {
    MANTISSA_MULTIPLY("48", 24, "%24, %25, 1, 1, 1, %26, %27;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 28) {
    MANTISSA_MULTIPLY("56", 28, "%28, %29, 1, 1, 1, %30, %31;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 32) {
    MANTISSA_MULTIPLY("64", 32, "%32, %33, 1, 1, 1, %34, %35;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 36) {
    MANTISSA_MULTIPLY("72", 36, "%36, %37, 1, 1, 1, %38, %39;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 48) {
    MANTISSA_MULTIPLY("96", 48, "%48, %49, 1, 1, 1, %50, %51;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 64) {
    MANTISSA_MULTIPLY("128", 64, "%64, %65, 1, 1, 1, %66, %67;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 68) {
    MANTISSA_MULTIPLY("136", 68, "%68, %69, 1, 1, 1, %70, %71;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 72) {
    MANTISSA_MULTIPLY("144", 72, "%72, %73, 1, 1, 1, %74, %75;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 84) {
    MANTISSA_MULTIPLY("168", 84, "%84, %85, 1, 1, 1, %86, %87;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 96) {
    MANTISSA_MULTIPLY("192", 96, "%96, %97, 1, 1, 1, %98, %99;", MANTISSA_OPERANDS);
  } else {
    static_assert(kSums < 0, "a width without an instruction here");
  }
#undef MANTISSA_OPERANDS
}

/// The same with a in registers, as mma.sync m16n8k16 has it of the warp's 16 rows. The registers of a must not change
/// until the group is over.
template <class T, bool kByColumns, int kSums>
__device__ __forceinline__ void group_mma(float (&sums)[kSums], const uint32_t (&a)[4], uint64_t b) {
#define MANTISSA_OPERANDS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int(kByColumns))
  if constexpr (kSums == 8) {
    MANTISSA_MULTIPLY("16", 8, "{%8,%9,%10,%11}, %12, 1, 1, 1, %13;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 12) {
    MANTISSA_MULTIPLY("24", 12, "{%12,%13,%14,%15}, %16, 1, 1, 1, %17;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 16) {
    MANTISSA_MULTIPLY("32", 16, "{%16,%17,%18,%19}, %20, 1, 1, 1, %21;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 32) {
    MANTISSA_MULTIPLY("64", 32, "{%32,%33,%34,%35}, %36, 1, 1, 1, %37;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 64) {
    MANTISSA_MULTIPLY("128", 64, "{%64,%65,%66,%67}, %68, 1, 1, 1, %69;", MANTISSA_OPERANDS);
  } else if constexpr (kSums == 68) {
    MANTISSA_MULTIPLY("136", 68, "{%68,%69,%70,%71}, %72, 1, 1, 1, %73;", MANTISSA_OPERANDS);
  } else {
    static_assert(kSums < 0, "a width without an instruction here");
  }
#undef MANTISSA_OPERANDS
}
#undef MANTISSA_MULTIPLY
#undef MANTISSA_MULTIPLY_AS
#undef MANTISSA_PLACES_8
#undef MANTISSA_PLACES_12
#undef MANTISSA_PLACES_16
#undef MANTISSA_PLACES_24
#undef MANTISSA_PLACES_28
#undef MANTISSA_PLACES_32
#undef MANTISSA_PLACES_36
#undef MANTISSA_PLACES_48
#undef MANTISSA_PLACES_64
#undef MANTISSA_PLACES_68
#undef MANTISSA_PLACES_72
#undef MANTISSA_PLACES_84
#undef MANTISSA_PLACES_96
#undef MANTISSA_SUMS_8
#undef MANTISSA_SUMS_12
#undef MANTISSA_SUMS_16
#undef MANTISSA_SUMS_24
#undef MANTISSA_SUMS_28
#undef MANTISSA_SUMS_32
#undef MANTISSA_SUMS_36
#undef MANTISSA_SUMS_48
#undef MANTISSA_SUMS_64
#undef MANTISSA_SUMS_68
#undef MANTISSA_SUMS_72
#undef MANTISSA_SUMS_84
#undef MANTISSA_SUMS_96

/// Registers of each thread of the calling warpgroup from now on: more, or fewer.
template <int kRegisters>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace mantissa::cuda
