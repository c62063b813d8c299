// JSON lines in and out: one object a line. Every error of reading names file, line, key, rule and value. What is
// written comes from core/json.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"

namespace mantissa {

/// The objects of a file, one at a time.
class JsonLines {
 public:
  /// "-" is standard input. Throws when the file cannot be read.
  explicit JsonLines(const std::string& path);
  ~JsonLines();

  /// Moves to the next object; false at the end. Blank lines are skipped; anything but an object throws, and so does a
  /// file of blank lines alone.
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
  /// A value, whatever it is, as JSON.
  std::string json_of(const std::string& key) const;
  /// A number, and one that must be an integer.
  double number(const std::string& key) const;
  int64_t integer(const std::string& key) const;
  /// An array of strings.
  std::vector<std::string> texts(const std::string& key) const;
  /// An array of integers in [0, 2^31).
  std::vector<int32_t> ids(const std::string& key) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A line on standard output.
void print(const JsonObject& object);

}  // namespace mantissa
