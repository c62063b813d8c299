// Where the tensors of a model come from: one interface over safetensors files and GGUF.
#pragma once

#include <string>
#include <vector>

#include "core/backend.h"

namespace mantissa {

/// Named host tensors that fill a model: safetensors files, a GGUF file. Names are Hugging Face's.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// Names present, for the unused-tensor check.
  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  virtual Shape shape(const std::string& name) const = 0;
  /// The values, rounded once into `out` (host memory, `out.numel()` elements of out.dtype()); nothing else is held.
  virtual void read(const std::string& name, Tensor& out) const = 0;
  /// For messages: the file or directory.
  virtual std::string where() const = 0;
};

}  // namespace mantissa
