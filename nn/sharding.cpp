#include "nn/sharding.h"

#include <algorithm>
#include <utility>

#include "core/kernels.h"
#include "core/registry.h"

namespace mantissa {

Comm& comm_of(Comm& all, const ParamSet& params, int unit) {
  return params.layout.of_experts(unit) && params.shard.experts > 1 ? all.column() : all;
}

namespace {

constexpr size_t kTogether = size_t(64) << 20;  // bytes of wholes that begin together

}  // namespace

void UnitCollectives::add(Comm& ranks, const Tensor& out, const Tensor& in) {
  if (ranks_ != &ranks) begin();
  ranks_ = &ranks;
  waiting_.push_back({out, in});
  bytes_ += std::max(out.bytes(), in.bytes());
  if (bytes_ >= kTogether) begin();
}

void UnitCollectives::begin() {
  if (waiting_.empty()) return;
  last_ = std::max(last_, (ranks_->*kind_)(exec_, std::exchange(waiting_, {}), Order::kOverlapped));
  bytes_ = 0;
}

void UnitCollectives::finish() {
  begin();
  all_.wait(exec_, std::exchange(last_, 0));
}

GradientSum::GradientSum(Exec& exec, Comm& comm, const ParamSet& params)
    : comm_(comm), params_(params), sums_(exec, comm, &Comm::reduce_scatter) {}

void GradientSum::begin(int unit) {
  if (params_.in_parts()) return;
  if (begun_ < 0) begun_ = params_.layout.units();
  while (begun_ > unit) {
    params_.grad.clear_fresh(params_.layout, --begun_);
    if (!params_.shard.whole())
      sums_.add(comm_of(comm_, params_, begun_), params_.reduced.unit(begun_), params_.grad.unit(begun_));
  }
  if (unit == 0) sums_.begin();
}

void GradientSum::finish() {
  begin(0);
  sums_.finish();
  begun_ = -1;
}

WeightGather::WeightGather(Exec& exec, Comm& comm, const ParamSet& params)
    : comm_(comm), params_(params), gathers_(exec, comm, &Comm::all_gather) {}

void WeightGather::begin(const ParamBuffer& copy, int unit) {
  if (params_.shard.whole() || !copy.shard().whole()) return;
  gathers_.add(comm_of(comm_, params_, unit), copy.unit(unit), copy.part(params_.layout, unit, params_.shard));
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
  WeightGather gather(exec, comm, params);
  for (int unit = 0; unit < params.layout.units(); ++unit) {
    if (const Tensor part = whole.part(params.layout, unit, params.shard); same)
      exec.backend().copy(part.raw(), params.compute.unit(unit).raw(), part.bytes());
    else
      cast_master(exec, params, whole, unit);
    gather.begin(whole, unit);
  }
  gather.finish();
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
