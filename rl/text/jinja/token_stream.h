// Tokens in their order, with the questions and demands of a parser.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "rl/text/jinja/lexer.h"

namespace mantissa::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take();
  bool is(Token::Kind kind, std::string_view text) const { return current().kind == kind && current().text == text; }
  bool is_operator(std::string_view text) const { return is(Token::Kind::kOperator, text); }
  bool is_name(std::string_view text) const { return is(Token::Kind::kName, text); }
  /// Takes the token where it is this one.
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  /// Takes the token or throws.
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  std::string expect_any_name(const char* what);
  /// Error at the line of the current token.
  template <class... Parts>
  [[noreturn]] void error(const Parts&... parts) const {
    fail("line ", current().line, ": ", parts...);
  }
  /// The token for messages.
  static std::string shown(const Token& token);

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace mantissa::jinja
