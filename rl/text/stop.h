// Which tokens end a response.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/config.h"
#include "rl/text/tokenizer.h"

namespace mantissa {

/// The model's own end-of-sequence ids first, in their order, then the tokens that end a turn or a text in any known
/// chat format and exist in this vocabulary: a base model with a chat template, or a config.json without eos_token_id,
/// stops too. The first one ends a response to imitate (sft). Empty only when neither side knows one.
std::vector<int32_t> stop_ids(const ModelConfig& config, const Tokenizer& tokenizer);

}  // namespace mantissa
