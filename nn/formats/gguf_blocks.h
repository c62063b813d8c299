// ggml's tensor types as block formats: so many elements packed in so many bytes, and the functions between them. Types
// that hold one value per element (F32, F16, BF16) are blocks of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mantissa {

struct BlockFormat {
  const char* name;
  int64_t elements;  // per block
  int64_t bytes;     // per block
  bool quantised;
  /// Unpacks `blocks` blocks at `in` (any alignment) to blocks * elements floats.
  void (*unpack)(const std::byte* in, int64_t blocks, float* out);
  /// The way back, rounded: plain values to nearest even, blocks as ggml's reference does. Null: a format that is only
  /// ever read.
  void (*pack)(const float* in, int64_t blocks, std::byte* out) = nullptr;
};

/// The format behind a ggml type number; null for one that is not supported.
const BlockFormat* block_format(uint32_t type);
/// "F32 (0), F16 (1), ...", for messages.
std::string block_format_names();

}  // namespace mantissa
