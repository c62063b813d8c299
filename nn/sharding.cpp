#include "nn/sharding.h"

#include "core/registry.h"

namespace mantissa {

void GradientSum::begin(int unit) {
  if (params_.shard.whole()) return;
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
  if (params.shard.whole()) return 0;
  return comm.all_gather(exec, copy.unit(unit), copy.part(unit, params.shard), Order::kOverlapped);
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

ParamBuffer gather_whole(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& parts) {
  if (params.shard.whole()) return parts;
  ParamBuffer whole;
  Exec host(cpu());
  if (comm.main()) whole = ParamBuffer(host, params.layout, parts.dtype());
  for (int unit = 0; unit < params.layout.units(); ++unit) {
    const Tensor part = staged(exec, params, parts.unit(unit));
    const Tensor all = exec.empty({part.numel() * comm.size()}, part.dtype());
    comm.all_gather(exec, all, part);
    if (comm.main()) all.backend().copy_to_host(whole.unit(unit).raw(), all.raw(), all.bytes());
  }
  return whole;
}

}  // namespace mantissa
