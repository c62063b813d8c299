// Spelling of answers before any grammar: characters beyond ASCII, and what two texts that look alike have in common.
#pragma once

#include <string>
#include <string_view>

namespace mantissa {

/// Mathematical characters beyond ASCII as the LaTeX or ASCII they stand for; other characters stay.
std::string to_ascii(std::string_view text);

/// Spelling apart (fonts, delimiters, blanks, case of words), what the text says: equal keys are equal answers.
std::string text_key(std::string_view text);

}  // namespace mantissa
