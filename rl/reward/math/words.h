// The vocabulary of the answer parser: commands, functions and words outside \text.
#pragma once

#include <string_view>

namespace mantissa {

struct MathWord {
  enum class Kind {
    kUnknown,
    kOp,
    kName,
    kFunction,
    kSkip,      // says nothing: sizes, spaces
    kSkipArgs,  // nor do its arguments, as many as `text` has characters: \color{blue}, \tag{1}
    kFont,      // says nothing about the argument that follows
    kAccent,    // a mark over its argument, which makes another name of a letter where `text` is not empty
    kText       // its argument is words
  } kind = Kind::kUnknown;
  std::string_view text;  // the token's text
};

/// Meaning of the LaTeX command \name.
MathWord math_command(std::string_view name);
/// Whether the token is an operator that is not computed, such as "sum": applied to equal parts it is equal; of other
/// parts nothing is known.
bool is_operator(std::string_view name);
/// Whether the token joins what stands before and behind it, such as "to".
bool is_join(std::string_view name);
/// Meaning of a run of letters outside \text: a function, a constant, a greek letter, "and"; kText for units.
MathWord math_word(std::string_view run);

}  // namespace mantissa
