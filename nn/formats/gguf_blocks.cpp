// The block formats of ggml (ggml-common.h describes the same layouts as structs). Each unpacker computes in fp32 in
// ggml's order of operations, product first, then the offset, each rounded: the values match ggml's reference to the
// bit.
//
//   type  values  bytes of a block                                                 value
//   Q4_0      32  [fp16 d | 16 x 2 nibbles]                                        (q - 8) d
//   Q4_1      32  [fp16 d | fp16 m | 16 x 2 nibbles]                               q d + m
//   Q5_0      32  [fp16 d | 32 high bits | 16 x 2 nibbles]                         (q - 16) d
//   Q5_1      32  [fp16 d | fp16 m | 32 high bits | 16 x 2 nibbles]                q d + m
//   Q8_0      32  [fp16 d | 32 x int8 q]                                           q d
//   Q4_K     256  [fp16 d | fp16 dmin | 8 6-bit (scale, min) | nibbles]            q (d scale) - dmin min
//   Q5_K     256  [fp16 d | fp16 dmin | 8 6-bit (scale, min) | high bits | nibbles]  q (d scale) - dmin min
//   Q6_K     256  [128 bytes of nibbles | 64 of high bit pairs | 16 x int8 s | fp16 d]  (q - 32) (d s)
//
// Low nibbles of Q4_0 to Q5_1 are values 0..15, high nibbles values 16..31.
#include "nn/formats/gguf_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/dtype.h"

namespace mantissa {
namespace {

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

float half_at(const std::byte* p) {
  return to_float(load<Half>(p));
}
int byte_at(const std::byte* p, int i) {
  return std::to_integer<int>(p[i]);
}
int low(int byte) {
  return byte & 15;
}
int high(int byte) {
  return byte >> 4;
}

template <class T>
void unpack_plain(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t i = 0; i < blocks; ++i) out[i] = to_float(load<T>(in + size_t(i) * sizeof(T)));
}

template <class T>
void store(std::byte* p, T value) {
  std::memcpy(p, &value, sizeof(T));
}

template <class T>
void pack_plain(const float* in, int64_t blocks, std::byte* out) {
  for (int64_t i = 0; i < blocks; ++i) store(out + size_t(i) * sizeof(T), round_to<T>(in[i]));
}

constexpr int kSmall = 32;

void unpack_q4_0(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 18, out += kSmall) {
    const float d = half_at(in);
    for (int i = 0; i < 16; ++i) {
      const int q = byte_at(in + 2, i);
      out[i] = float(low(q) - 8) * d;
      out[i + 16] = float(high(q) - 8) * d;
    }
  }
}

void unpack_q4_1(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 20, out += kSmall) {
    const float d = half_at(in), m = half_at(in + 2);
    for (int i = 0; i < 16; ++i) {
      const int q = byte_at(in + 4, i);
      out[i] = float(low(q)) * d + m;
      out[i + 16] = float(high(q)) * d + m;
    }
  }
}

void unpack_q5_0(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 22, out += kSmall) {
    const float d = half_at(in);
    const uint32_t fifth = load<uint32_t>(in + 2);
    for (int i = 0; i < 16; ++i) {
      const int q = byte_at(in + 6, i);
      out[i] = float((low(q) | int(fifth >> i & 1) << 4) - 16) * d;
      out[i + 16] = float((high(q) | int(fifth >> (i + 16) & 1) << 4) - 16) * d;
    }
  }
}

void unpack_q5_1(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 24, out += kSmall) {
    const float d = half_at(in), m = half_at(in + 2);
    const uint32_t fifth = load<uint32_t>(in + 4);
    for (int i = 0; i < 16; ++i) {
      const int q = byte_at(in + 8, i);
      out[i] = float(low(q) | int(fifth >> i & 1) << 4) * d + m;
      out[i + 16] = float(high(q) | int(fifth >> (i + 16) & 1) << 4) * d + m;
    }
  }
}

void unpack_q8_0(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 34, out += kSmall) {
    const float d = half_at(in);
    for (int i = 0; i < kSmall; ++i) out[i] = float(load<int8_t>(in + 2 + i)) * d;
  }
}

/// d = largest magnitude / 127; q = x / d, rounded half away from zero.
void pack_q8_0(const float* in, int64_t blocks, std::byte* out) {
  for (int64_t b = 0; b < blocks; ++b, in += kSmall, out += 34) {
    float largest = 0;
    for (int i = 0; i < kSmall; ++i) largest = std::max(largest, std::abs(in[i]));
    const float d = largest / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    store(out, half_from_float(d));
    for (int i = 0; i < kSmall; ++i) store(out + 2 + i, int8_t(std::round(in[i] * inverse)));
  }
}

