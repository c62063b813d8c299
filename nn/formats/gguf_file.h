// The GGUF container, little-endian:
//
//   "GGUF" | u32 version | u64 tensors | u64 keys
//   | keys x (string key, u32 type, value)
//   | tensors x (string name, u32 rank, u64 extents[rank] (fastest first), u32 type, u64 offset)
//   | padding | data
//
// with string = u64 length + bytes, array = u32 element type + u64 count + elements. Nothing of the header is believed
// before it is checked against the size of the file, and nothing is copied: values stay views into the file, so what is
// allocated is bounded by a small multiple of the header's own size.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"
#include "nn/formats/gguf_blocks.h"

namespace mantissa {

class GgufFile {
 public:
  struct Tensor {
    Shape shape;  // slowest first: a matrix is [out, in]
    const BlockFormat* format;
    std::span<const std::byte> data;
  };

  /// Parses the header of `image`, which must outlive this object. Throws Error naming `where`, the key or tensor, the
  /// rule and the value found.
  GgufFile(std::span<const std::byte> image, std::string where);

  const std::string& where() const { return where_; }
  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }

  // Metadata. Without `otherwise` a missing key is an error; a key of another type always is.
  bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
  /// Any integer type; negative values are errors.
  int64_t integer(std::string_view key, std::optional<int64_t> otherwise = {}) const;
  /// fp32 (as the shortest decimal that rounds to it) or fp64.
  double real(std::string_view key, std::optional<double> otherwise = {}) const;
  bool flag(std::string_view key, bool otherwise) const;
  std::string_view text(std::string_view key, std::optional<std::string_view> otherwise = {}) const;
  std::vector<std::string_view> texts(std::string_view key) const;
  std::vector<float> reals(std::string_view key) const;
  std::vector<int32_t> integers(std::string_view key) const;

 private:
  struct Value {
    uint32_t type;  // of the element, for an array
    bool array;
    uint64_t count;  // 1 for a scalar
    std::span<const std::byte> payload;
  };
  class Cursor;

  const Value* find(std::string_view key, bool required) const;
  const Value& expect(std::string_view key, const Value& value, bool array, std::initializer_list<uint32_t> types,
                      const char* what) const;
  Value read_value(Cursor& in, const std::string& key) const;
  void read_tensors(Cursor& in, uint64_t count);

  std::string where_;
  std::map<std::string, Value, std::less<>> values_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace mantissa
