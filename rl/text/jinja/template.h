// A chat template in the language of Jinja, compiled once and rendered for any number of conversations: what
// transformers' apply_chat_template renders with the same text.
//
//   python_text.h   Python's str             lexer.h         text to tokens
//   value.h         values                   token_stream.h  tokens in their order
//   operations.h    what expressions do      expressions.h   the grammar of expressions
//   methods.h       methods of values        syntax.h        the tree
//   filters.h       filters                  parser.h        the grammar of statements
//   predicates.h    tests                    objects.h       namespaces, loop, functions
//   globals.h       functions for all        renderer.h      runs a tree
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "rl/text/jinja/syntax.h"

namespace mantissa::jinja {

class Template {
 public:
  /// Compiles. Error "where: line N: ..." names what is wrong or not supported.
  Template(std::string_view source, std::string where);
  /// Thread-safe. Error as above, also for what the template itself refuses by raise_exception.
  std::string render(const Dict& variables, std::time_t now) const;

 private:
  std::string where_;
  Body body_;
};

}  // namespace mantissa::jinja
