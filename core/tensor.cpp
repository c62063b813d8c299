#include "core/tensor.h"

#include "core/backend.h"

namespace mantissa {

Tensor::Tensor(Backend& backend, Shape shape, Dtype dtype)
    : storage_(backend.allocate(size_t(shape.numel()) * size_of(dtype))), shape_(shape), dtype_(dtype) {}

Tensor::Tensor(std::shared_ptr<Storage> storage, size_t offset, Shape shape, Dtype dtype)
    : storage_(std::move(storage)), offset_(offset), shape_(shape), dtype_(dtype) {
  check(offset_ <= storage_->bytes && bytes() <= storage_->bytes - offset_, "[tensor] view of ", bytes(),
        " bytes at offset ", offset_, " leaves a storage of ", storage_->bytes, " bytes");
}

Tensor Tensor::view(Shape shape) const {
  check(shape.numel() == numel(), "[view] sizes must agree: ", shape_, " cannot be viewed as ", shape);
  return Tensor(storage_, offset_, shape, dtype_);
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  check(shape_.rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0], "[slice] rows [", begin, ", ", end,
        ") of a tensor of shape ", shape_);
  Shape shape;
  shape.push_back(end - begin);
  for (int i = 1; i < shape_.rank(); ++i) shape.push_back(shape_[i]);
  const int64_t row = shape_[0] == 0 ? 0 : numel() / shape_[0];
  return Tensor(storage_, offset_ + size_t(begin * row) * size_of(dtype_), shape, dtype_);
}

template <class T>
Tensor tensor_from(Backend& backend, std::span<const T> values, Shape shape) {
  check(int64_t(values.size()) == shape.numel(), "[tensor_from] ", values.size(), " values for shape ", shape);
  Tensor t(backend, shape, dtype_of<T>());
  backend.copy_from_host(t.raw(), values.data(), t.bytes());
  return t;
}

template <class T>
std::vector<T> to_host(const Tensor& t) {
  std::vector<T> values(size_t(t.numel()));
  t.backend().copy_to_host(values.data(), t.data<T>(), t.bytes());
  return values;
}

std::vector<float> to_host_float(const Tensor& t) {
  return dispatch_floating(t.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const std::vector<T> values = to_host<T>(t);
    std::vector<float> out(values.size());
    for (size_t i = 0; i < values.size(); ++i) out[i] = float(to_float(values[i]));
    return out;
  });
}

template Tensor tensor_from<float>(Backend&, std::span<const float>, Shape);
template Tensor tensor_from<double>(Backend&, std::span<const double>, Shape);
template Tensor tensor_from<Half>(Backend&, std::span<const Half>, Shape);
template Tensor tensor_from<BFloat16>(Backend&, std::span<const BFloat16>, Shape);
template Tensor tensor_from<int32_t>(Backend&, std::span<const int32_t>, Shape);
template Tensor tensor_from<uint8_t>(Backend&, std::span<const uint8_t>, Shape);
template std::vector<float> to_host<float>(const Tensor&);
template std::vector<double> to_host<double>(const Tensor&);
template std::vector<Half> to_host<Half>(const Tensor&);
template std::vector<BFloat16> to_host<BFloat16>(const Tensor&);
template std::vector<int32_t> to_host<int32_t>(const Tensor&);
template std::vector<uint8_t> to_host<uint8_t>(const Tensor&);

}  // namespace mantissa
