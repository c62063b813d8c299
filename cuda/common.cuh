// What the kernels share: conversions with one rounding, 16-byte loads and stores, reductions in a fixed order,
// dispatch over the types. Kernels compute in fp32 and round once at the store.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace mantissa::cuda {

constexpr int kWarp = 32;

// ---- elements -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

/// One rounding to nearest even; overflow gives infinity.
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

/// What a value of T looks like after a store.
template <class T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

/// 16 bytes of T: 8 elements of 16 bits or 4 of fp32.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / int(sizeof(T));
  T v[kSize];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
/// To global memory. By an instruction of its own: the compiler splits an assignment into stores of 2 and 4 bytes.
template <class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T>& pack) {
  uint4 words;
  memcpy(&words, &pack, sizeof words);
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(words.x),
               "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}
template <class T>
__device__ __forceinline__ void store_shared(T* p, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(p) = pack;
}

/// N consecutive elements as floats and back (to global memory), by one access of 16 or 8 bytes or several of 16 where
/// N elements fill them (p aligned to min(16, N elements)), else one by one.
template <int N, class T>
__device__ __forceinline__ void load_floats(float (&x)[N], const T* p) {
  if constexpr (N % Pack<T>::kSize == 0) {
#pragma unroll
    for (int i = 0; i < N; i += Pack<T>::kSize) {
      const Pack<T> pack = load_pack(p + i);
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) x[i + j] = to_float(pack.v[j]);
    }
  } else if constexpr (N * sizeof(T) == 8) {
    const uint2 words = *reinterpret_cast<const uint2*>(p);
    const T* v = reinterpret_cast<const T*>(&words);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = to_float(v[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = to_float(p[i]);
  }
}
template <int N, class T>
__device__ __forceinline__ void store_floats(T* p, const float (&x)[N]) {
  if constexpr (N % Pack<T>::kSize == 0) {
#pragma unroll
    for (int i = 0; i < N; i += Pack<T>::kSize) {
      Pack<T> pack;
#pragma unroll
      for (int j = 0; j < Pack<T>::kSize; ++j) pack.v[j] = from_float<T>(x[i + j]);
      store_pack(p + i, pack);
    }
  } else if constexpr (N * sizeof(T) == 8) {
    uint2 words;
    T* v = reinterpret_cast<T*>(&words);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = from_float<T>(x[i]);
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(words.x), "r"(words.y)
                 : "memory");
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = from_float<T>(x[i]);
  }
}
template <int N>
__device__ __forceinline__ void store_shared(float* p, const float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += 4) store_shared(p + i, Pack<float>{{x[i], x[i + 1], x[i + 2], x[i + 3]}});
}

// ---- reductions -----------------------------------------------------------------------------------------------------

struct Add {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// Over the lanes of a warp by a fixed butterfly: every lane gets the same bits.
template <class T, class Op>
__device__ __forceinline__ T warp_reduce(T x, Op op) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = op(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  return warp_reduce(x, Add());
}

/// Over a block of kThreads threads (a multiple of 32, at most 1024), in a fixed order; every thread gets the result.
/// All threads must call it. `identity` fills the warps that are not there.
template <int kThreads, class T, class Op>
__device__ __forceinline__ T block_reduce(T x, Op op, T identity) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / kWarp;
  x = warp_reduce(x, op);
  if constexpr (kWarps > 1) {
    __shared__ T parts[kWarps];
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    __syncthreads();  // a previous use may still be read
    if (lane == 0) parts[warp] = x;
    __syncthreads();
    x = warp_reduce(lane < kWarps ? parts[lane] : identity, op);
  }
  return x;
}
template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T x) {
  return block_reduce<kThreads>(x, Add(), T(0));
}

// ---- host side ------------------------------------------------------------------------------------------------------

/// Blocks of `per_block` that cover n.
inline unsigned blocks(int64_t n, int64_t per_block) {
  return unsigned((n + per_block - 1) / per_block);
}

template <class T>
constexpr bool kIsElement = std::is_same_v<T, float> || std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>;

/// The elements of a tensor whose type was dispatched on.
template <class T>
T* elements(const Tensor& t) {
  static_assert(kIsElement<T>);
  return static_cast<T*>(t.raw());
}

/// Calls f(std::type_identity<T>{}) with float, __half or __nv_bfloat16. The message names the calling function, so
/// launchers have their kernel's name.
template <class F>
void visit_float(Dtype d, F&& f, const char* op = __builtin_FUNCTION()) {
  switch (d) {
    case Dtype::kF32:
      return f(std::type_identity<float>{});
    case Dtype::kF16:
      return f(std::type_identity<__half>{});
    case Dtype::kBF16:
      return f(std::type_identity<__nv_bfloat16>{});
    case Dtype::kF64:
      fail("[", op, "] fp64 runs on the CPU only");
    default:
      fail("[", op, "] expected fp32, fp16 or bf16: got ", name_of(d));
  }
}

/// True when all pointers may be read 16 bytes at a time.
inline bool aligned(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 0;
  for (const void* p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
  return bits % 16 == 0;
}

}  // namespace mantissa::cuda

namespace mantissa::cuda_kernels {
using namespace cuda;
using cuda::to_float;  // over the host's conversions of core/dtype.h
}  // namespace mantissa::cuda_kernels
