// GGUF files (llama.cpp's format, versions 2 and 3): config, tokenizer and quantised tensors in one file. It is mapped
// into memory; tensors appear under their Hugging Face names and shapes ([out, in], row-major), and are dequantised row
// by row when read.
//
//   gguf_file.h        the container: checked header, metadata, tensor table
//   gguf_blocks.h      block formats to float and back
//   gguf_names.h       names and row order of tensors, here and there
//   gguf_tokenizer.h   metadata to an equivalent tokenizer.json
//   gguf_vocabulary.h  the way back: a tokenizer.json to metadata
//   gguf_writer.h      a model as a GGUF file
#pragma once

#include <memory>
#include <span>

#include "nn/config.h"
#include "nn/formats/tensor_source.h"
#include "nn/formats/tokenizer_files.h"

namespace mantissa {

struct GgufModel {
  ModelConfig config;
  std::unique_ptr<TensorSource> tensors;
  TokenizerFiles tokenizer;
};

/// Opens a model of architecture llama, qwen2, qwen3 or qwen3moe. Block-quantised weights are rounded to fp16 first and
/// then to whatever type is asked for, so that every compute type starts from the same fp16 model; F32, F16 and BF16
/// tensors keep their stored values. Throws Error naming the file, the metadata key or the tensor, the rule, and the
/// value found.
GgufModel open_gguf(const std::string& path);
/// The same from memory, which must outlive the result; `where` stands in messages.
GgufModel parse_gguf(std::span<const std::byte> image, const std::string& where);

}  // namespace mantissa
