#include "nn/sharding.h"

#include "core/registry.h"

namespace mantissa {

void reduce_gradients(Exec& exec, Comm& comm, const ParamSet& params) {
  if (params.shard.whole()) return;
  Comm::Ticket last = 0;
  for (int unit = 0; unit < params.layout.units(); ++unit)
    last = comm.reduce_scatter(exec, params.reduced.unit(unit), params.grad.unit(unit), Order::kOverlapped);
  comm.wait(exec, last);
}

void gather_parts(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& copy) {
  if (params.shard.whole()) return;
  Comm::Ticket last = 0;
  for (int unit = 0; unit < params.layout.units(); ++unit)
    last = comm.all_gather(exec, copy.unit(unit), copy.part(unit, params.shard), Order::kOverlapped);
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
