// Tokens of LaTeX and plain mathematics. Spelling is settled here: \dfrac and \tfrac are "frac", \le and <= and ≤ are
// "<=", spaces, sizes, fonts and colours vanish, thousands separators vanish from numbers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mantissa {

struct MathToken {
  enum class Kind {
    kEnd,
    kNumber,    // digits with at most one point; an exponent "e-3"; a repeating part in parentheses "1.(6)"
    kName,      // a variable, greek letter or unknown command
    kFunction,  // sin, frac, sqrt, ...: takes arguments
    kText,      // words
    kOp,        // + - * / ^ _ ( ) [ ] { } \{ \} | , ; : ! ' = < > <= >= != ~ in cup cap setminus pm mp % deg & over
                // mod pmod, currencies (dollar, euro, ...), \\ and begin:<environment> end
  };
  Kind kind = Kind::kEnd;
  std::string text;
  bool spaced = false;   // blanks stand before it
  size_t at = 0;         // byte in the text, for messages
  bool command = false;  // written with a backslash
};

struct MathTokens {
  std::vector<MathToken> tokens;    // the last one is kEnd
  std::string unknown, connective;  // as MathExpr has them
};

/// Throws MathSyntaxError.
MathTokens lex_math(std::string_view text);

}  // namespace mantissa
