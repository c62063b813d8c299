// A model's tokenizer, opened from its files and checked against the model.
#pragma once

#include <memory>

#include "nn/model.h"
#include "rl/text/tokenizer.h"

namespace mantissa {

/// The tokenizer of these files; throws where there is none.
std::unique_ptr<Tokenizer> open_tokenizer(const TokenizerFiles& files);
/// The tokenizer of a loaded model; throws also where it has ids that the model lacks.
std::unique_ptr<Tokenizer> open_tokenizer(const Model& model);

}  // namespace mantissa
