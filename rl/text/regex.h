// Regular expressions of tokenizer.json, written for Oniguruma (Ruby syntax), run on PCRE2 with UTF, UCP and JIT.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mantissa {

/// A half-open range of bytes.
struct Span {
  size_t begin = 0, end = 0;
};

class Regex {
 public:
  /// Compiles; throws Error beginning with `where` on a pattern that is wrong, or that the two dialects read
  /// differently and cannot be rewritten ({n,m}+, nested classes, &&, \h, \b, ...).
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  /// Non-overlapping matches in valid UTF-8, left to right, empty ones left out. Thread-safe. Work per match is
  /// bounded; going over the bound throws Error.
  std::vector<Span> find_all(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  std::string where_;
};

}  // namespace mantissa
