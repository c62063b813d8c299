// Around attention: rotary embedding, writes and copies of the paged KV cache; and the registration of the family.
// Legend: T tokens, H/G/D heads, P pages. qkv[T,(H+2G)D], pages[2,P,kAttentionTile,GD].
#include "cuda/attention/attention.h"

#include "cuda/attention/rope.cuh"

namespace mantissa::cuda_kernels {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kVector = 8;  // elements a thread moves: D is a multiple of it

/// The KV cache of a layer as kernels write it: a token's [keys | values] at its slot, nothing where that is negative.
template <class To>
struct CacheCells {
  To* pages;
  const int32_t* slots;
  int64_t width, plane;  // elements of a token's keys, and from keys to values

  /// N elements of token t from element `at` of [keys | values] on.
  template <int N>
  __device__ void store(uint32_t t, int64_t at, const float (&x)[N]) const {
    const int32_t slot = slots[t];
    if (slot >= 0) store_floats(pages + (at < width ? slot * width + at : plane + slot * width + at - width), x);
  }
};

/// One thread rotates N pairs of one head, or copies kVector values; into the cache too, where there is one. Items of a
/// token: pairs first, then values; there are none of those when out is in. May run in place: a thread reads and writes
/// its own elements only.
template <int N, class T, class To>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(T* out, const T* in, const float* table, const int32_t* positions, CacheCells<To> cache, uint32_t items,
                uint32_t items_of_token, uint32_t rotations, int half, int64_t row, bool inverse) {
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const uint32_t t = item / items_of_token, part = item % items_of_token;
  if (part >= rotations) {
    const int64_t at = t * row + int64_t(rotations) * N * 2 + int64_t(part - rotations) * kVector;
    float x[kVector];
    load_floats(x, in + at);
    store_floats(out + at, x);
    if (cache.pages) cache.store(t, at - t * row - (row - 2 * cache.width), x);
    return;
  }
  const uint32_t parts_of_head = uint32_t(half) / N, head = part / parts_of_head, i = part % parts_of_head * N;
  const int64_t at = t * row + int64_t(head) * 2 * half + i;
  float x1[N], x2[N], angle[2 * N];
  load_floats(x1, in + at);
  load_floats(x2, in + at + half);
  load_floats(angle, table + (int64_t(positions[t]) * half + i) * 2);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float sine = angle[2 * j + 1];
    rotate<T>(x1[j], x2[j], angle[2 * j], inverse ? -sine : sine);
  }
  store_floats(out + at, x1);
  store_floats(out + at + half, x2);
  const int64_t key = at - t * row - (row - 2 * cache.width);  // negative: of a query
  if (cache.pages && key >= 0) {
    cache.store(t, key, x1);
    cache.store(t, key + half, x2);
  }
}

template <class T, class To>
void launch_rope(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& table, const Tensor& positions,
                 const CacheCells<To>& cache, Heads heads, bool inverse) {
  const int half = heads.size / 2, n = half % 8 == 0 ? 8 : 4;
  const uint32_t rotations = uint32_t((heads.query + heads.kv) * half / n);
  const bool moves_values = cache.pages || !out.same_as(qkv);
  const uint32_t values = moves_values ? uint32_t(heads.kv * heads.size / kVector) : 0;
  const int64_t items = qkv.size(0) * int64_t(rotations + values);
  check(items < (int64_t(1) << 32), "[rope] at most 2^32 vectors of work, got ", items,
        ": lower the tokens of a batch");
  auto* kernel = n == 8 ? rope_kernel<8, T, To> : rope_kernel<4, T, To>;
  kernel<<<blocks(items, kThreads), kThreads, 0, stream(exec)>>>(
      elements<T>(out), elements<T>(qkv), table.data<float>(), positions.data<int32_t>(), cache, uint32_t(items),
      rotations + values, rotations, half, heads.row(), inverse);
  MANTISSA_LAUNCH_CHECK();
}

template <class To>
CacheCells<To> cells_of(Tensor& pages, const Tensor& slots, Heads heads) {
  return {elements<To>(pages), slots.data<int32_t>(), int64_t(heads.kv) * heads.size, pages.numel() / 2};
}

void rope(Exec& exec, Tensor& out, const Tensor& qkv, const Tensor& table, const Tensor& positions, Heads heads,
          bool inverse) {
  if (qkv.numel() == 0) return;
  visit_float(qkv.dtype(), [&]<class T>(std::type_identity<T>) {
    launch_rope<T>(exec, out, qkv, table, positions, CacheCells<T>{}, heads, inverse);
  });
}

void rope_kv(Exec& exec, Tensor& out, Tensor& pages, const Tensor& qkv, const Tensor& table, const Tensor& positions,
             const Tensor& slots, Heads heads) {
  if (qkv.numel() == 0) return;
  visit_float(qkv.dtype(), [&]<class T>(std::type_identity<T>) {
    visit_float(
        pages.dtype(),
        [&]<class To>(std::type_identity<To>) {
          launch_rope<T>(exec, out, qkv, table, positions, cells_of<To>(pages, slots, heads), heads, false);
        },
        "rope_kv");
  });
}

