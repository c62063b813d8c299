#include "rl/reward/math/numbers.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "rl/reward/math/text.h"

namespace mantissa {
namespace {

class NumberReader {
 public:
  NumberReader(std::string_view text, NumberPlace place) : text_(text), place_(place) {}

  WrittenNumber read() {
    while (is_digit(at(i_))) digits_ += text_[i_++];
    thousands();
    if (at(i_) == '.' && is_digit(at(i_ + 1))) {
      do digits_ += text_[i_++];
      while (is_digit(at(i_)));
    }
    if (!repeating()) exponent();
    return {std::move(digits_), i_};
  }

 private:
  char at(size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  std::string_view from(size_t i) const { return text_.substr(std::min(i, text_.size())); }

  /// Length of a thousands separator at i that three digits and no fourth follow, else 0. A bare comma separates only
  /// outside brackets (inside it is a list), a blank only where nothing else can be meant.
  size_t separator(size_t i) const {
    size_t length = 0;
    for (std::string_view mark : {"{,}\\!", "{,}", ",\\!", "\\,", "\\!"})
      if (from(i).starts_with(mark)) {
        length = mark.size();
        break;
      }
    if (length > 0) {
      while (at(i + length) == ' ') ++length;
    } else if ((at(i) == ',' && !place_.in_brackets) || at(i) == ' ') {
      length = 1;
    }
    if (length == 0) return 0;
    size_t d = i + length;
    return is_digit(at(d)) && is_digit(at(d + 1)) && is_digit(at(d + 2)) && !is_digit(at(d + 3)) ? length : 0;
  }

  /// Groups of three digits behind one to three of them, all with one kind of separator.
  void thousands() {
    if (digits_.empty() || digits_.size() > 3 || digits_[0] == '0' || (place_.in_fraction && at(i_) == ' ')) return;
    size_t i = i_, groups = 0;
    std::string grouped = digits_;
    char kind = at(i);
    while (size_t length = separator(i)) {
      if (at(i) != kind) break;
      grouped += text_.substr(i + length, 3);
      i += length + 3;
      ++groups;
    }
    // "1,234,5" is a list, and so is "1 234 5".
    bool list = at(i) == kind && (kind == ',' || kind == ' ') && is_digit(at(i + 1));
    if (groups == 0 || list) return;
    digits_ = std::move(grouped);
    i_ = i;
  }

  /// One of `marks` at i and the digits under it, braced or one alone; i moves behind them.
  std::optional<std::string> marked(std::initializer_list<std::string_view> marks, size_t& i) const {
    for (std::string_view mark : marks) {
      if (!from(i).starts_with(mark)) continue;
      size_t k = i + mark.size();
      if (is_letter(mark.back()) && is_letter(at(k))) continue;
      while (is_blank(at(k))) ++k;
      std::string digits;
      const bool braced = at(k) == '{';
      if (braced) ++k;
      for (; is_digit(at(k)) || (braced && is_blank(at(k))); ++k) {
        if (is_digit(at(k))) digits += at(k);
        if (!braced) {
          ++k;
          break;
        }
      }
      if (digits.empty() || (braced && at(k) != '}')) return {};
      i = k + braced;
      return digits;
    }
    return {};
  }

  /// Behind a decimal point: \overline{6}, \bar6, \dot1428\dot5, (6), 333... False: nothing of that kind.
  bool repeating() {
    const bool decimal = digits_.find('.') != std::string::npos, point = !decimal && at(i_) == '.';
    if (!decimal && !point) return false;
    size_t i = point ? i_ + 1 : i_;
    const bool braces = at(i) == '{' && at(i + 1) == '\\';  // 0.{\bar 3}
    i += braces;
    std::string part = overlined(i);
    if (part.empty()) part = dotted(i);
    if (part.empty() && !braces) part = bracketed(i);
    if (!part.empty() && braces && at(i++) != '}') throw MathSyntaxError("more than a repeating part in braces");
    if (part.empty()) return decimal && ellipsis();
    if (is_digit(at(i))) throw MathSyntaxError("digits behind the repeating part of a decimal");
    if (point) digits_ += '.';
    digits_ += '(' + part + ')';
    i_ = i;
    i_ += ellipsis_length();
    return true;
  }

  std::string overlined(size_t& i) const {
    std::string part;
    while (auto more = marked({"\\overline", "\\bar", "\\widebar"}, i)) part += *more;
    return part;
  }

  /// A dot over the one digit that repeats, or over the first and last of them, or over each.
  std::string dotted(size_t& i) const {
    std::string part;
    bool last_has_dot = false;
    for (;;) {
      if (auto digit = marked({"\\dot", "\\overset{.}", "\\overset{\\cdot}", "\\stackrel{.}", "\\stackrel{\\cdot}"}, i);
          digit && digit->size() == 1) {
        part += *digit;
        last_has_dot = true;
      } else if (!part.empty() && is_digit(at(i))) {
        part += at(i++);
        last_has_dot = false;
      } else {
        break;
      }
    }
    if (!part.empty() && !last_has_dot) throw MathSyntaxError("digits behind the repeating part of a decimal");
    return part;
  }

  std::string bracketed(size_t& i) const {
    if (at(i) != '(') return {};
    size_t end = i + 1;
    while (is_digit(at(end))) ++end;
    if (end == i + 1 || at(end) != ')') return {};
    std::string part(text_.substr(i + 1, end - i - 1));
    i = end + 1;
    return part;
  }

  size_t ellipsis_length() const {
    for (std::string_view dots : {"\\ldots", "\\dots", "\\cdots", "...", " ...", "\\,\\ldots"})
      if (from(i_).starts_with(dots)) return dots.size();
    return 0;
  }

  /// "0.1666..." repeats what its end shows three times (or all of it, "0.33..."), "0.1212..." what it shows twice.
  bool ellipsis() {
    const size_t length = ellipsis_length();
    if (length == 0) return false;
    const std::string_view places = std::string_view(digits_).substr(digits_.find('.') + 1);
    for (size_t block = 1; 2 * block <= places.size(); ++block) {
      const std::string_view part = places.substr(places.size() - block);
      size_t times = 1;
      while ((times + 1) * block <= places.size() && places.substr(places.size() - (times + 1) * block, block) == part)
        ++times;
      if (times < (block > 1 || times * block == places.size() ? 2 : 3)) continue;
      digits_ = digits_.substr(0, digits_.size() - block) + '(' + std::string(part) + ')';
      i_ += length;
      return true;
    }
    throw MathSyntaxError("dots behind a decimal that shows no repeating part");
  }

  void exponent() {
    if (at(i_) != 'e' && at(i_) != 'E') return;
    size_t end = i_ + 1;
    if (at(end) == '-' || at(end) == '+') ++end;
    size_t begin = end;
    while (is_digit(at(end))) ++end;
    if (end == begin || is_letter(at(end))) return;
    digits_ += 'e' + std::string(text_.substr(i_ + 1, end - i_ - 1));
    i_ = end;
  }

  std::string_view text_;
  NumberPlace place_;
  size_t i_ = 0;
  std::string digits_;
};

}  // namespace

bool starts_number(std::string_view text) {
  if (text.empty()) return false;
  if (text[0] != '.') return is_digit(text[0]);
  text.remove_prefix(1);
  if (text.empty()) return false;
  if (is_digit(text[0])) return true;
  for (std::string_view mark : {"\\overline", "\\bar", "\\dot"})
    if (text.starts_with(mark)) return true;
  return false;
}

WrittenNumber read_number(std::string_view text, NumberPlace place) {
  return NumberReader(text, place).read();
}

}  // namespace mantissa
