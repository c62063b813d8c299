// DataConfig, section `data`: which records a run reads, by which keys, what is put around them (docs/config.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/fields.h"

namespace mantissa {

struct DataConfig {
  std::vector<std::string> files;
  std::string files_key = "data.files";  // no key: what messages call them
  std::string prompt_key = "problem";
  std::string answer_key = "answer";
  std::string solution_key = "solution";
  std::string prompt_template = "none";
  std::string chat_template = "auto";
  std::vector<std::string> chat_template_kwargs;
  std::string system;
  int64_t limit = 0;
  int64_t max_prompt_tokens = 1024;
  std::string overlong_prompts = "skip";
  bool shuffle = true;
  bool strip_calculator_marks = false;
  std::string response_format = "{solution}";
  void fields(Fields& f);
  /// Whether response_format has this word, braces included.
  bool response_has(const char* word) const { return response_format.find(word) != response_format.npos; }
  /// Throws Error where response_format has another word in braces, or none of its own.
  void check_response_format() const;
};

}  // namespace mantissa
