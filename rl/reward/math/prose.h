// Answers inside sentences: "the answer is 12, which is even" states 12.
#pragma once

#include <string_view>

namespace mantissa {

/// The value that `text`, which begins behind "answer is" or "Answer:", states: the first sentence or line, without the
/// clauses behind the value (", which is even", " and the remainder is 3", " if n is 3"). A sentence that begins with
/// words names its value behind an "is": "the largest n is 34". Words that change a value stay: "5 at most".
std::string_view stated_value(std::string_view text);

/// Words that make a line prose rather than an answer: two letters and more, no command, no known word.
int prose_words(std::string_view line);

}  // namespace mantissa