/// d = -1/8 of the value of largest magnitude (the first of equals), which becomes q = 0 exactly; q = x / d + 8,
/// rounded half up, at most 15.
void pack_q4_0(const float* in, int64_t blocks, std::byte* out) {
  for (int64_t b = 0; b < blocks; ++b, in += kSmall, out += 18) {
    float extreme = 0;
    for (int i = 0; i < kSmall; ++i)
      if (std::abs(in[i]) > std::abs(extreme)) extreme = in[i];
    const float d = extreme / -8.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    store(out, half_from_float(d));
    const auto code = [&](float x) { return std::min(15, int(x * inverse + 8.5f)); };
    for (int i = 0; i < 16; ++i) out[2 + i] = std::byte(code(in[i]) | code(in[i + 16]) << 4);
  }
}

// ---- K formats: 256 values --------------------------------------------------------------------------------

constexpr int kSuper = 256;

struct ScaleMin {
  int scale, min;
};

/// The j-th of eight 6-bit (scale, min) pairs in 12 bytes: pairs 0..3 in the low six bits of bytes j and j + 4; pairs
/// 4..7 have their low nibbles in byte j + 4 and their top two bits above the pairs 0..3.
ScaleMin scale_min(const std::byte* p, int j) {
  if (j < 4) return {byte_at(p, j) & 63, byte_at(p, j + 4) & 63};
  return {low(byte_at(p, j + 4)) | byte_at(p, j - 4) >> 6 << 4, high(byte_at(p, j + 4)) | byte_at(p, j) >> 6 << 4};
}

/// Q4_K and, with `fifth` bits, Q5_K: eight runs of 32; runs 2k and 2k + 1 are the low and high nibbles of 32 bytes,
/// and run j takes its fifth bit from bit j of the 32 bytes at `fifth`.
void unpack_k_block(const std::byte* in, const std::byte* fifth, const std::byte* nibbles, float* out) {
  const float d = half_at(in), dmin = half_at(in + 2);
  for (int run = 0; run < 8; ++run) {
    const ScaleMin s = scale_min(in + 4, run);
    const float scale = d * float(s.scale), min = dmin * float(s.min);
    for (int i = 0; i < 32; ++i) {
      const int q = byte_at(nibbles + run / 2 * 32, i);
      const int top = fifth == nullptr ? 0 : byte_at(fifth, i) >> run & 1;
      out[run * 32 + i] = scale * float((run % 2 ? high(q) : low(q)) | top << 4) - min;
    }
  }
}

void unpack_q4_k(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 144, out += kSuper) unpack_k_block(in, nullptr, in + 16, out);
}

void unpack_q5_k(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 176, out += kSuper) unpack_k_block(in, in + 16, in + 48, out);
}

/// Two halves of 128; in each, quarter c takes nibbles (low for c = 0, 1; high for 2, 3) of 64 bytes, the bit pair c of
/// 32 bytes, and one scale per 16 values.
void unpack_q6_k(const std::byte* in, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, in += 210, out += kSuper) {
    const float d = half_at(in + 208);
    for (int i = 0; i < kSuper; ++i) {
      const int half = i / 128, quarter = i / 32 % 4, lane = i % 32;
      const int nibble = byte_at(in + half * 64 + quarter % 2 * 32, lane);
      const int pair = byte_at(in + 128 + half * 32, lane) >> 2 * quarter & 3;
      const int q = (quarter < 2 ? low(nibble) : high(nibble)) | pair << 4;
      out[i] = d * float(load<int8_t>(in + 192 + i / 16)) * float(q - 32);
    }
  }
}

struct Known {
  uint32_t type;
  BlockFormat format;
};
constexpr Known kFormats[] = {
    {0, {"F32", 1, 4, false, unpack_plain<float>, pack_plain<float>}},
    {1, {"F16", 1, 2, false, unpack_plain<Half>, pack_plain<Half>}},
    {2, {"Q4_0", kSmall, 18, true, unpack_q4_0, pack_q4_0}},
    {3, {"Q4_1", kSmall, 20, true, unpack_q4_1}},
    {6, {"Q5_0", kSmall, 22, true, unpack_q5_0}},
    {7, {"Q5_1", kSmall, 24, true, unpack_q5_1}},
    {8, {"Q8_0", kSmall, 34, true, unpack_q8_0, pack_q8_0}},
    {12, {"Q4_K", kSuper, 144, true, unpack_q4_k}},
    {13, {"Q5_K", kSuper, 176, true, unpack_q5_k}},
    {14, {"Q6_K", kSuper, 210, true, unpack_q6_k}},
    {30, {"BF16", 1, 2, false, unpack_plain<BFloat16>, pack_plain<BFloat16>}},
};

}  // namespace

const BlockFormat* block_format(uint32_t type) {
  for (const Known& known : kFormats)
    if (known.type == type) return &known.format;
  return nullptr;
}

std::string block_format_names() {
  std::string names;
  for (const Known& known : kFormats) names += str(names.empty() ? "" : ", ", known.format.name, " (", known.type, ")");
  return names;
}

}  // namespace mantissa
