// A model as a GGUF file (gguf_file.h has the format): for llama.cpp, and read back here by gguf.h.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nn/model.h"

namespace mantissa {

/// Writes config, tokenizer, chat template and weights (the masters where there are some), all or nothing. Matrices
/// have `type`: f32, f16, bf16, q8_0 or q4_0 (f16 instead of the last two where a row is no multiple of 32 values).
/// Norms and biases are F32. The file also holds tokenizer.json, with the tokens that the other files add to it, so
/// that the tokenizer read back here is the same. Ids of special tokens (bos, eos, unknown, padding) are those that the
/// tokenizer names, those of config.json where it names none; its other end tokens stand as eot and eom. Returns what a
/// user should know, a sentence each: where llama.cpp may cut text differently, and which tokens the chat template
/// reads by a name that GGUF has no place for. Throws Error for what GGUF cannot say.
std::vector<std::string> save_gguf(const Model& model, const std::filesystem::path& path, const std::string& type);

}  // namespace mantissa
