// A loaded model: config, parameters, decoder, and the folder or file it came from. load_model does the loading: it
// recognises a Hugging Face directory, a .gguf file, a run's checkpoint (nn/checkpoint.h), "builtin:<name>" (a Hugging
// Face directory in $MANTISSA_BUILTIN, else in share/mantissa/builtin of the installation, else in builtin/ of the
// source tree) and "random:CONFIG.json" (random weights; tokenizer files beside it).
#pragma once

#include <filesystem>
#include <map>
#include <memory>

#include "core/comm.h"
#include "nn/adapter.h"
#include "nn/decoder.h"
#include "nn/formats/hf.h"

namespace mantissa {

struct Model {
  ModelConfig config;
  ParamSet params;
  ParamSet reference;  // what a run began with (its compute copy alone); compute undefined without a KL term, and where
                       // an adapter leaves params as they were
  std::shared_ptr<Adapter> adapter;  // null: none
  std::unique_ptr<Decoder> decoder;
  TokenizerFiles tokenizer;
  Backend* backend = nullptr;
  std::string path;                  // as load_model was given it
  std::vector<std::string> notices;  // what was read otherwise than the files say, for the log

  /// What an optimizer moves: the adapter's parameters where there is one, else the model's.
  ParamSet& trained() { return adapter ? adapter->params : params; }
  const ParamSet& trained() const { return adapter ? adapter->params : params; }
};

/// Loads `path` with a compute copy in `compute`. `fp32_master` also makes fp32 masters, filled from the file's own
/// precision (not from the rounded copy), of them only what `shard` keeps, where `placement` says, and of the compute
/// copy too where `sharding` says so; moments and gradients are allocated by the optimizer. On a Rehearsal no weight is
/// read. Throws Error naming the file, the tensor (as Hugging Face calls it), the rule and the value.
std::unique_ptr<Model> load_model(const std::string& path, Backend& backend, Dtype compute, bool fp32_master,
                                  Shard shard = {}, Placement placement = Placement::kDevice,
                                  Sharding sharding = Sharding::kOptimizer);
/// Throws where a weight is not finite in the type of `weights`, naming `where` and the tensor. load_model calls it.
void check_finite(const Model& model, const ParamBuffer& weights, const std::string& where);
/// The tokenizer files of `path` alone: no weights are opened, config.json may be missing.
TokenizerFiles load_tokenizer_files(const std::string& path);
/// Random weights (normal, std 0.02; norms 1) under config.json text: benches and tests ("random:CONFIG.json").
std::unique_ptr<Model> random_model(const ModelConfig& config, Backend& backend, Dtype compute, bool fp32_master,
                                    uint64_t seed, Shard shard = {}, Placement placement = Placement::kDevice,
                                    Sharding sharding = Sharding::kOptimizer);
/// The files of a Hugging Face directory but for the weights, which have `dtype` there: config.json,
/// generation_config.json, tokenizer files. Name -> text.
std::map<std::string, std::string> model_files(const Model& model, Dtype dtype);
/// Writes a Hugging Face directory that transformers loads: config.json, weights in `dtype` (from the masters when
/// there are some; files of at most `file_bytes`, or of one tensor), tokenizer files. Atomic: written aside, then
/// renamed; `directory` must be new or empty. All processes of `comm` call this and the main one writes, unit by unit:
/// host memory is bounded as a checkpoint's (nn/checkpoint.h).
void save_hf(const Model& model, const std::filesystem::path& directory, Dtype dtype, Comm& comm = single_comm(),
             int64_t file_bytes = HfWeightsWriter::kFileBytes);

}  // namespace mantissa
