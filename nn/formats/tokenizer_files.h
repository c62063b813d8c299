// The tokenizer's part of a model's files, as text: loaders fill it, rl/text reads it, exports write it out again.
#pragma once

#include <string>

namespace mantissa {

/// What the tokenizer and chat template need, kept from the model's own files.
struct TokenizerFiles {
  std::string tokenizer_json;           // content of tokenizer.json, or its equivalent from GGUF metadata; may be empty
  std::string tokenizer_config_json;    // content of tokenizer_config.json, may be empty
  std::string added_tokens_json;        // content of added_tokens.json (older models), may be empty
  std::string special_tokens_map_json;  // content of special_tokens_map.json (older models), may be empty
  std::string chat_template;            // Jinja text, may be empty
  std::string where;                    // for messages
};

}  // namespace mantissa
