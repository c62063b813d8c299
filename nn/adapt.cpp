#include "nn/adapt.h"

#include <cmath>
#include <cstring>

#include "autograd/support.h"
#include "core/random.h"
#include "core/registry.h"
#include "core/safetensors.h"
#include "core/text.h"

namespace mantissa {
namespace {

constexpr uint64_t kAdapterStream = 0xada9;

}  // namespace

Adapter& add_adapter(Model& model, const AdapterConfig& config, bool masters, Shard shard, Placement placement) {
  config.validate("adapter");
  const bool all = config.targets.size() == linear_names().size();
  for (const std::string& target : config.targets)
    check(model.config.experts.count == 0 || (target != "gate_proj" && target != "up_proj" && target != "down_proj"),
          "lora.targets: must be of q_proj, k_proj, v_proj, o_proj, since ", target,
          " is a mixture of experts, which can have no adapter; got ", all ? "all-linear" : join(config.targets));
  if (model.adapter && model.adapter->config == config && model.adapter->params.master.defined() == masters)
    return *model.adapter;
  auto adapter = std::make_shared<Adapter>(model.config, config, shard.world_size);
  ParamSet& set = adapter->params;
  set.allocate(*model.backend, model.params.compute.dtype(), masters, shard, placement);
  Exec exec(*model.backend);
  if (model.params.rollout.defined()) set.rollout = ParamBuffer(exec, set.layout, model.params.rollout.dtype());
  model.adapter = std::move(adapter);
  return *model.adapter;
}

void draw_adapter(Model& model, const std::string& init, uint64_t seed) {
  const Adapter& adapter = *model.adapter;
  const ParamSet& set = adapter.params;
  const int64_t rank = adapter.config.rank;
  uint64_t stream = kAdapterStream << 32;
  for (const AdapterPart& part : adapter_parts(model.config, adapter)) {
    RandomStream random(seed, stream++);
    std::vector<float> values(size_t(rank * part.inputs));
    const float bound = float(1.0 / std::sqrt(double(part.inputs)));
    for (float& x : values)
      x = init == "gaussian" ? random.normal() / float(rank) : bound * (2.0f * random.uniform() - 1.0f);
    for (const ParamBuffer* buffer : {&set.compute, &set.rollout, &set.master}) {
      if (!buffer->defined()) continue;
      Tensor rounded(cpu(), {rank, part.inputs}, buffer->dtype());
      convert_floats(values.data(), Dtype::kF32, rounded.raw(), rounded.dtype(), rounded.numel());
      buffer->store(set.layout, part.a, part.a_row, rounded);
    }
  }
}

void merge_adapter(Exec& exec, const Model& model, const ParamBuffer& from, const ParamBuffer& to, double sign) {
  const Adapter& adapter = *model.adapter;
  const ParamBuffer& values = adapter.params.compute;
  const Dtype wide = accumulator_of(from.dtype());
  const int64_t padded = adapter.config.padded_rank();
  if (!to.flat().same_as(from.flat())) {
    Tensor all = to.flat();
    MANTISSA_RUN(exec, cast, all, from.flat());
  }
  for (const AdapterPart& part : adapter_parts(model.config, adapter)) {
    const ParamId weight = model.decoder->params().layers[size_t(part.layer)][part.projection];
    const Tensor a = ops::cast_to(exec, values[part.a].slice(part.a_row, part.a_row + padded), wide);
    const Tensor b = ops::cast_to(exec, values[part.b].slice(part.b_row, part.b_row + part.rows.size()), wide);
    Tensor update = exec.empty({part.rows.size(), part.inputs}, wide);
    MANTISSA_RUN(exec, matmul, update, b, a, Trans::kNN, false);
    MANTISSA_RUN(exec, unary, update, update, Unary::kAffine, sign * adapter.config.scale(), 0.0);
    Tensor merged = to[weight].slice(part.rows.begin, part.rows.end);
    MANTISSA_RUN(exec, binary, merged, from[weight].slice(part.rows.begin, part.rows.end), update, Binary::kAdd);
  }
}

}  // namespace mantissa
