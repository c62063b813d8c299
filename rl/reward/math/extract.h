// Where a response states its final answer. Text in, slices of that text out; nothing is parsed here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mantissa {

struct ExtractedAnswer {
  bool found = false;
  bool marked = false;  // by a box, #### or words; false: the response is nothing but the answer
  std::string text;
  /// Contents of the run of boxes that ends with the last one, "\boxed{1} and \boxed{2}", joined by commas; empty
  /// where there is one box only.
  std::string joined;
};

/// The final answer of a response, from what follows the last </think>: the last complete \boxed{} (or \fbox{}), else
/// what the last <answer> tag holds, else what follows the last ####, else the last "answer is ..." or "answer: ...",
/// else a response that is one short line without prose. `boxed_only` stops after the first rule.
ExtractedAnswer extract_answer(std::string_view response, bool boxed_only = false);

/// The answer in a gold text: its box or #### where it has one, else all of it.
ExtractedAnswer extract_gold(std::string_view gold);

}  // namespace mantissa
