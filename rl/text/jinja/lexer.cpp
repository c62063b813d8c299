#include "rl/text/jinja/lexer.h"

#include <algorithm>

#include "core/error.h"
#include "rl/text/jinja/python_text.h"
#include "rl/text/unicode.h"

namespace mantissa::jinja {

namespace {

std::string with_line_feeds(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

int digit_of(char c) {
  return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(with_line_feeds(source)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) read_root();
    push(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void error(const Parts&... parts) const {
    fail("line ", line_, ": ", parts...);
  }
  bool at(std::string_view what) const { return text_.compare(at_, what.size(), what) == 0; }
  void advance(size_t bytes) {
    line_ += int(std::count(text_.begin() + int64_t(at_), text_.begin() + int64_t(at_ + bytes), '\n'));
    at_ += bytes;
  }
  void push(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  size_t space_after(size_t from) const {
    while (from < text_.size() && is_space(first_codepoint(std::string_view(text_).substr(from))))
      from += utf8_length(static_cast<unsigned char>(text_[from]));
    return from;
  }

  /// Text up to `end`, cut on the right as the tag that opens there wants it.
  void push_text(size_t end, char sign, bool variable) {
    std::string_view data = std::string_view(text_).substr(at_, end - at_);
    if (sign == '-') {
      data = strip(data, Side::kRight);
    } else if (sign != '+' && !variable) {
      const size_t feed = data.rfind('\n');
      const bool line_starts = feed != std::string_view::npos || at_ == 0 || text_[at_ - 1] == '\n';
      const size_t begin = feed == std::string_view::npos ? 0 : feed + 1;
      if (line_starts && strip(data.substr(begin), Side::kLeft).empty()) data = data.substr(0, begin);
    }
    if (!data.empty()) push(Token::Kind::kText, std::string(data));
    advance(end - at_);
  }

  char sign_at(size_t where) const {
    return where < text_.size() && (text_[where] == '-' || text_[where] == '+') ? text_[where] : '\0';
  }

  /// Bytes of a tag's end (such as "%}") at `where` with its sign and the white space it takes; 0: no end.
  size_t end_of_tag(size_t where, std::string_view mark) const {
    const char sign = sign_at(where);
    const size_t begin = where + (sign != '\0');
    if (text_.compare(begin, mark.size(), mark) != 0 || (sign == '+' && mark == "}}")) return 0;
    size_t end = begin + mark.size();
    if (sign == '-')
      end = space_after(end);
    else if (sign == '\0' && mark != "}}" && end < text_.size() && text_[end] == '\n')
      ++end;
    return end - where;
  }

  /// For the tag {% word %} at `where`: where it ends, else 0. Only the end of raw takes a line feed behind it.
  size_t end_of_word_tag(size_t where, std::string_view word) const {
    if (text_.compare(where, 2, "{%") != 0) return 0;
    const size_t begin = space_after(where + 2 + (sign_at(where + 2) != '\0'));
    if (text_.compare(begin, word.size(), word) != 0) return 0;
    const size_t after = space_after(begin + word.size());
    if (word == "raw")
      return text_.compare(after, 2, "%}") == 0    ? after + 2
             : text_.compare(after, 3, "-%}") == 0 ? space_after(after + 3)
                                                   : 0;
    const size_t length = end_of_tag(after, "%}");
    return length == 0 ? 0 : after + length;
  }

  void read_root() {
    size_t open = text_.find('{', at_);
    while (open != std::string::npos &&
           (open + 1 == text_.size() || std::string_view("%{#").find(text_[open + 1]) == std::string_view::npos))
      open = text_.find('{', open + 1);
    if (open == std::string::npos) {
      push(Token::Kind::kText, text_.substr(at_));
      advance(text_.size() - at_);
      return;
    }
    const char kind = text_[open + 1], sign = sign_at(open + 2);
    push_text(open, sign, kind == '{');
    if (const size_t raw = end_of_word_tag(at_, "raw"); raw != 0) {
      advance(raw - at_);
      read_raw();
      return;
    }
    advance(2 + (sign != '\0'));
    if (kind == '#') {
      read_comment();
    } else {
      push(kind == '{' ? Token::Kind::kVariableBegin : Token::Kind::kBlockBegin, "");
      read_tag(kind == '{');
    }
  }

  void read_comment() {
    for (size_t end = at_; end < text_.size(); ++end)
      if (const size_t length = end_of_tag(end, "#}"); length != 0) {
        advance(end + length - at_);
        return;
      }
    error("the comment has no end");
  }

  void read_raw() {
    for (size_t open = text_.find("{%", at_); open != std::string::npos; open = text_.find("{%", open + 1))
      if (const size_t end = end_of_word_tag(open, "endraw"); end != 0) {
        push_text(open, sign_at(open + 2), false);
        advance(end - at_);
        return;
      }
    error("raw has no endraw");
  }

  void read_tag(bool variable) {
    const std::string_view mark = variable ? "}}" : "%}";
    std::string open;  // brackets
    for (;;) {
      advance(space_after(at_) - at_);
      if (at_ >= text_.size()) error("the template ends inside a tag");
      if (open.empty())
        if (const size_t length = end_of_tag(at_, mark); length != 0) {
          push(variable ? Token::Kind::kVariableEnd : Token::Kind::kBlockEnd, "");
          advance(length);
          return;
        }
      read_token(open);
    }
  }

  void read_token(std::string& open) {
    const char c = text_[at_];
    if (is_digit(c)) return read_number();
    if (c == '\'' || c == '"') return read_string();
    if (is_word(first_codepoint(std::string_view(text_).substr(at_)))) {
      size_t end = at_;
      while (end < text_.size() && is_word(first_codepoint(std::string_view(text_).substr(end))))
        end += utf8_length(static_cast<unsigned char>(text_[end]));
      push(Token::Kind::kName, text_.substr(at_, end - at_));
      advance(end - at_);
      return;
    }
    for (const std::string_view op : {"//", "**", "==", "!=", ">=", "<="})
      if (at(op)) {
        push(Token::Kind::kOperator, std::string(op));
        advance(2);
        return;
      }
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos)
      error("unexpected character ", repr(characters_of(std::string_view(text_).substr(at_, 4)).front()));
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) error("unexpected '", std::string(1, c), '\'');
      open.pop_back();
    }
    push(Token::Kind::kOperator, std::string(1, c));
    advance(1);
  }

  size_t digits_after(size_t from) const {
    while (from < text_.size() &&
           (is_digit(text_[from]) || (text_[from] == '_' && from + 1 < text_.size() && is_digit(text_[from + 1]))))
      ++from;
    return from;
  }

  /// Decimal integers and floats, 0x, 0o and 0b, underscores between digits; written without underscores, integers in
  /// decimal.
  void read_number() {
    const bool part = at_ > 0 && text_[at_ - 1] == '.';  // a.1.2 is two items, no float
    size_t end = digits_after(at_);
    bool real = false;
    if (!part && end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1])) {
      end = digits_after(end + 1);
      real = true;
    }
    if (!part && end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const size_t digits = end + 1 + (sign_at(end + 1) != '\0');
      if (digits < text_.size() && is_digit(text_[digits])) {
        end = digits_after(digits);
        real = true;
      }
    }
    std::string number = text_.substr(at_, end - at_);
    std::erase(number, '_');
    if (!real && number == "0" && end == at_ + 1 && end < text_.size() &&
        std::string_view("xXoObB").find(text_[end]) != std::string_view::npos)
      return read_based(text_[end] | 0x20);
    if (!real && number.size() > 1 && number[0] == '0' && number.find_first_not_of('0') != std::string::npos)
      error("an integer must not begin with 0: ", number);
    push(real ? Token::Kind::kFloat : Token::Kind::kInteger, number);
    advance(end - at_);
  }

