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

Shape ParamInfo::whole_shape() const {
  Shape whole{rows};
  for (int i = 1; i < shape.rank(); ++i) whole.push_back(shape[i]);
  return whole;
}

int ParamLayout::add_unit(std::string name, bool of_experts) {
  unit_names_.push_back(std::move(name));
  of_experts_.push_back(of_experts);
  return units() - 1;
}

ParamId ParamLayout::add(int unit, std::string name, Shape shape, bool decay) {
  return add_rows(unit, std::move(name), shape, decay, 0, shape[0]);
}

ParamId ParamLayout::add_rows(int unit, std::string name, Shape shape, bool decay, int64_t first_row, int64_t rows) {
  check(extents_.empty(), "[params] \"", name, "\" is added to a finished layout");
  check(unit >= 0 && unit < units(), "[params] \"", name, "\" belongs to unit ", unit, " of ", units());
  check(first_row >= 0 && first_row + shape[0] <= rows, "[params] \"", name, "\" has ", rows, " rows, none of [",
        first_row, ", ", first_row + shape[0], ")");
  params_.push_back({std::move(name), shape, unit, decay, 0, first_row, rows});
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

ParamLayout ParamLayout::whole() const {
  ParamLayout all;
  for (int unit = 0; unit < units(); ++unit) all.add_unit(unit_names_[size_t(unit)], of_experts(unit));
  for (const ParamInfo& p : params_) all.add(p.unit, p.name, p.whole_shape(), p.decay);
  all.finish();
  return all;
}

int64_t ParamLayout::parameters() const {
  int64_t all = 0;
  for (const ParamInfo& p : params_) all += p.shape.numel();
  return all;
}

Shard ParamLayout::shard_of(int unit, Shard all) const {
  return of_experts(unit) ? Shard{all.rank / all.experts, all.world_size / all.experts} : all;
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

ParamLayout::Extent ParamLayout::part(int unit, Shard of) const {
  const Extent& all = extent(unit);
  const Shard shard = shard_of(unit, of);
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
  std::vector<int64_t> begin{0};
  for (int unit = 0; unit < layout.units(); ++unit)
    begin.push_back(begin.back() + layout.size(unit) / layout.shard_of(unit, shard).world_size);
  const Shape size{begin.back()};
  flat_ = placement == Placement::kDevice
              ? exec.zeros(size, dtype)
              : Tensor(exec.backend().allocate_host(size_t(size.numel()) * size_of(dtype)), 0, size, dtype);
  for (size_t unit = 0; unit + 1 < begin.size(); ++unit) units_.push_back(flat_.slice(begin[unit], begin[unit + 1]));
  if (!shard.whole()) return;
  for (const ParamInfo& p : layout.params()) {
    views_.push_back(flat_.slice(p.offset, p.offset + p.shape.numel()).view(p.shape));
    fresh_.push_back(std::make_shared<bool>(false));
  }
}

ParamBuffer::ParamBuffer(const ParamBuffer& whole, const ParamLayout& layout, Shard shard) : shard_(shard) {
  for (int unit = 0; unit < layout.units(); ++unit) units_.push_back(whole.part(layout, unit, shard));
}

const Tensor& ParamBuffer::operator[](ParamId id) const {
  check(shard_.whole(), "[params] a buffer of parts has no whole parameters");
  return views_[size_t(id.index)];
}

void ParamBuffer::set_fresh(bool fresh) const {
  for (const std::shared_ptr<bool>& own : fresh_) *own = fresh;
}

void ParamBuffer::clear_fresh(const ParamLayout& layout, int unit) const {
  for (size_t i = 0; i < fresh_.size(); ++i)
    if (layout.params()[i].unit == unit && std::exchange(*fresh_[i], false))
      flat_.backend().zero(views_[i].raw(), views_[i].bytes());
}

Tensor ParamBuffer::part(const ParamLayout& layout, int index, Shard of) const {
  if (!shard_.whole()) return unit(index);
  const Shard shard = layout.shard_of(index, of);
  const int64_t size = unit(index).numel() / shard.world_size;
  return unit(index).slice(shard.rank * size, (shard.rank + 1) * size);
}

Tensor ParamBuffer::rows(const ParamLayout& layout, ParamId id, int64_t begin, int64_t end) const {
  const ParamInfo& info = layout[id];
  const ParamLayout::Extent part = layout.part(info.unit, shard_);
  const int64_t low = std::clamp(info.offset, part.begin, part.end),
                high = std::clamp(info.offset + info.shape.numel(), part.begin, part.end);
  const auto at = [&](int64_t row) { return std::clamp(info.element(row), low, high) - part.begin; };
  return unit(info.unit).slice(at(begin), at(end));
}

bool ParamBuffer::holds(const ParamLayout& layout, ParamId id, int64_t begin, int64_t end) const {
  return rows(layout, id, begin, end).numel() > 0;
}

void ParamBuffer::store(const ParamLayout& layout, ParamId id, int64_t row, const Tensor& values) const {
  const ParamInfo& info = layout[id];
  check(values.dtype() == dtype(), "[params] ", info.name, " is kept as ", name_of(dtype()), ", got ",
        name_of(values.dtype()));
  const ParamLayout::Extent part = layout.part(info.unit, shard_);
  const int64_t first = info.element(row);
  const int64_t begin = std::max({first, part.begin, info.offset}),
                end = std::min({first + values.numel(), part.end, info.offset + info.shape.numel()});
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
