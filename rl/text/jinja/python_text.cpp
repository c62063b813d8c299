#include "rl/text/jinja/python_text.h"

#include <utf8proc.h>

#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/error.h"
#include "rl/text/unicode.h"

namespace mantissa::jinja {

namespace {

size_t step(std::string_view text, size_t at) {
  return utf8_length(static_cast<unsigned char>(text[at]));
}

template <class F>
void for_each(std::string_view text, const F& f) {
  for (size_t at = 0; at < text.size(); at += step(text, at)) f(first_codepoint(text.substr(at)));
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(utf8proc_int32_t(c));
}

bool is_letter(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool has_case(char32_t c) {
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT;
}

/// What SpecialCasing.txt says of capitals of several letters.
void append_upper(std::string& out, char32_t c, bool title_case = false) {
  struct Special {
    char32_t letter;
    const char *upper, *title;
  };
  static constexpr Special kSpecial[] = {
      {0xDF, "SS", "Ss"},   {0x149, "ʼN", "ʼN"},    {0x1F0, "J̌", "J̌"},      {0xFB00, "FF", "Ff"}, {0xFB01, "FI", "Fi"},
      {0xFB02, "FL", "Fl"}, {0xFB03, "FFI", "Ffi"}, {0xFB04, "FFL", "Ffl"}, {0xFB05, "ST", "St"}, {0xFB06, "ST", "St"},
  };
  for (const Special& special : kSpecial)
    if (c == special.letter) {
      out += title_case ? special.title : special.upper;
      return;
    }
  const bool refused = c == 0x390 || c == 0x3B0 || c == 0x587 || (c >= 0x1E96 && c <= 0x1E9A) ||
                       (c >= 0x1F50 && c <= 0x1F56 && c % 2 == 0) || (c >= 0x1F80 && c <= 0x1FFC) ||
                       (c >= 0xFB13 && c <= 0xFB17);
  check(!refused, "capitals of U+", std::hex, uint32_t(c), " are not supported");
  append_utf8(out,
              char32_t(title_case ? utf8proc_totitle(utf8proc_int32_t(c)) : utf8proc_toupper(utf8proc_int32_t(c))));
}

/// A capital sigma that ends a word becomes U+03C2.
bool is_final_sigma(std::string_view text, size_t at) {
  const auto ignorable = [](char32_t c) {
    const auto kind = category(c);
    return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019 || kind == UTF8PROC_CATEGORY_MN ||
           kind == UTF8PROC_CATEGORY_LM || kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_SK;
  };
  bool before = false;
  for (std::string_view left = text.substr(0, at); !left.empty();) {
    size_t length = 0;
    const char32_t c = last_codepoint(left, length);
    left.remove_suffix(length);
    if (ignorable(c)) continue;
    before = has_case(c);
    break;
  }
  if (!before) return false;
  for (size_t next = at + step(text, at); next < text.size(); next += step(text, next)) {
    const char32_t c = first_codepoint(text.substr(next));
    if (!ignorable(c)) return !has_case(c);
  }
  return true;
}

void append_lower(std::string& out, std::string_view text, size_t at) {
  const char32_t c = first_codepoint(text.substr(at));
  if (c == 0x130)
    out += "i̇";
  else if (c == 0x3A3)
    out += is_final_sigma(text, at) ? "ς" : "σ";
  else
    append_utf8(out, char32_t(utf8proc_tolower(utf8proc_int32_t(c))));
}

bool is_of(char32_t c, Class wanted) {
  const auto kind = category(c);
  switch (wanted) {
    case Class::kAlpha:
      return is_letter(c);
    case Class::kDecimal:
      return kind == UTF8PROC_CATEGORY_ND;
    case Class::kDigit:
      check(kind != UTF8PROC_CATEGORY_NO, "isdigit of U+", std::hex, uint32_t(c), " is not supported");
      return kind == UTF8PROC_CATEGORY_ND;
    case Class::kAlnum:
      return is_letter(c) || kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL ||
             kind == UTF8PROC_CATEGORY_NO;
    case Class::kSpace:
      return is_space(c);
    case Class::kUpper:
    case Class::kLower:
      break;
  }
  return false;
}

bool prints(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

std::string hex(const char* form, unsigned value) {
  char text[16];
  std::snprintf(text, sizeof text, form, value);
  return text;
}

}  // namespace

bool is_space(char32_t c) {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

int64_t count_characters(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

std::vector<size_t> offsets_of(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size(); at += step(text, at)) offsets.push_back(at);
  offsets.push_back(text.size());
  return offsets;
}

std::vector<std::string> characters_of(std::string_view text) {
  std::vector<std::string> characters;
  for (size_t at = 0; at < text.size(); at += step(text, at)) characters.emplace_back(text.substr(at, step(text, at)));
  return characters;
}

std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> characters) {
  const auto goes = [&](std::string_view c) {
    return characters ? characters->find(c) != std::string_view::npos : is_space(first_codepoint(c));
  };
  if (side != Side::kRight)
    while (!text.empty() && goes(text.substr(0, step(text, 0)))) text.remove_prefix(step(text, 0));
  if (side != Side::kLeft)
    while (!text.empty()) {
      size_t length = 0;
      last_codepoint(text, length);
      if (!goes(text.substr(text.size() - length))) break;
      text.remove_suffix(length);
    }
  return text;
}

std::vector<std::string> split(std::string_view text, std::string_view separator, int64_t limit, bool from_right) {
  check(!separator.empty(), "split: the separator must not be empty");
  std::vector<std::string> parts;
  while (limit != int64_t(parts.size())) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    parts.emplace_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  parts.emplace_back(text);
  if (from_right) return {parts.rbegin(), parts.rend()};
  return parts;
}

std::vector<std::string> split_at_space(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string> parts;
  const Side outer = from_right ? Side::kRight : Side::kLeft;
  for (text = strip(text, outer); !text.empty(); text = strip(text, outer)) {
    if (limit == int64_t(parts.size())) {
      parts.emplace_back(text);
      break;
    }
    size_t cut = from_right ? text.size() : 0, length = 0;
    if (from_right)
      while (cut > 0 && !is_space(last_codepoint(text.substr(0, cut), length))) cut -= length;
    else
      while (cut < text.size() && !is_space(first_codepoint(text.substr(cut)))) cut += step(text, cut);
    parts.emplace_back(from_right ? text.substr(cut) : text.substr(0, cut));
    text = from_right ? text.substr(0, cut) : text.substr(cut);
  }
  if (from_right) return {parts.rbegin(), parts.rend()};
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  const auto ends_line = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = first_codepoint(text.substr(at));
    at += step(text, at);
    if (!ends_line(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.emplace_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit) {
  std::string out;
  size_t at = 0;
  if (from.empty()) {
    for (; limit != 0; --limit) {
      out += to;
      if (at == text.size()) return out;
      out += text.substr(at, step(text, at));
      at += step(text, at);
    }
    return out.append(text, at);
  }
  for (size_t found = text.find(from); found != std::string_view::npos && limit != 0; found = text.find(from, at)) {
    out.append(text, at, found - at).append(to);
    at = found + from.size();
    --limit;
  }
  return out.append(text, at);
}

std::string upper(std::string_view text) {
  std::string out;
  for_each(text, [&](char32_t c) { append_upper(out, c); });
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += step(text, at)) append_lower(out, text, at);
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += step(text, at))
    at == 0 ? append_upper(out, first_codepoint(text), true) : append_lower(out, text, at);
  return out;
}

std::string title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t at = 0; at < text.size(); at += step(text, at)) {
    const char32_t c = first_codepoint(text.substr(at));
    inside ? append_lower(out, text, at) : append_upper(out, c, true);
    inside = has_case(c);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += step(text, at)) {
    const char32_t c = first_codepoint(text.substr(at));
    const auto kind = category(c);
    if (kind == UTF8PROC_CATEGORY_LL)
      append_upper(out, c);
    else if (kind == UTF8PROC_CATEGORY_LU)
      append_lower(out, text, at);
    else
      append_utf8(out, c);
  }
  return out;
}

bool is_all(std::string_view text, Class wanted) {
  bool all = !text.empty(), seen = false;
  const bool by_case = wanted == Class::kUpper || wanted == Class::kLower;
  for_each(text, [&](char32_t c) {
    if (!by_case) {
      all = all && is_of(c, wanted);
    } else if (has_case(c)) {
      seen = true;
      all = all && (category(c) == UTF8PROC_CATEGORY_LU) == (wanted == Class::kUpper) &&
            category(c) != UTF8PROC_CATEGORY_LT;
    }
  });
  return all && (seen || !by_case);
}

std::string repr(std::string_view text) {
  const bool twice = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = twice ? '"' : '\'';
  std::string out(1, quote);
  for_each(text, [&](char32_t c) {
    if (c == char32_t(quote) || c == '\\')
      (out += '\\') += char(c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (prints(c))
      append_utf8(out, c);
    else
      out += hex(c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", unsigned(c));
  });
  return out + quote;
}

std::string repr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char text[40];
  const double size = std::fabs(number);
  const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto form = scientific ? std::chars_format::scientific : std::chars_format::fixed;
  const auto end = std::to_chars(text, text + sizeof text, number, form).ptr;
  std::string out(text, end);
  return !scientific && out.find('.') == std::string::npos ? out + ".0" : out;
}

std::string json_text(std::string_view text, bool ascii) {
  std::string out = "\"";
  for_each(text, [&](char32_t c) {
    switch (c) {
      case '"':
        out += "\\\"";
        return;
      case '\\':
        out += "\\\\";
        return;
      case '\n':
        out += "\\n";
        return;
      case '\r':
        out += "\\r";
        return;
      case '\t':
        out += "\\t";
        return;
      case '\b':
        out += "\\b";
        return;
      case '\f':
        out += "\\f";
        return;
      default:
        break;
    }
    if (c >= 0x10000 && ascii)
      out += hex("\\u%04x", 0xD7C0u + unsigned(c >> 10)) + hex("\\u%04x", 0xDC00u + unsigned(c & 0x3FF));
    else if (c < 0x20 || (ascii && c > 0x7E))
      out += hex("\\u%04x", unsigned(c));
    else
      append_utf8(out, c);
  });
  return out + '"';
}

}  // namespace mantissa::jinja
