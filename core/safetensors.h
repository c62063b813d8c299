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

#include "core/file.h"
#include "core/tensor.h"

namespace mantissa {

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
  /// The same of rows `first` and following, as many as `out` has.
  void read_rows(const std::string& name, int64_t first, Tensor& out) const;

 private:
  void parse(std::span<const std::byte> image);
  void read_values(const std::string& name, const Entry& entry, std::span<const std::byte> data, Tensor& out) const;

  std::unique_ptr<MappedFile> file_;  // null: borrowed memory
  std::string where_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

struct NamedTensor {
  std::string name;
  Tensor tensor;  // on any backend
};

/// A tensor of a file to be: `dtype` is its type there.
struct TensorSpec {
  std::string name;
  Shape shape;
  Dtype dtype;
};

/// A file that is written tensor by tensor (aside, flushed, renamed). Its own host memory is bounded, 32 MiB, however
/// large a tensor is.
class SafetensorsWriter {
 public:
  /// Of `specs`, which must have names of their own, in their order; wider types before narrower ones keep every tensor
  /// aligned to its elements.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> specs,
                    const std::map<std::string, std::string>& metadata = {});
  /// The next of them, on any backend: floating values are rounded once to the type of its spec.
  void write(const Tensor& tensor);
  bool complete() const { return next_ == specs_.size(); }
  /// After the last one.
  void commit();

 private:
  std::string where_;
  std::vector<TensorSpec> specs_;
  size_t next_ = 0;
  AtomicFile file_;
  std::vector<std::byte> host_, rounded_;
};

/// A file that several processes write at once, each what it has of the tensors (SharedFile).
class SharedSafetensors {
 public:
  /// All processes give the same `specs`; one writes the header.
  SharedSafetensors(const std::filesystem::path& path, std::vector<TensorSpec> specs, bool header);
  /// Elements `first` and following of tensor number `index`: values of its type, on any backend. What lies in host
  /// memory is written from where it is, other values go through 16 MiB of it.
  void write(size_t index, int64_t first, const Tensor& values);
  /// Returns when all that this process wrote is on the disk.
  void flush() { file_.flush(); }

 private:
  std::string where_;
  std::vector<TensorSpec> specs_;
  std::vector<size_t> begins_;  // of the tensors, in the file
  SharedFile file_;
  std::vector<std::byte> host_;
};

/// Writes `tensors` to `path` by a SafetensorsWriter, floating ones rounded to `dtype` when given.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       std::optional<Dtype> dtype = {}, const std::map<std::string, std::string>& metadata = {});

/// `count` floating values at `from` (any alignment) rounded once into `to`. fp64 goes to fp32 and fp64 only: by way of
/// fp32 it would be rounded twice.
void convert_floats(const void* from, Dtype from_dtype, void* to, Dtype to_dtype, int64_t count);

}  // namespace mantissa
