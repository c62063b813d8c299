#include "rl/text/jinja/token_stream.h"

#include "rl/text/jinja/python_text.h"

namespace mantissa::jinja {

Token TokenStream::take() {
  Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::skip_operator(std::string_view text) {
  const bool here = is_operator(text);
  if (here) take();
  return here;
}

bool TokenStream::skip_name(std::string_view text) {
  const bool here = is_name(text);
  if (here) take();
  return here;
}

void TokenStream::expect_operator(std::string_view text) {
  if (!skip_operator(text)) error("expected '", text, "', got ", shown(current()));
}

void TokenStream::expect_name(std::string_view text) {
  if (!skip_name(text)) error("expected ", text, ", got ", shown(current()));
}

std::string TokenStream::expect_any_name(const char* what) {
  if (current().kind != Token::Kind::kName) error("expected ", what, ", got ", shown(current()));
  return take().text;
}

std::string TokenStream::shown(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kText:
      return "text";
    case Token::Kind::kBlockBegin:
    case Token::Kind::kVariableBegin:
      return "a tag";
    case Token::Kind::kBlockEnd:
      return "the end of the block";
    case Token::Kind::kVariableEnd:
      return "the end of the output";
    case Token::Kind::kEnd:
      return "the end of the template";
    default:
      return token.text.size() > 40 ? "a long text" : repr(std::string_view(token.text));
  }
}

}  // namespace mantissa::jinja
