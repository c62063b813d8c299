// Where a response states its final answer. Text in, slices of that text out; nothing is parsed here.
#pragma once

#include <string>
#include <string_view>

namespace mantissa {

struct ExtractedAnswer {
  bool found = false;
  bool marked = false;  // by a box, #### or words; false: the response is nothing but the answer
  std::string text;
};

/// The final answer of a response, from what follows the last </think>: the last complete \boxed{} (or \fbox{}) with
/// its sign, and the boxes before it that are one answer with it, "\boxed{1} and \boxed{2}", joined by commas; else
/// what the last <answer> tag holds, else what follows the last ####, else the value of the last "answer is ..." or
/// "answer: ...", else a response that is one short line without prose. `boxed_only` stops after the first rule.
/// Special tokens at its end are no part of it.
ExtractedAnswer extract_answer(std::string_view response, bool boxed_only = false);

/// Without blanks around it and special tokens of models at its end: "42<|im_end|>".
std::string_view without_special_tokens(std::string_view text);

/// The answer in a gold text: its box or #### where it has one, else all of it.
ExtractedAnswer extract_gold(std::string_view gold);

}  // namespace mantissa
