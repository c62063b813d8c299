// Rotary position embedding: the table of angles. Pair i of a head of size D (its elements i and i + D/2) turns by
// position * frequency[i], frequency[i] = theta^(-2i/D), scaled for long contexts:
//   linear: divided by factor;
//   llama3: wavelength = 2 pi / frequency; divided by factor above original/low_freq_factor, kept below
//           original/high_freq_factor, and in between a mix of the two, linear in original/wavelength.
#pragma once

#include <vector>

#include "core/backend.h"
#include "nn/config.h"

namespace mantissa {

/// The D/2 frequencies.
std::vector<double> rope_frequencies(const RopeConfig& rope, int head_size);
/// table[max_positions, D/2, 2] fp32 = (cos, sin), computed in fp64 and rounded once.
Tensor rope_table(const ModelConfig& config, Backend& backend);

}  // namespace mantissa
