// The vocabulary of the answer parser: commands, functions and unit words.
#pragma once

#include <string_view>

namespace mantissa {

struct MathWord {
  enum class Kind { kUnknown, kOp, kName, kFunction, kSkip, kDecoration, kText } kind = Kind::kUnknown;
  std::string_view text;  // the token's text
};

/// Meaning of the LaTeX command \name.
MathWord math_command(std::string_view name);
/// Meaning of a run of letters outside \text: a function, a constant, a greek letter, "and"; kText for units.
MathWord math_word(std::string_view run);

}  // namespace mantissa