void rope_attention_decode(Exec& exec, Tensor& out, Tensor& pages, Tensor& rotated, const Tensor& qkv,
                           const Tensor& angles, const Tensor& positions, const Tensor& slots, const Tensor& table,
                           const Tensor& lengths, Heads heads) {
  if (qkv.numel() == 0) return;
  const NewTokens fresh{angles.data<float>(), positions.data<int32_t>(), slots.data<int32_t>()};
  if (exec.match == Match::kExact && exact_attention_decode(exec, out, qkv, pages, table, lengths, {}, heads, fresh))
    return;
  rope_kv(exec, rotated, pages, qkv, angles, positions, slots, heads);
  attention_decode(exec, out, rotated, pages, table, lengths, {}, heads);
}

/// One thread moves kVector keys or values of one token.
template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    kv_write_kernel(CacheCells<To> cache, const From* kv, uint32_t items, uint32_t items_of_token, int64_t row) {
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const uint32_t t = item / items_of_token;
  const int64_t at = int64_t(item % items_of_token) * kVector;
  float x[kVector];
  load_floats(x, kv + t * row + at);
  cache.store(t, at, x);
}

void kv_write(Exec& exec, Tensor& pages, const Tensor& qkv, const Tensor& slots, Heads heads) {
  const int64_t width = int64_t(heads.kv) * heads.size, items = qkv.size(0) * (2 * width / kVector);
  if (items == 0) return;
  check(items < (int64_t(1) << 32), "[kv_write] at most 2^32 vectors of work, got ", items);
  visit_float(qkv.dtype(), [&]<class From>(std::type_identity<From>) {
    visit_float(
        pages.dtype(),
        [&]<class To>(std::type_identity<To>) {
          kv_write_kernel<<<blocks(items, kThreads), kThreads, 0, stream(exec)>>>(
              cells_of<To>(pages, slots, heads), elements<From>(qkv) + int64_t(heads.query) * heads.size,
              uint32_t(items), uint32_t(2 * width / kVector), heads.row());
        },
        "kv_write");
  });
  MANTISSA_LAUNCH_CHECK();
}

/// Block (i, part) copies the keys or the values of one page. A page is a multiple of 16 bytes: kAttentionTile rows.
__global__ void __launch_bounds__(kThreads)
    kv_copy_kernel(uint4* pages, const int32_t* from, const int32_t* to, int64_t page, int64_t plane) {
  const int32_t source = from[blockIdx.x], target = to[blockIdx.x];
  if (source < 0 || source == target) return;
  const uint4* in = pages + blockIdx.y * plane + source * page;
  uint4* out = pages + blockIdx.y * plane + target * page;
  for (int64_t i = threadIdx.x; i < page; i += kThreads) out[i] = in[i];
}

void kv_copy(Exec& exec, Tensor& pages, const Tensor& from, const Tensor& to) {
  if (from.numel() == 0) return;
  const int64_t plane = int64_t(pages.bytes() / 2 / sizeof(uint4)), page = plane / pages.size(1);
  kv_copy_kernel<<<dim3(unsigned(from.numel()), 2), kThreads, 0, stream(exec)>>>(
      static_cast<uint4*>(pages.raw()), from.data<int32_t>(), to.data<int32_t>(), page, plane);
  MANTISSA_LAUNCH_CHECK();
}

void attention_fwd(Exec& exec, Tensor& out, Tensor& lse, const Tensor& qkv, const Tensor& offsets, int64_t longest,
                   Heads heads) {
  if (qkv.size(0) == 0) return;
  if (exec.match == Match::kExact && exact_attention_fwd(exec, out, lse, qkv, offsets, longest, heads)) return;
  if (!cudnn_attention_fwd(exec, out, lse, qkv, offsets, longest, heads))
    own_attention_fwd(exec, out, lse, qkv, offsets, longest, heads);
}

void attention_bwd(Exec& exec, Tensor& dqkv, const Tensor& dout, const Tensor& qkv, const Tensor& out,
                   const Tensor& lse, const Tensor& offsets, int64_t longest, Heads heads) {
  if (qkv.size(0) == 0) return;
  if (!cudnn_attention_bwd(exec, dqkv, dout, qkv, out, lse, offsets, longest, heads))
    own_attention_bwd(exec, dqkv, dout, qkv, out, lse, offsets, longest, heads);
}

}  // namespace

void register_attention(Kernels& table) {
  table.rope = rope;
  table.rope_kv = rope_kv;
  table.attention_fwd = attention_fwd;
  table.attention_bwd = attention_bwd;
  table.kv_write = kv_write;
  table.kv_copy = kv_copy;
  table.attention_decode = attention_decode;
  table.rope_attention_decode = rope_attention_decode;
}

}  // namespace mantissa::cuda_kernels
