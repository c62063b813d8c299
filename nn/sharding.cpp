#include "nn/sharding.h"

#include <algorithm>

#include "core/kernels.h"
#include "core/registry.h"

namespace mantissa {

void GradientSum::begin(int unit) {
  if (params_.shard.whole() || params_.in_parts()) return;
  if (begun_ < 0) begun_ = params_.layout.units();
  while (begun_ > unit) {
    --begun_;
    last_ = comm_.reduce_scatter(exec_, params_.reduced.unit(begun_), params_.grad.unit(begun_), Order::kOverlapped);
  }
}

void GradientSum::finish() {
  begin(0);
  comm_.wait(exec_, last_);
  begun_ = -1;
}

Comm::Ticket gather_unit(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& copy, int unit) {
  if (params.shard.whole() || !copy.shard().whole()) return 0;
  return comm.all_gather(exec, copy.unit(unit), copy.part(unit, params.shard), Order::kOverlapped);
}

void gather_weights(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& whole) {
  const bool same = whole.dtype() == params.compute.dtype();
  Comm::Ticket last = 0;
  for (int unit = 0; unit < params.layout.units(); ++unit) {
    Tensor part = whole.part(unit, params.shard);
    if (same)
      exec.backend().copy(part.raw(), params.compute.unit(unit).raw(), part.bytes());
    else
      MANTISSA_RUN(exec, cast, part, staged(exec, params, params.master.unit(unit)));
    last = gather_unit(exec, comm, params, whole, unit);
  }
  comm.wait(exec, last);
}

Tensor staged(Exec& exec, const ParamSet& params, const Tensor& values) {
  if (params.placement == Placement::kDevice || &values.backend() != &cpu()) return values;
  const Tensor copy = exec.empty(values.shape(), values.dtype());
  exec.backend().copy_from_host(copy.raw(), values.raw(), values.bytes());
  return copy;
}

void put_back(const ParamSet& params, const Tensor& values, const Tensor& copy) {
  if (params.placement == Placement::kHost) copy.backend().copy_to_host(values.raw(), copy.raw(), copy.bytes());
}

namespace {

constexpr int64_t kPiece = int64_t(1) << 23;  // elements of a part that are on the device at once

/// On the main process `whole` takes the unit.
void gather_into(Exec& exec, Comm& comm, const ParamSet& params, const Tensor& part, const Tensor& whole) {
  const int64_t size = part.numel();
  for (int64_t begin = 0; begin < size; begin += kPiece) {
    const int64_t end = std::min(begin + kPiece, size);
    const Tensor piece = staged(exec, params, part.slice(begin, end));
    const Tensor all = exec.empty({(end - begin) * comm.size()}, part.dtype());
    comm.all_gather(exec, all, piece);
    for (int64_t r = 0; r < comm.size() && comm.main(); ++r) {
      const Tensor from = all.slice(r * (end - begin), (r + 1) * (end - begin));
      all.backend().copy_to_host(whole.slice(r * size + begin, r * size + end).raw(), from.raw(), from.bytes());
    }
  }
}

}  // namespace

Tensor UnitGather::operator()(const ParamBuffer& buffer, int unit) {
  const Tensor& part = buffer.unit(unit);
  if (buffer.shard().whole()) return part;
  Tensor whole;
  if (comm_.main()) {
    const Shape size{part.numel() * comm_.size()};
    int64_t largest = 0;
    for (int i = 0; i < params_.layout.units(); ++i) largest = std::max(largest, params_.layout.size(i));
    const size_t bytes = size_t(largest) * size_of(part.dtype());
    if (!room_ || room_->bytes < bytes) room_ = cpu().allocate(bytes);
    whole = Tensor(room_, 0, size, part.dtype());
  }
  gather_into(exec_, comm_, params_, part, whole);
  return whole;
}

ParamBuffer gather_whole(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& parts) {
  if (parts.shard().whole()) return parts;
  ParamBuffer whole;
  Exec host(cpu());
  if (comm.main()) whole = ParamBuffer(host, params.layout, parts.dtype());
  for (int unit = 0; unit < params.layout.units(); ++unit)
    gather_into(exec, comm, params, parts.unit(unit), comm.main() ? whole.unit(unit) : Tensor());
  return whole;
}

}  // namespace mantissa
