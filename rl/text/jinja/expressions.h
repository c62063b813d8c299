// Expressions of the grammar, read from a stream of tokens.
#pragma once

#include <string_view>
#include <vector>

#include "rl/text/jinja/syntax.h"
#include "rl/text/jinja/token_stream.h"

namespace mantissa::jinja {

class ExpressionParser : public TokenStream {
 public:
  using TokenStream::TokenStream;

  ExpressionPtr expression(bool conditional = true);
  /// An expression, or several with commas between: a tuple. `end`: a name that ends it too.
  ExpressionPtr tuple(bool conditional = true, std::string_view end = {}, bool may_be_empty = false);
  /// What set, for and with assign to: a name, names with commas between, or (`attributes`) namespace.name.
  ExpressionPtr target(bool attributes, std::string_view end = {});
  /// name(arguments) | name ..., applied to null: of a filter block or a set block.
  ExpressionPtr filters_of_block(bool inline_start);
  /// Names that were read as variables since the parser began; macros look for varargs, kwargs and caller here.
  std::vector<std::string> names;

 private:
  bool ends_tuple(std::string_view end) const;
  ExpressionPtr make(Expression::Kind kind, int line) const;
  ExpressionPtr join(Expression::Kind kind, int line, std::string text, std::vector<ExpressionPtr> parts) const;

  ExpressionPtr disjunction();
  ExpressionPtr conjunction();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr postfix(ExpressionPtr node);
  ExpressionPtr filters_and_tests(ExpressionPtr node);
  ExpressionPtr filter(ExpressionPtr node, bool inline_start);
  ExpressionPtr test(ExpressionPtr node);
  ExpressionPtr subscript(ExpressionPtr node);
  void call_arguments(Expression& node);

  int nesting_ = 0;
};

}  // namespace mantissa::jinja
