// safetensors: named dense tensors in one file (https://github.com/huggingface/safetensors):
//
//   u64 little-endian N | N bytes of JSON header | data
//   header: {"name": {"dtype": "F16", "shape": [2,3], "data_offsets": [begin, end]}, ...,
//            "__metadata__": {"key": "value"}}
//
// The header is checked before anything believes it: its length against the file, types, names once, the byte count of
// each tensor against dtype and shape, and that the tensors tile the data exactly (no overlap, no gap, no rest), which
// is what the format demands. Nothing is allocated beyond what the header itself takes.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace mantissa {

class MappedFile;

class Safetensors {
 public:
  struct Entry {
    std::string dtype;  // as in the file: F64 F32 F16 BF16 I64 I32 ... (any type of the format)
    std::vector<int64_t> shape;
    std::span<const std::byte> data;
  };

  /// Maps a file. Throws Error naming the file, the tensor, the rule and the value found.
  explicit Safetensors(const std::filesystem::path& path);
  /// Reads from memory that outlives this object; `where` stands in messages.
  Safetensors(std::span<const std::byte> image, std::string where);
  ~Safetensors();
  Safetensors(Safetensors&&) noexcept;

  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& where() const { return where_; }
  /// Throws when there is no such tensor.
  const Entry& at(const std::string& name) const;
  /// Shape of a tensor of at most four dimensions.
  Shape shape(const std::string& name) const;
  /// Values of a tensor rounded once into `out`: host memory with as many elements. F16, BF16 and F32 go to any
  /// floating type, F64 to fp32 and fp64, I32 and I64 to int32 (values must fit).
  void read(const std::string& name, Tensor& out) const;

 private:
  void parse(std::span<const std::byte> image);

  std::unique_ptr<MappedFile> file_;  // null: borrowed memory
  std::string where_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

struct NamedTensor {
  std::string name;
  Tensor tensor;  // on any backend
};

/// Writes `tensors` to `path` (aside, flushed, renamed), floating ones rounded to `dtype` when given. One tensor at a
/// time is held on the host.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       std::optional<Dtype> dtype = {}, const std::map<std::string, std::string>& metadata = {});

/// `count` floating values at `from` (any alignment) rounded once into `to`. fp64 goes to fp32 and fp64 only: by way of
/// fp32 it would be rounded twice.
void convert_floats(const void* from, Dtype from_dtype, void* to, Dtype to_dtype, int64_t count);

}  // namespace mantissa
