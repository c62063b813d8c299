// Regular expressions of tokenizer.json: written for Oniguruma (its own syntax, UTF-8), run on Oniguruma, with the
// matches that the `tokenizers` library takes. Its version 0.23 holds Oniguruma 6.9.10, whose categories such as \p{L}
// are those of Unicode 16.0. Here they are those of the system's Oniguruma: 14.0 in 6.9.8 (Debian 12), 15.1 in 6.9.9
// (Ubuntu 24.04, Debian 13), 16.0 in 6.9.10. What differs are the characters that Unicode assigned in between and, for
// [:alpha:] and \p{Alpha} alone, 15 marks that became letters: U+0363 to U+036F, U+0F82, U+0F83.
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
  /// Compiles; throws Error beginning with `where` on a pattern that is wrong.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  /// Non-overlapping matches in valid UTF-8, left to right. Empty ones count, but for one right behind the match before
  /// it; an empty text has none. Thread-safe. Work and memory are bounded; going over the bound throws Error.
  std::vector<Span> find_all(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  std::string where_;
};

}  // namespace mantissa