  void read_based(char letter) {
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : 2;
    size_t end = at_ + 2;
    int64_t value = 0;
    bool digit = false;
    for (; end < text_.size(); ++end) {
      if (text_[end] == '_' && end + 1 < text_.size() && digit_of(text_[end + 1]) < base) continue;
      if (digit_of(text_[end]) >= base) break;
      digit = true;
      if (__builtin_mul_overflow(value, int64_t(base), &value) ||
          __builtin_add_overflow(value, int64_t(digit_of(text_[end])), &value))
        error("integers beyond 64 bits are not supported");
    }
    if (!digit) error("a number without digits");
    push(Token::Kind::kInteger, std::to_string(value));
    advance(end - at_);
  }

  void read_string() {
    const char quote = text_[at_];
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) error("the string has no end");
    push(Token::Kind::kString, unescaped(std::string_view(text_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1 - at_);
  }

  char32_t escaped_number(std::string_view in, size_t& i, size_t digits, int base, bool exact) const {
    char32_t value = 0;
    size_t count = 0;
    while (count < digits && i < in.size() && digit_of(in[i]) < base) {
      value = value * char32_t(base) + char32_t(digit_of(in[i++]));
      ++count;
    }
    if (exact && count != digits) error("an escape without its ", digits, " digits in a string");
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) error("an escape that is no character in a string");
    return value;
  }

  /// Python's escapes; an unknown one stays as it is.
  std::string unescaped(std::string_view in) const {
    constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeanings = "\a\b\f\n\r\t\v\\'\"";
    std::string out;
    for (size_t i = 0; i < in.size();) {
      const char c = in[i++];
      if (c != '\\' || i == in.size()) {
        out += c;
        continue;
      }
      const char e = in[i];
      if (const size_t known = kLetters.find(e); known != std::string_view::npos) {
        out += kMeanings[known];
        ++i;
      } else if (e == '\n') {
        ++i;
      } else if (e >= '0' && e <= '7') {
        append_utf8(out, escaped_number(in, i, 3, 8, false));
      } else if (e == 'x' || e == 'u' || e == 'U') {
        append_utf8(out, escaped_number(in, ++i, e == 'x' ? 2 : e == 'u' ? 4 : 8, 16, true));
      } else if (e == 'N') {
        error("\\N in a string is not supported");
      } else {
        out += '\\';
      }
    }
    return out;
  }

  std::string text_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace mantissa::jinja
