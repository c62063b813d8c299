#include "nn/sharding.h"

#include <algorithm>

#include "core/kernels.h"
#include "core/registry.h"

namespace mantissa {

Comm& comm_of(Comm& all, const ParamSet& params, int unit) {
  return params.layout.of_experts(unit) && params.shard.experts > 1 ? all.column() : all;
}

void GradientSum::begin(int unit) {
  if (params_.in_parts()) return;
  if (begun_ < 0) begun_ = params_.layout.units();
  while (begun_ > unit) {
    params_.grad.clear_fresh(params_.layout, --begun_);
    if (params_.shard.whole()) continue;
    last_ = std::max(
        last_, comm_of(comm_, params_, begun_)
                   .reduce_scatter(exec_, params_.reduced.unit(begun_), params_.grad.unit(begun_), Order::kOverlapped));
  }
}

void GradientSum::finish() {
  begin(0);
  comm_.wait(exec_, last_);
  begun_ = -1;
}

Comm::Ticket gather_unit(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& copy, int unit) {
  if (params.shard.whole() || !copy.shard().whole()) return 0;
  return comm_of(comm, params, unit)
      .all_gather(exec, copy.unit(unit), copy.part(params.layout, unit, params.shard), Order::kOverlapped);
}

namespace {

void cast_master(Exec& exec, const ParamSet& params, const ParamBuffer& copy, int unit) {
  Tensor part = copy.part(params.layout, unit, params.shard);
  MANTISSA_RUN(exec, cast, part, staged(exec, params, params.master.unit(unit)));
}

}  // namespace

void cast_masters(Exec& exec, const ParamSet& params, const ParamBuffer& copy) {
  for (int unit = 0; unit < params.layout.units(); ++unit) cast_master(exec, params, copy, unit);
}

void gather_weights(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& whole) {
  const bool same = whole.dtype() == params.compute.dtype();
  Comm::Ticket last = 0;
  for (int unit = 0; unit < params.layout.units(); ++unit) {
    if (const Tensor part = whole.part(params.layout, unit, params.shard); same)
      exec.backend().copy(part.raw(), params.compute.unit(unit).raw(), part.bytes());
    else
      cast_master(exec, params, whole, unit);
    last = std::max(last, gather_unit(exec, comm, params, whole, unit));
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

/// Whether a buffer has all of a unit, the experts of other processes included.
bool has_all(const ParamSet& params, const ParamBuffer& buffer, int unit) {
  return buffer.shard().whole() && !(params.layout.of_experts(unit) && params.shard.experts > 1);
}

/// Elements of a unit that begin with number `begin`, as the process at place `place` among those that share out
/// experts has them, go to where they belong in all of it.
void put_in_place(const ParamLayout& here, const ParamLayout& all, int unit, int place, int64_t begin,
                  const Tensor& values, const Tensor& whole) {
  for (size_t i = 0; i < here.params().size(); ++i) {
    const ParamInfo &own = here.params()[i], &of_all = all.params()[i];
    if (own.unit != unit) continue;
    const int64_t first = own.offset - here.extent(unit).begin, count = own.shape.numel();
    const int64_t from = std::max(begin, first), upto = std::min(begin + values.numel(), first + count);
    if (from >= upto) continue;
    const int64_t to = of_all.offset - all.extent(unit).begin + place * count + from - first;
    const Tensor piece = values.slice(from - begin, upto - begin);
    piece.backend().copy_to_host(whole.slice(to, to + upto - from).raw(), piece.raw(), piece.bytes());
  }
}

/// On the main process `whole`, zero between parameters, takes the unit.
void gather_into(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& buffer, int unit,
                 const ParamLayout& layout, const Tensor& whole) {
  const Tensor& part = buffer.unit(unit);
  const int64_t size = part.numel();
  const int experts = params.layout.of_experts(unit) ? params.shard.experts : 1;
  Comm& ranks = buffer.shard().whole() ? comm.row() : comm;  // whole: the others of the row have the other experts
  for (int64_t begin = 0; begin < size; begin += kPiece) {
    const int64_t end = std::min(begin + kPiece, size);
    const Tensor piece = staged(exec, params, part.slice(begin, end));
    const Tensor all = exec.empty({(end - begin) * ranks.size()}, part.dtype());
    ranks.all_gather(exec, all, piece);
    for (int r = 0; r < ranks.size() && comm.main(); ++r)
      put_in_place(params.layout, layout, unit, r % experts, r / experts * size + begin,
                   all.slice(r * (end - begin), (r + 1) * (end - begin)), whole);
  }
}

}  // namespace

Tensor UnitGather::operator()(const ParamBuffer& buffer, int unit) {
  const Tensor& part = buffer.unit(unit);
  if (has_all(params_, buffer, unit)) return part;
  Tensor whole;
  if (comm_.main()) {
    int64_t largest = 0;
    for (int i = 0; i < whole_.units(); ++i) largest = std::max(largest, whole_.size(i));
    const size_t bytes = size_t(largest) * size_of(part.dtype());
    if (!room_ || room_->bytes < bytes) room_ = cpu().allocate(bytes);
    whole = Tensor(room_, 0, {whole_.size(unit)}, part.dtype());
    cpu().zero(whole.raw(), whole.bytes());
  }
  gather_into(exec_, comm_, params_, buffer, unit, whole_, whole);
  return whole;
}

ParamBuffer gather_whole(Exec& exec, Comm& comm, const ParamSet& params, const ParamBuffer& parts) {
  if (parts.shard().whole() && params.shard.experts == 1) return parts;
  const ParamLayout layout = params.layout.whole();
  ParamBuffer whole;
  Exec host(cpu());
  if (comm.main()) whole = ParamBuffer(host, layout, parts.dtype());
  for (int unit = 0; unit < layout.units(); ++unit) {
    const Tensor to = comm.main() ? whole.unit(unit) : Tensor();
    if (!has_all(params, parts, unit)) {
      gather_into(exec, comm, params, parts, unit, layout, to);
    } else if (comm.main()) {
      put_in_place(params.layout, layout, unit, 0, 0, parts.unit(unit), to);
    }
  }
  return whole;
}

}  // namespace mantissa
