#include "rl/data/data_config.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "core/error.h"
#include "rl/text/chat.h"

namespace mantissa {

void DataConfig::fields(Fields& f) {
  f.field("files", files, "JSON lines files");
  f.field("prompt_key", prompt_key, "key of the problem");
  f.field(
      "answer_key", answer_key,
      "key of the gold answer; empty: the data has none. What sft trains on needs one only where response_format has "
      "{answer}");
  f.field("solution_key", solution_key, "key of the worked solution (sft)");
  f.field(
      "template", prompt_template,
      "what is put around a problem: none, chat (see chat_template), r1, r1_distill_qwen, qwen_math (prompts of the "
      "papers), a text of your own with {problem} in it, or a file of one, to its last line end");
  std::vector<std::string> names = chat_template_names();
  names.insert(names.begin(), "auto");
  f.choice("chat_template", chat_template, names, "form of template chat; auto: the model's own");
  f.field("chat_template_kwargs", chat_template_kwargs,
          "variables for the model's own form, such as enable_thinking=false");
  f.field("system", system,
          "system message of template chat, which alone has a place for it; empty: none but the form's default");
  f.field("limit", limit, "only the first so many records; 0: all", at_least(0));
  f.field("max_prompt_tokens", max_prompt_tokens, "longest prompt", at_least(1));
  f.choice("overlong_prompts", overlong_prompts, {"skip", "error"}, "what happens to a longer one");
  f.field("shuffle", shuffle, "a new order each epoch; false: that of the files, round and round");
  f.field("strip_calculator_marks", strip_calculator_marks, "remove GSM8K's <<...>> from solutions");
  f.field("response_format", response_format, "sft target made of {problem}, {solution}, {answer}");
}

void DataConfig::check_response_format() const {
  constexpr std::string_view kMarks[] = {"{problem}", "{solution}", "{answer}"};
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz_";
  constexpr std::string_view kRule = "data.response_format: must be made of {problem}, {solution} and {answer}, ";
  const std::string_view format = response_format;
  bool marked = false;
  for (size_t i = format.find('{'); i != format.npos; i = format.find('{', i + 1)) {
    const size_t end = format.find_first_not_of(kLetters, i + 1);
    if (end == format.npos || format[end] != '}' || end == i + 1) continue;
    const std::string_view word = format.substr(i, end + 1 - i);
    const bool known = std::ranges::find(kMarks, word) != std::end(kMarks);
    const bool of_macro = i > 0 && kLetters.find(format[i - 1]) != kLetters.npos;  // \text{or}
    check(known || of_macro, kRule, "got ", word, " in \"", format, '"');
    marked |= known;
  }
  check(marked, kRule, "has none in \"", format, '"');
}

}  // namespace mantissa
