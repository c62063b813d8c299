#include "core/json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "core/error.h"

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

std::string with_large_numbers(std::string_view json) {
  static const auto digits = [](std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
  };
  std::string out;
  for (size_t at = 0; at < json.size();) {
    size_t end = at + 1;
    if (json[at] == '"') {
      while (end < json.size() && json[end] != '"') end += json[end] == '\\' ? 2 : 1;
      ++end;
    } else if (json[at] == '-' || digits(json.substr(at, 1))) {
      end = std::min(json.find_first_not_of("0123456789+-.eE", end), json.size());
    }
    const std::string part(json.substr(at, end - at));
    at = end;
    const bool minus = part.starts_with('-');
    const std::string_view integer = std::string_view(part).substr(minus);
    char* stop = nullptr;
    if (digits(integer) && integer.size() > 18 && integer[0] != '0') {
      out += '"' + part + '"';
    } else if (digits(integer.substr(0, 1)) && !(integer[0] == '0' && digits(integer.substr(1, 1))) &&
               std::isinf(std::strtod(part.c_str(), &stop)) && *stop == 0) {
      out += minus ? "-1e308" : "1e308";
    } else {
      out += part;
    }
  }
  return out;
}

namespace {

/// Takes the keys of objects as the library reads them, until one comes twice.
class RepeatedKey : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::string found;

  bool start_object(size_t) override { return keys_.emplace_back(), true; }
  bool end_object() override { return keys_.pop_back(), true; }
  bool key(std::string& name) override {
    const bool fresh = keys_.back().insert(name).second;
    if (!fresh) found = name;
    return fresh;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t) override { return true; }
  bool number_unsigned(uint64_t) override { return true; }
  bool number_float(double, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(nlohmann::json::binary_t&) override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

 private:
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects around the place, the outermost's first
};

}  // namespace

std::string repeated_key(std::string_view json) {
  RepeatedKey reader;
  nlohmann::json::sax_parse(json, &reader);
  return reader.found;
}

std::string json_fault(std::string_view json) {
  try {
    const auto read = nlohmann::json::parse(json);
  } catch (const nlohmann::json::parse_error& e) {
    const std::string_view what = e.what();
    const size_t dash = what.find(" - ");
    const std::string_view reason = what.substr(dash == what.npos ? 0 : dash + 3);
    return " at byte " + std::to_string(e.byte) + ": " + std::string(reason.substr(0, reason.find("; last read: ")));
  } catch (const nlohmann::json::exception&) {  // a number that a double cannot hold
  }
  return "";
}

void check_json(std::string_view json, std::string_view where) {
  constexpr int kMost = 128;
  check(json.find('\0') == json.npos, where, ": not valid JSON: it holds a zero byte, at ", json.find('\0'));
  int depth = 0;
  for (size_t at = 0; at < json.size(); ++at) {
    const char c = json[at];
    if (c == '"') {
      for (++at; at < json.size() && json[at] != '"'; ++at) at += json[at] == '\\';
    } else if (c == '[' || c == '{') {
      check(++depth <= kMost, where, ": nested too deeply: JSON has at most ", kMost,
            " arrays and objects in each other");
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
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
