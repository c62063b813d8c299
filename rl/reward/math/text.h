// Small tools on text that lexer, parser and extraction share.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace mantissa {

/// Thrown by lexer and parser, caught by parse_math.
struct MathSyntaxError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
constexpr bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
constexpr bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}
constexpr char lowered(char c) {
  return c >= 'A' && c <= 'Z' ? char(c + 'a' - 'A') : c;
}
inline std::string lowered(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = lowered(c);
  return out;
}
constexpr bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
/// Without blanks at both ends.
constexpr std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace mantissa
