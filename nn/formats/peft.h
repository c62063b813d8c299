// Adapters on the disk, as PEFT's save_pretrained writes them: adapter_config.json, and adapter_model.safetensors with
// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" [r, K] and "...lora_B.weight" [N, r]. What would
// compute something else (DoRA, aLoRA, ranks that differ by layer, biases, layers left out) is refused by name.
//
// A run's checkpoint with an adapter is read as well: its masters, by the layout that its adapter_config.json gives.
#pragma once

#include <filesystem>
#include <map>

#include "core/safetensors.h"
#include "nn/adapt.h"

namespace mantissa {

/// What the adapter in a directory computes. Of a PEFT directory the targets are the names that have tensors in it.
AdapterConfig read_adapter_config(const std::filesystem::path& directory);
/// Puts the adapter of a directory on the model (add_adapter). Throws Error naming the file, the tensor or key, the
/// rule and the value; also where a value is not finite in the model's type, and where target_modules and
/// exclude_modules of a PEFT directory ask for other modules than have tensors. Gives a notice of keys it knows not.
void load_adapter(Model& model, const std::filesystem::path& directory, bool masters = false, Shard shard = {},
                  Placement placement = Placement::kDevice);

/// adapter_config.json. `dropout` is noted for PEFT.
std::string format_adapter_config(const Model& model, double dropout = 0.0);
/// Writes the model's adapter as a PEFT directory that is new or empty, in fp32, from the masters where there are some.
/// All processes of `comm` call this and the main one writes.
void save_adapter(const Model& model, const std::filesystem::path& directory, double dropout = 0.0,
                  Comm& comm = single_comm());
/// Views of a buffer of the adapter's layout under PEFT's names, without the padding: values to save, gradients.
std::vector<NamedTensor> adapter_tensors(const Model& model, const ParamBuffer& buffer);

}  // namespace mantissa
