// Tensor: a value handle over shared storage. Always dense and row-major; a view is another shape or a range of rows of
// the same storage. No gradients here (autograd/ adds them) and no arithmetic (kernels do it).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/shape.h"

namespace mantissa {

class Backend;

/// A block of memory on one backend. The deleter gives it back (allocator, mmap, borrowed: whatever made it).
struct Storage {
  Storage(Backend& backend, void* data, size_t bytes, std::shared_ptr<void> owner)
      : backend(&backend), data(static_cast<std::byte*>(data)), bytes(bytes), owner(std::move(owner)) {}
  Backend* backend;
  std::byte* data;
  size_t bytes;
  std::shared_ptr<void> owner;  // destroyed with the storage
};

class Tensor {
 public:
  Tensor() = default;
  /// Uninitialised memory from the backend's allocator.
  Tensor(Backend& backend, Shape shape, Dtype dtype);
  /// A view of existing storage, starting at `offset` bytes. Throws if it does not fit.
  Tensor(std::shared_ptr<Storage> storage, size_t offset, Shape shape, Dtype dtype);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t size(int dim) const { return shape_[dim]; }
  int64_t numel() const { return shape_.numel(); }
  int64_t rows() const { return shape_.rows(); }
  size_t bytes() const { return size_t(numel()) * size_of(dtype_); }
  Dtype dtype() const { return dtype_; }
  Backend& backend() const { return *storage_->backend; }
  void* raw() const { return storage_->data + offset_; }

  /// Typed pointer to the first element; throws unless T is this tensor's element type. Device memory stays device
  /// memory: dereference only on the CPU backend.
  template <class T>
  T* data() const {
    check(dtype_of<T>() == dtype_, "[tensor] holds ", name_of(dtype_), ", asked for ", name_of(dtype_of<T>()));
    return reinterpret_cast<T*>(raw());
  }

  /// Same elements under another shape of equal size.
  Tensor view(Shape shape) const;
  /// Rows [begin, end) of the first dimension.
  Tensor slice(int64_t begin, int64_t end) const;
  /// True when no other handle (view, slice, copy) shares the storage: writing in place disturbs nobody.
  bool unique() const { return storage_.use_count() == 1; }
  /// True when both handles point at the same bytes.
  bool same_as(const Tensor& other) const { return defined() && other.defined() && raw() == other.raw(); }

 private:
  std::shared_ptr<Storage> storage_;
  size_t offset_ = 0;
  Shape shape_;
  Dtype dtype_ = Dtype::kF32;
};

/// A tensor on `backend` holding a copy of host values; and back. The values may go at return; to_host waits.
template <class T>
Tensor tensor_from(Backend& backend, std::span<const T> values, Shape shape);
template <class T>
std::vector<T> to_host(const Tensor& t);
/// Any floating tensor as float values on the host.
std::vector<float> to_host_float(const Tensor& t);

}  // namespace mantissa
