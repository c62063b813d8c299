// Hugging Face directories: config.json, generation_config.json, safetensors (single or sharded), tokenizer files.
//
// HfTensor is the one place where Hugging Face names meet parameters: a tensor of a file is a range of rows of a
// parameter (query rows of the fused qkv, gate rows of gate_up or of one expert, or all of one). Loading, saving and
// `score --grads` walk the same list.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "core/safetensors.h"
#include "nn/decoder.h"
#include "nn/formats/tensor_source.h"
#include "nn/formats/tokenizer_files.h"

namespace mantissa {

struct HfTensor {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  ParamId param;
  int64_t begin, end;  // rows of the parameter
};
/// Its shape, given the parameter's.
Shape rows_shape(const ParamInfo& info, const HfTensor& tensor);
/// All tensors of a model in the order of its layers. A tied head has no tensor of its own.
std::vector<HfTensor> hf_tensors(const ModelConfig& config, const DecoderParams& params);
/// Biases that transformers' form of this architecture has and the model has not: those of q, k and v of a Qwen2
/// without them, that of o beside the others of a Llama or Qwen3. An export holds them as zeros.
std::vector<std::string> absent_biases(const ModelConfig& config);
/// The tensors of hf_tensors as views of a buffer: weights to fill or save, gradients to write.
std::vector<NamedTensor> hf_views(const ModelConfig& config, const DecoderParams& params, const ParamBuffer& buffer);

/// Unties a config that says tied where the files hold a head that differs from the embedding, as transformers and vLLM
/// do. Returns whether it did.
bool untie_other_head(const TensorSource& source, ModelConfig& config);
/// Throws unless `source` holds exactly the tensors of the model with their shapes (known ballast apart). Allocates
/// nothing, so that a lying config.json ends here.
void check_hf_source(const TensorSource& source, const ModelConfig& config, const ParamLayout& layout,
                     const DecoderParams& params);
/// Fills `buffer`, whole or of parts, from `source`, each value rounded once. One tensor at a time is held on the host.
void fill_from_source(const TensorSource& source, const ModelConfig& config, const DecoderParams& params,
                      const ParamLayout& layout, const ParamBuffer& buffer);

/// The weights of a directory: model.safetensors, or the shards that model.safetensors.index.json lists.
std::unique_ptr<TensorSource> open_hf_weights(const std::filesystem::path& directory);
/// The weights of a directory to be, written tensor by tensor: model.safetensors, or, where that would exceed
/// `file_bytes`, several files and the index.
class HfWeightsWriter {
 public:
  static constexpr int64_t kFileBytes = 5'000'000'000;

  HfWeightsWriter(std::filesystem::path directory, std::vector<TensorSpec> specs, int64_t file_bytes = kFileBytes);
  /// The next tensor of `specs`; see SafetensorsWriter.
  void write(const Tensor& tensor);
  /// After the last one.
  void commit();

 private:
  std::string name(size_t file) const;

  std::filesystem::path directory_;
  std::vector<std::vector<TensorSpec>> files_;
  size_t at_ = 0;  // the file that is open, or the next
  std::optional<SafetensorsWriter> open_;
};
/// config.json with generation_config.json.
ModelConfig read_hf_config(const std::filesystem::path& directory);
/// tokenizer.json (may be missing), tokenizer_config.json, chat template (chat_template.jinja before that of
/// tokenizer_config.json, also where it is empty).
TokenizerFiles read_hf_tokenizer(const std::filesystem::path& directory);

}  // namespace mantissa
