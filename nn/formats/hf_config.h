// The JSON files of a Hugging Face directory as text <-> values; `where` names the file in messages.
#pragma once

#include <map>
#include <string>

#include "core/dtype.h"
#include "nn/config.h"

namespace mantissa {

/// config.json, in the old (rope_theta, rope_scaling) and the new (rope_parameters) spelling. Throws on what is
/// missing, of a wrong type, out of range, or not supported.
ModelConfig parse_hf_config(const std::string& config_json, const std::string& where);
/// Adds the end-of-sequence ids of generation_config.json and takes its bos_token_id, where it has one, for
/// config.json's.
void add_generation_config(ModelConfig& config, const std::string& generation_config_json, const std::string& where);
/// config.json for transformers 4 and 5.
std::string format_hf_config(const ModelConfig& config, Dtype dtype);
/// generation_config.json: the ids generate() in transformers needs.
std::string format_generation_config(const ModelConfig& config);
/// tokenizer_config.json for a tokenizer.json that came without one: the class that reads it, and the special tokens.
std::string format_tokenizer_config(const ModelConfig& config, const std::string& tokenizer_json);
/// weight_map of model.safetensors.index.json: tensor name -> file name.
std::map<std::string, std::string> parse_weight_map(const std::string& index_json, const std::string& where);
/// The (default) chat template in tokenizer_config.json, empty when there is none.
std::string parse_chat_template(const std::string& tokenizer_config_json, const std::string& where);

}  // namespace mantissa
