// Python's str on UTF-8: templates count, cut and compare text in code points, as Python does. Every function expects
// valid UTF-8 and gives it back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mantissa::jinja {

/// str.isspace() of one character: White_Space and the four separators U+001C to U+001F.
bool is_space(char32_t codepoint);

/// Code points in `text`.
int64_t count_characters(std::string_view text);
/// Byte offset of each code point, and the size of the text at the end.
std::vector<size_t> offsets_of(std::string_view text);
/// The code points of `text`, each as a text.
std::vector<std::string> characters_of(std::string_view text);

enum class Side { kBoth, kLeft, kRight };
/// str.strip, lstrip, rstrip; without `characters` white space is stripped.
std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> characters = {});
/// str.split, rsplit at `separator` (not empty), at most `limit` times (-1: as often as it occurs).
std::vector<std::string> split(std::string_view text, std::string_view separator, int64_t limit, bool from_right);
/// The same at runs of white space, with none at the ends.
std::vector<std::string> split_at_space(std::string_view text, int64_t limit, bool from_right);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
/// str.replace: the first `limit` occurrences (-1: all). An empty `from` stands before every character and at the end.
std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit);

/// Full case mappings; Error on the few letters (Greek with iota subscript, Armenian ligatures) that are not done.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
/// str.title: a capital after every character that is no letter.
std::string title(std::string_view text);
std::string swap_case(std::string_view text);

enum class Class { kAlpha, kDecimal, kDigit, kAlnum, kSpace, kUpper, kLower };
/// str.isalpha, isdecimal, ...: false for an empty text.
bool is_all(std::string_view text, Class wanted);

/// repr(text): quotes as Python chooses them, what does not print escaped.
std::string repr(std::string_view text);
/// repr(number): the shortest decimal that reads back, "1.0", "1e+16", "nan".
std::string repr(double number);
/// The text in quotes with JSON's escapes; `ascii` writes everything above 0x7E as \u.
std::string json_text(std::string_view text, bool ascii);

}  // namespace mantissa::jinja
