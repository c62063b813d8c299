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
/// Whether the token stands for something that is done to others and not computed, "sum": equal parts are equal, of
/// others nothing is known.
bool is_operator(std::string_view name);
/// Whether it joins others in an order, "to".
bool is_join(std::string_view name);
/// Meaning of a run of letters outside \text: a function, a constant, a greek letter, "and"; kText for units.
MathWord math_word(std::string_view run);

}  // namespace mantissa
