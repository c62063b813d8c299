// Spelling of answers before any grammar: characters beyond ASCII, and what two texts that look alike have in common.
#pragma once

#include <string>
#include <string_view>

namespace mantissa {

/// Characters beyond ASCII as the LaTeX or ASCII that a reader takes them for: "2¹⁰" is 2^{10}, "1½" is 1\frac{1}{2},
/// "√23" is \sqrt{23}, "0.3̅" is 0.\overline{3}. Characters of no known meaning stay.
std::string to_ascii(std::string_view text);

/// What the text says, spelling apart: fonts, delimiters, sizes and blanks are dropped, but for blanks that keep digits
/// apart. Case is dropped from words of three letters and more; shorter runs of letters are variables, "sinX" several.
/// Equal keys are equal answers.
std::string text_key(std::string_view text);

/// The same text: equal keys, which are not empty; the case of short words inside \text is ignored against each other.
bool same_text(std::string_view a, std::string_view b);

}  // namespace mantissa
