#include "nn/params.h"

#include <algorithm>

#include "core/kernels.h"
#include "core/registry.h"

namespace mantissa {
namespace {

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

int ParamLayout::add_unit(std::string name) {
  unit_names_.push_back(std::move(name));
  return units() - 1;
}

ParamId ParamLayout::add(int unit, std::string name, Shape shape, bool decay) {
  check(extents_.empty(), "[params] \"", name, "\" is added to a finished layout");
  check(unit >= 0 && unit < units(), "[params] \"", name, "\" belongs to unit ", unit, " of ", units());
  params_.push_back({std::move(name), shape, unit, decay, 0});
  return {int(params_.size()) - 1};
}

void ParamLayout::finish(int world_size) {
  check(extents_.empty(), "[params] the layout is finished already");
  check(world_size >= 1, "[params] world size must be positive, got ", world_size);
  for (int unit = 0; unit < units(); ++unit) {
    Extent extent{numel_, 0, 0};
    for (const bool decay : {true, false}) {
      for (ParamInfo& p : params_) {
        if (p.unit != unit || p.decay != decay) continue;
        p.offset = numel_;
        numel_ += round_up(p.shape.numel(), kAlign);
      }
      if (decay) extent.decay_end = numel_;
    }
    numel_ = extent.end = extent.begin + round_up(numel_ - extent.begin, kAlign * world_size);
    extents_.push_back(extent);
  }
}

ParamId ParamLayout::find(const std::string& name) const {
  for (size_t i = 0; i < params_.size(); ++i)
    if (params_[i].name == name) return {int(i)};
  fail("[params] there is no parameter \"", name, "\"");
}

std::vector<ParamId> ParamLayout::by_unit() const {
  std::vector<ParamId> order(params_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = {int(i)};
  std::ranges::stable_sort(order, {}, [this](ParamId id) { return (*this)[id].unit; });
  return order;
}

ParamLayout::Extent ParamLayout::part(int unit, Shard shard) const {
  const Extent& all = extent(unit);
  const int64_t size = (all.end - all.begin) / shard.world_size, begin = all.begin + shard.rank * size;
  return {begin, std::clamp(all.decay_end, begin, begin + size), begin + size};
}

Tensor ParamLayout::within(const Tensor& unit, ParamId id) const {
  const ParamInfo& info = (*this)[id];
  const int64_t begin = info.offset - extent(info.unit).begin;
  return unit.slice(begin, begin + info.shape.numel()).view(info.shape);
}

ParamBuffer::ParamBuffer(Exec& exec, const ParamLayout& layout, Dtype dtype, Shard shard, Placement placement)
    : shard_(shard) {
  const Shape size{layout.numel() / shard.world_size};
  flat_ = placement == Placement::kDevice
              ? exec.zeros(size, dtype)
              : Tensor(exec.backend().allocate_host(size_t(size.numel()) * size_of(dtype)), 0, size, dtype);
  for (int unit = 0; unit < layout.units(); ++unit) {
    const ParamLayout::Extent& extent = layout.extent(unit);
    units_.push_back(flat_.slice(extent.begin / shard.world_size, extent.end / shard.world_size));
  }
  if (!shard.whole()) return;
  for (const ParamInfo& p : layout.params())
    views_.push_back(flat_.slice(p.offset, p.offset + p.shape.numel()).view(p.shape));
}

ParamBuffer::ParamBuffer(const ParamBuffer& whole, const ParamLayout& layout, Shard shard) : shard_(shard) {
  for (int unit = 0; unit < layout.units(); ++unit) units_.push_back(whole.part(unit, shard));
}

const Tensor& ParamBuffer::operator[](ParamId id) const {
  check(shard_.whole(), "[params] a buffer of parts has no whole parameters");
  return views_[size_t(id.index)];
}

Tensor ParamBuffer::part(int index, Shard shard) const {
  if (!shard_.whole()) return unit(index);
  const int64_t size = unit(index).numel() / shard.world_size;
  return unit(index).slice(shard.rank * size, (shard.rank + 1) * size);
}

Tensor ParamBuffer::rows(const ParamLayout& layout, ParamId id, int64_t begin, int64_t end) const {
  const ParamInfo& info = layout[id];
  const ParamLayout::Extent part = layout.part(info.unit, shard_);
  const int64_t from = std::clamp(info.element(begin), part.begin, part.end);
  return unit(info.unit).slice(from - part.begin, std::clamp(info.element(end), part.begin, part.end) - part.begin);
}

bool ParamBuffer::holds(const ParamLayout& layout, ParamId id, int64_t begin, int64_t end) const {
  const ParamInfo& info = layout[id];
  const ParamLayout::Extent part = layout.part(info.unit, shard_);
  return info.element(begin) < part.end && part.begin < info.element(end);
}

void ParamBuffer::store(const ParamLayout& layout, ParamId id, int64_t row, const Tensor& values) const {
  const ParamInfo& info = layout[id];
  check(values.dtype() == dtype(), "[params] ", info.name, " is kept as ", name_of(dtype()), ", got ",
        name_of(values.dtype()));
  const ParamLayout::Extent part = layout.part(info.unit, shard_);
  const int64_t first = info.element(row);
  const int64_t begin = std::max(first, part.begin), end = std::min(first + values.numel(), part.end);
  if (begin >= end) return;
  const Tensor from = values.view({values.numel()}).slice(begin - first, end - first);
  const Tensor to = unit(info.unit).slice(begin - part.begin, end - part.begin);
  to.backend().copy_from_host(to.raw(), from.raw(), from.bytes());
}

void ParamSet::allocate(Backend& backend, Dtype dtype, bool masters, Shard own, Placement where, Sharding sharding) {
  Exec exec(backend);
  shard = own;
  placement = where;
  compute = ParamBuffer(exec, layout, dtype, sharding == Sharding::kParameters ? own : Shard());
  if (!masters) return;
  const Dtype master_dtype = is_16bit(dtype) ? Dtype::kF32 : dtype;
  master = masters_itself() ? compute : ParamBuffer(exec, layout, master_dtype, shard, placement);
}

}  // namespace mantissa
