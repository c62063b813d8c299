// Numbers as people give them, in a config and on the command line.
#pragma once

#include <charconv>
#include <string_view>

namespace mantissa {

/// In decimal, a sign and leading zeros allowed: 010 is ten. False for anything else, also beyond what T holds.
template <class T>
bool read_number(std::string_view text, T& value) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  return read.ec == std::errc() && read.ptr == text.data() + text.size();
}

}  // namespace mantissa
