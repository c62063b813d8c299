// How evenly the experts of a mixture are used by what a mini-batch forwards.
#pragma once

#include <map>
#include <span>
#include <string>

#include "core/tensor.h"

namespace mantissa {

/// Adds to `parts` the grouped rows of each expert in one forward: offsets[layer] is Routes::offsets (undefined where a
/// layer has no experts), the names are "moe/rows/<layer>/<expert>". Parts of several forwards and ranks add up.
void add_expert_rows(std::map<std::string, double>& parts, std::span<const Tensor> offsets);
/// Takes them out of `parts` again and returns what they say (nothing where there are none). The load of an expert is
/// its share of its layer's rows times the number of experts, 1 when all are used alike: moe/load_min, moe/load_max
/// over all experts of all layers, moe/load_entropy = mean over layers of -sum s ln s / ln E for shares s.
std::map<std::string, double> take_expert_load(std::map<std::string, double>& parts);

}  // namespace mantissa
