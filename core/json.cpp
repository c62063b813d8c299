#include "core/json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace mantissa {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";  // U+FFFD

/// Bytes of the character that begins at text[at], or minus the bytes of its longest valid beginning (at least 1)
/// where it breaks off. The table of the Unicode standard: no overlong forms, no surrogates, nothing over U+10FFFF.
int utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return at + i < text.size() ? int(uint8_t(text[at + i])) : -1; };
  const int lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return -1;
  const int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  const int low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const int high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (int i = 1; i < length; ++i)
    if (byte(size_t(i)) < (i == 1 ? low : 0x80) || byte(size_t(i)) > (i == 1 ? high : 0xbf)) return -i;
  return length;
}

void append_ascii(std::string& out, char c, JsonEscapes escapes) {
  constexpr std::string_view kControls = "\b\t\n\f\r", kLetters = "btnfr";
  const size_t control = escapes == JsonEscapes::kLetters ? kControls.find(c) : std::string_view::npos;
  if (c == '"' || c == '\\') {
    out += {'\\', c};
  } else if (control != std::string_view::npos) {
    out += {'\\', kLetters[control]};
  } else if (uint8_t(c) < 0x20) {
    char code[8];
    std::snprintf(code, sizeof code, "\\u%04x", unsigned(c));
    out += code;
  } else {
    out += c;
  }
}

template <class T, class Text>
std::string array_of(std::span<const T> values, Text text) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) (out += i ? ", " : "") += text(values[i]);
  return out + ']';
}

}  // namespace

std::string json_string(std::string_view text, JsonEscapes escapes) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const int length = utf8_length(text, at);
    if (length == 1) {
      append_ascii(out, text[at], escapes);
    } else if (length > 1) {
      out += text.substr(at, size_t(length));
    } else {
      out += kReplacement;
    }
    at += size_t(std::abs(length));
  }
  return out + '"';
}

std::string json_number(double value) {
  char number[32] = "null";
  if (std::isfinite(value)) std::snprintf(number, sizeof number, "%.9g", value);
  return number;
}

std::string repeated_key(std::string_view json) {
  std::vector<std::string_view> keys;  // of the objects around `at`, the outermost's first
  std::vector<size_t> first;           // of each of these objects, where its keys begin
  for (size_t at = 0; at < json.size(); ++at) {
    if (json[at] == '"') {
      const size_t begin = ++at;
      while (at < json.size() && json[at] != '"') at += json[at] == '\\' ? 2 : 1;
      const size_t next = std::min(json.find_first_not_of(" \t\r\n", at + 1), json.size());
      if (next < json.size() && json[next] == ':') keys.push_back(json.substr(begin, at - begin));
    } else if (json[at] == '{') {
      first.push_back(keys.size());
    } else if (json[at] == '}' && !first.empty()) {
      const auto own = keys.begin() + std::ptrdiff_t(first.back());
      std::sort(own, keys.end());
      if (const auto twice = std::adjacent_find(own, keys.end()); twice != keys.end()) return std::string(*twice);
      keys.erase(own, keys.end());
      first.pop_back();
    }
  }
  return "";
}

JsonObject& JsonObject::put(std::string_view key, const std::string& value) {
  if (text_.size() > 1) text_ += ", ";
  text_ += json_string(key, escapes_) + ": " + value;
  return *this;
}

JsonObject& JsonObject::add(std::string_view key, std::span<const float> values) {
  return put(key, array_of(values, [](float v) { return json_number(v); }));
}
JsonObject& JsonObject::add(std::string_view key, std::span<const int32_t> values) {
  return put(key, array_of(values, [](int32_t v) { return std::to_string(v); }));
}
JsonObject& JsonObject::add(std::string_view key, std::span<const std::string> values) {
  return put(key, array_of(values, [&](const std::string& v) { return json_string(v, escapes_); }));
}

}  // namespace mantissa
