// UTF-8 checking, NFC on utf8proc's tables, character classes.
#include "rl/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace mantissa {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Length of the well-formed character at `text`, or minus the length of the ill-formed maximal subpart.
int scan(std::string_view text) {
  const auto byte = [&](size_t i) -> unsigned { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return -1;
  // The second byte's range excludes overlong forms, surrogates and code points above U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  const int length = int(utf8_length(static_cast<unsigned char>(lead)));
  if (byte(1) < low || byte(1) > high) return -1;
  for (int i = 2; i < length; ++i)
    if (byte(size_t(i)) < 0x80 || byte(size_t(i)) > 0xBF) return -i;
  return length;
}

utf8proc_category_t category(char32_t codepoint) {
  return utf8proc_category(utf8proc_int32_t(codepoint));
}

}  // namespace

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const int length = scan(text.substr(at));
    if (length > 0)
      out.append(text, at, size_t(length));
    else
      out.append(kReplacement);
    at += size_t(std::abs(length));
  }
  return out;
}

char32_t first_codepoint(std::string_view text) {
  const auto byte = [&](size_t i) { return char32_t(static_cast<unsigned char>(text[i])); };
  switch (utf8_length(static_cast<unsigned char>(text[0]))) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
}

char32_t last_codepoint(std::string_view text, size_t& length) {
  length = 1;
  while ((static_cast<unsigned char>(text[text.size() - length]) & 0xC0) == 0x80) ++length;
  return first_codepoint(text.substr(text.size() - length));
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += char(c);
  } else if (c < 0x800) {
    out += {char(0xC0 | c >> 6), char(0x80 | (c & 0x3F))};
  } else if (c < 0x10000) {
    out += {char(0xE0 | c >> 12), char(0x80 | (c >> 6 & 0x3F)), char(0x80 | (c & 0x3F))};
  } else {
    out += {char(0xF0 | c >> 18), char(0x80 | (c >> 12 & 0x3F)), char(0x80 | (c >> 6 & 0x3F)), char(0x80 | (c & 0x3F))};
  }
}

std::string nfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  // utf8proc_map orders marks by bubble sort, quadratic on a long run of them; so decompose and order here.
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += utf8_length(static_cast<unsigned char>(text[at]))) {
    utf8proc_int32_t parts[8];  // the longest canonical decomposition has 4
    const auto count = utf8proc_decompose_char(utf8proc_int32_t(first_codepoint(text.substr(at))), parts, 8,
                                               utf8proc_option_t(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE), nullptr);
    check(count >= 0 && count <= 8, "[nfc] ", utf8proc_errmsg(count));
    points.insert(points.end(), parts, parts + count);
  }
  const auto mark_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (auto begin = points.begin(); begin != points.end();) {
    begin = std::find_if(begin, points.end(), [&](auto c) { return mark_class(c) != 0; });
    const auto end = std::find_if(begin, points.end(), [&](auto c) { return mark_class(c) == 0; });
    std::stable_sort(begin, end, [&](auto a, auto b) { return mark_class(a) < mark_class(b); });
    begin = end;
  }
  const auto composed = utf8proc_normalize_utf32(points.data(), utf8proc_ssize_t(points.size()),
                                                 utf8proc_option_t(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  check(composed >= 0, "[nfc] ", utf8proc_errmsg(composed));
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < composed; ++i) append_utf8(out, char32_t(points[size_t(i)]));
  return out;
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D);
  const auto kind = category(c);
  return c == 0x85 || kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL || kind == UTF8PROC_CATEGORY_ZP;
}

bool is_word(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // Joiners, and the circled and squared letters: symbols that are Alphabetic.
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

}  // namespace mantissa
