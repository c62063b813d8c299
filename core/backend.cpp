#include "core/backend.h"

#include <algorithm>

namespace mantissa {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

/// The CPU's: all its memory is host memory.
std::shared_ptr<Storage> Backend::allocate_host(size_t bytes) {
  std::shared_ptr<Storage> memory = allocate(bytes);
  zero(memory->data, bytes);
  return memory;
}

Tensor Exec::zeros(Shape shape, Dtype dtype) {
  Tensor t = empty(shape, dtype);
  backend_->zero(t.raw(), t.bytes());
  return t;
}

void* Scratch::take_bytes(size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (!exec_.scratch_ || exec_.scratch_used_ + bytes > exec_.scratch_->bytes) {
    if (exec_.scratch_) exec_.outgrown_scratch_.push_back(exec_.scratch_);
    const size_t grown = exec_.scratch_ ? exec_.scratch_->bytes * 2 : size_t(1) << 20;
    exec_.scratch_ = exec_.backend_->allocate(std::max(grown, exec_.scratch_used_ + bytes));
  }
  void* p = exec_.scratch_->data + exec_.scratch_used_;
  exec_.scratch_used_ += bytes;
  return p;
}

}  // namespace mantissa
