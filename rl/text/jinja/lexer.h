// A template as tokens: text between tags, and what stands in tags. White space is handled as transformers sets up
// Jinja: trim_blocks (a line feed after a block goes), lstrip_blocks (blanks before a block that opens a line go), the
// signs - and + at either end of a tag, no line feed at the end of the template; CR LF and CR count as LF.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mantissa::jinja {

struct Token {
  enum class Kind {
    kText,           // between tags
    kBlockBegin,     // {%
    kBlockEnd,       //
    kVariableBegin,  // {{
    kVariableEnd,    //
    kName,
    kString,  // escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind;
  std::string text;
  int line;
};

/// Valid UTF-8 to tokens, the last of them kEnd. Error "line N: ..." on what is no token.
std::vector<Token> tokenize(std::string_view source);

}  // namespace mantissa::jinja
