#include "nn/params.h"

#include "core/kernels.h"

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

ParamBuffer::ParamBuffer(Exec& exec, const ParamLayout& layout, Dtype dtype)
    : flat_(exec.zeros({layout.numel()}, dtype)) {
  for (const ParamInfo& p : layout.params())
    views_.push_back(flat_.slice(p.offset, p.offset + p.shape.numel()).view(p.shape));
}

}  // namespace mantissa
