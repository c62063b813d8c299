// JSON as this project writes it: keys in the order they were added, ", " and ": " between them, floats with nine
// digits (an fp32 value reads back to the same bits), null for a number that is not finite. Reading is the library's
// part; everything written with a fixed spelling comes from here.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mantissa {

/// How a string spells control characters: \n as "\n" where JSON has a letter for it, or always as "\u000a".
enum class JsonEscapes : uint8_t { kLetters, kCodes };

/// Text as a JSON string with its quotes. Ill-formed UTF-8 becomes U+FFFD, one for each maximal subpart (the practice
/// that the Unicode standard recommends).
std::string json_string(std::string_view text, JsonEscapes escapes = JsonEscapes::kLetters);
/// A number with nine digits, or null.
std::string json_number(double value);

/// JSON that the library can read: integers of more than 18 digits become strings of their digits, and other numbers
/// beyond a double, which it refuses as if they were none, 1e308.
std::string with_large_numbers(std::string_view json);

/// A key that an object of this JSON has twice, or "": the library keeps the last value of such a key and says nothing.
/// `json` must have been read by it.
std::string repeated_key(std::string_view json);

/// Why the library refuses this JSON, and how far it has read: " at byte 17: unexpected string literal; expected '}'".
std::string json_fault(std::string_view json);

/// Error "where: ..." on what the library would read although nobody should: JSON with a zero byte in it, where it
/// takes the text to end and drops the rest, and JSON that nests deeper than 128 arrays and objects (the limit of
/// `tokenizers` and `safetensors`), as copying and printing it go down by recursion: a file of brackets alone would
/// end the program.
void check_json(std::string_view json, std::string_view where);

/// One object, keys in the order they were added.
class JsonObject {
 public:
  explicit JsonObject(JsonEscapes escapes = JsonEscapes::kLetters) : escapes_(escapes) {}

  JsonObject& add(std::string_view key, double value) { return put(key, json_number(value)); }
  JsonObject& add(std::string_view key, int64_t value) { return put(key, std::to_string(value)); }
  JsonObject& add(std::string_view key, int32_t value) { return add(key, int64_t(value)); }
  JsonObject& add(std::string_view key, bool value) { return put(key, value ? "true" : "false"); }
  JsonObject& add(std::string_view key, std::string_view value) { return put(key, json_string(value, escapes_)); }
  JsonObject& add(std::string_view key, const std::string& value) { return add(key, std::string_view(value)); }
  JsonObject& add(std::string_view key, const char* value) { return add(key, std::string_view(value)); }
  JsonObject& add(std::string_view key, std::span<const float> values);
  JsonObject& add(std::string_view key, std::span<const int32_t> values);
  JsonObject& add(std::string_view key, std::span<const std::string> values);

  /// "{...}" in one line, without a line feed.
  std::string str() const { return text_ + "}"; }

 private:
  JsonObject& put(std::string_view key, const std::string& value);

  JsonEscapes escapes_;
  std::string text_ = "{";
};

}  // namespace mantissa
