// JSON lines in and out: one object a line. Reading names file, line, key, rule and value in every error;
// writing gives floats 9 digits (they read back as the same fp32) and what is not finite as null.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mantissa {

/// The objects of a file, one at a time.
class JsonLines {
 public:
  /// "-" is standard input. Throws when the file cannot be read.
  explicit JsonLines(const std::string& path);
  ~JsonLines();

  /// Moves to the next object; false at the end. Blank lines are skipped; anything but an object throws.
  bool next();
  /// "file:line" of the current object.
  const std::string& where() const;
  /// The line itself.
  const std::string& line() const;
  bool has(const std::string& key) const;
  /// A string.
  std::string text(const std::string& key) const;
  /// A string, or a number as it is written: gold answers.
  std::string text_or_number(const std::string& key) const;
  /// A number; the same, and an integer.
  double number(const std::string& key) const;
  int64_t integer(const std::string& key) const;
  /// An array of integers in [0, 2^31).
  std::vector<int32_t> ids(const std::string& key) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One object, keys in the order they were added.
class JsonObject {
 public:
  JsonObject& add(std::string_view key, double value);
  JsonObject& add(std::string_view key, int64_t value);
  JsonObject& add(std::string_view key, int32_t value) { return add(key, int64_t(value)); }
  JsonObject& add(std::string_view key, bool value);
  /// Bytes that are no UTF-8 become U+FFFD.
  JsonObject& add(std::string_view key, std::string_view value);
  JsonObject& add(std::string_view key, const std::string& value) { return add(key, std::string_view(value)); }
  JsonObject& add(std::string_view key, const char* value) { return add(key, std::string_view(value)); }
  JsonObject& add(std::string_view key, std::span<const float> values);
  JsonObject& add(std::string_view key, std::span<const int32_t> values);
  JsonObject& add(std::string_view key, std::span<const std::string> values);
  /// "{...}" without a line feed.
  std::string str() const { return text_ + "}"; }

 private:
  std::string& start(std::string_view key);
  std::string text_ = "{";
};

/// A line on standard output.
void print(const JsonObject& object);

}  // namespace mantissa
