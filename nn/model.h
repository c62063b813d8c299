// A loaded model: config, weights, decoder, and the folder or file it came from. Loading goes through load_model, which
// recognises a Hugging Face directory, a .gguf file, "builtin:<name>" (a Hugging Face directory in builtin/ of the
// source tree or in $MANTISSA_BUILTIN) and "random:CONFIG.json" (random weights; tokenizer files beside it).
#pragma once

#include <filesystem>
#include <memory>

#include "nn/decoder.h"
#include "nn/formats/tensor_source.h"
#include "nn/formats/tokenizer_files.h"

namespace mantissa {

struct Model {
  ModelConfig config;
  Weights weights;
  std::unique_ptr<Decoder> decoder;
  TokenizerFiles tokenizer;
  Backend* backend = nullptr;
  std::vector<std::string> notices;  // what was read otherwise than the files say, for the log
};

/// Loads `path` with a compute copy in `compute`. `fp32_master` also allocates and fills fp32 masters from the file's
/// own precision (not from the rounded copy); Adam moments and gradients are allocated by the optimizer. Errors name
/// the file, the tensor (Hugging Face name), the rule and the value.
std::unique_ptr<Model> load_model(const std::string& path, Backend& backend, Dtype compute, bool fp32_master);
/// Throws where a weight is not finite in the type of `weights`, naming `where` and the tensor. load_model asks it.
void check_finite(const Model& model, const ParamBuffer& weights, const std::string& where);
/// The tokenizer files of `path` alone: no weights are opened, config.json may be missing.
TokenizerFiles load_tokenizer_files(const std::string& path);
/// Random weights (normal, std 0.02; norms 1) under config.json text: benches and tests ("random:CONFIG.json").
std::unique_ptr<Model> random_model(const ModelConfig& config, Backend& backend, Dtype compute, bool fp32_master,
                                    uint64_t seed);
/// Writes a Hugging Face directory that transformers loads: config.json, model.safetensors in `dtype` (from the masters
/// when there are some), tokenizer files. Atomic: written aside, then renamed; `directory` must be new or empty.
void save_hf(const Model& model, const std::filesystem::path& directory, Dtype dtype);

}  // namespace mantissa
