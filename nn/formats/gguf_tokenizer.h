// The tokenizer of a GGUF file as tokenizer.json text, so that there is one tokenizer format behind the loaders.
#pragma once

#include "nn/formats/gguf_file.h"
#include "nn/formats/tokenizer_files.h"

namespace mantissa {

/// tokenizer.json, tokenizer_config.json and chat template equivalent to the tokenizer.ggml.* metadata: byte-level BPE
/// (model "gpt2", pattern by tokenizer.ggml.pre) and SentencePiece BPE (model "llama", merges rebuilt from the scores).
/// Throws on a model or pre-tokenizer it does not know. A file without tokenizer gives empty texts.
TokenizerFiles gguf_tokenizer(const GgufFile& file);

}  // namespace mantissa
