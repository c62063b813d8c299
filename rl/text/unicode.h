// UTF-8 and the few Unicode facts tokenizers need. Every function but to_valid_utf8 expects valid UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mantissa {

/// Text with every ill-formed sequence replaced by U+FFFD, one per maximal subpart (as Unicode 3.9 and Rust's
/// from_utf8_lossy do); valid text comes back unchanged.
std::string to_valid_utf8(std::string_view text);
/// Bytes of the character that starts with `lead`: 1 to 4.
inline size_t utf8_length(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}
/// The code point at the start of `text` (not empty).
char32_t first_codepoint(std::string_view text);
/// The code point that ends `text` (not empty); `length` gets its bytes.
char32_t last_codepoint(std::string_view text, size_t& length);
void append_utf8(std::string& out, char32_t codepoint);

/// Normal form C. Linear but for a stable sort of each run of combining marks. The tables are utf8proc's; those of
/// `tokenizers` 0.23 are of Unicode 9, so that among other marks it leaves 98 younger ones where they stand (U+07FD,
/// U+08D3, U+09FE ...), which are ordered here.
std::string nfc(std::string_view text);

/// White_Space.
bool is_white_space(char32_t codepoint);
/// \w of the regex crate: Alphabetic, marks, decimal digits, connector punctuation, joiners.
bool is_word(char32_t codepoint);

}  // namespace mantissa
