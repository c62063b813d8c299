// Errors. Everything the user can get wrong ends in one exception type whose text says what was asked, the rule, the
// value found and, where it helps, where to change it: "[op or file] rule: got value".
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace mantissa {

/// The one exception the library throws on bad input. Programs print what() and exit with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Concatenates anything that can be streamed: str("rows ", 3, " of ", n).
template <class... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws Error(str(parts...)).
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(str(parts...));
}

/// Throws Error(str(parts...)) unless the rule holds.
template <class... Parts>
void check(bool rule, const Parts&... parts) {
  if (!rule) [[unlikely]]
    fail(parts...);
}

}  // namespace mantissa
