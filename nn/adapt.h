// A model and its adapter: putting one on, drawing its first values, adding it to the weights.
#pragma once

#include "nn/model.h"

namespace mantissa {

/// Gives the model an adapter of zeros in the model's compute type, with a rollout copy where the model has one, and
/// with masters where asked for. Where the model has one of the same config already, that one keeps its buffers, so
/// that recorded rollouts stay valid.
Adapter& add_adapter(Model& model, const AdapterConfig& config, bool masters = false, Shard shard = {},
                     Placement placement = Placement::kDevice);
/// A as PEFT draws it, "kaiming" (uniform in +-1/sqrt(K)) or "gaussian" (deviation 1/r), and B zero: the model computes
/// what it computed without. Values depend on the seed, the layer and the name alone.
void draw_adapter(Model& model, const std::string& init, uint64_t seed);

/// The model's weights with the update: to = round(from + sign * s B A), in fp32 (fp64) and one rounding, of the A and
/// B that training multiplies with. `to` may be `from`: what is not adapted is then left alone, else copied.
void merge_adapter(Exec& exec, const Model& model, const ParamBuffer& from, const ParamBuffer& to, double sign = 1.0);

}  // namespace mantissa
