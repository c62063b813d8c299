#include "nn/param_windows.h"

#include <algorithm>

#include "core/kernels.h"
#include "nn/sharding.h"

namespace mantissa {

void ParamWindows::Units::make(const ParamLayout& layout, Backend& backend, Dtype dtype) {
  for (int unit = 0; unit < layout.units(); ++unit) {
    const size_t bytes = size_t(layout.size(unit)) * size_of(dtype);
    storages.push_back(std::make_shared<Storage>(backend, nullptr, bytes, nullptr));
    flat.emplace_back(storages.back(), 0, Shape{layout.size(unit)}, dtype);
  }
  for (size_t i = 0; i < layout.params().size(); ++i) {
    const ParamId id{int(i)};
    views.push_back(layout.within(flat[size_t(layout[id].unit)], id));
  }
}

void ParamWindows::Units::take(int unit) {
  Storage& window = *storages[size_t(unit)];
  std::shared_ptr<Storage> block = window.backend->allocate(window.bytes);
  window.data = block->data;
  window.owner = std::move(block);
}

void ParamWindows::Units::give_back(int unit) {
  Storage& window = *storages[size_t(unit)];
  window.data = nullptr;
  window.owner = nullptr;
}

ParamWindows::ParamWindows(Exec& exec, Comm& comm, const ParamSet& params, bool rollout)
    : exec_(exec),
      comm_(comm),
      params_(params),
      parts_(rollout ? params.for_rollout() : params.compute),
      gathered_(size_t(params.layout.units()), 0) {
  weights_.make(params.layout, exec.backend(), parts_.dtype());
  if (params.reduced.defined() && !rollout) gradients_.make(params.layout, exec.backend(), params.reduced.dtype());
}

void ParamWindows::gather(int unit) {
  weights_.take(unit);
  gathered_[size_t(unit)] = comm_of(comm_, params_, unit)
                                .all_gather(exec_, weights_.flat[size_t(unit)], parts_.unit(unit), Order::kOverlapped);
}

/// What is on its way must have come before its place is given to others.
void ParamWindows::release(int unit) {
  if (!weights_.here(unit)) return;
  comm_.wait(exec_, gathered_[size_t(unit)]);
  weights_.give_back(unit);
}

void ParamWindows::use(std::span<const int> units, std::span<const int> next) {
  for (int unit = 0; unit < params_.layout.units(); ++unit)
    if (std::ranges::count(next, unit) == 0 && std::ranges::count(units, unit) == 0) release(unit);
  for (const int unit : units)
    if (!weights_.here(unit)) gather(unit);
  for (const int unit : units) comm_.wait(exec_, gathered_[size_t(unit)]);
  for (const int unit : next)
    if (!weights_.here(unit)) gather(unit);
}

void ParamWindows::open(int unit) {
  if (gradients_.here(unit)) return;
  gradients_.take(unit);
  const Tensor& all = gradients_.flat[size_t(unit)];
  exec_.backend().zero(all.raw(), all.bytes());
}

void ParamWindows::reduce(int unit) {
  add_reduced();
  reducing_ = unit;
  reduction_ = comm_of(comm_, params_, unit)
                   .reduce_scatter(exec_, own_gradients(unit), gradients_.flat[size_t(unit)], Order::kOverlapped);
}

Tensor ParamWindows::own_gradients(int unit) const {
  const ParamLayout::Extent part = params_.layout.part(unit, params_.shard);
  const int64_t begin = params_.layout.extent(unit).begin;
  return gradients_.flat[size_t(unit)].slice(part.begin - begin, part.end - begin);
}

void ParamWindows::add_reduced() {
  if (reducing_ < 0) return;
  comm_.wait(exec_, reduction_);
  Tensor sum = params_.reduced.unit(reducing_);
  MANTISSA_RUN(exec_, binary, sum, sum, own_gradients(reducing_), Binary::kAdd);
  gradients_.give_back(reducing_);
  reducing_ = -1;
}

void ParamWindows::clear() {
  add_reduced();
  for (int unit = 0; unit < params_.layout.units(); ++unit) {
    release(unit);
    if (!gradients_.storages.empty() && gradients_.here(unit)) gradients_.give_back(unit);
  }
}

}  // namespace mantissa
