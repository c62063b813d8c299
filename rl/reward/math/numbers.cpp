#include "rl/reward/math/numbers.h"

#include <algorithm>
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

  /// Length of a thousands separator at i that three digits and no fourth follow, else 0. A bare comma separates only
  /// outside brackets (inside it is a list), a blank only where nothing else can be meant.
  size_t separator(size_t i) const {
    size_t length = 0;
    std::string_view rest = text_.substr(std::min(i, text_.size()));
    for (std::string_view mark : {"{,}\\!", "{,}", ",\\!", "\\,", "\\!"})
      if (rest.starts_with(mark)) {
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

  /// "\overline{6}" behind a decimal point.
  bool repeating() {
    static constexpr std::string_view kOverline = "\\overline{";
    size_t bar = at(i_) == '.' ? i_ + 1 : i_;
    if (at(i_) != '.' && digits_.find('.') == std::string::npos) return false;
    if (!text_.substr(std::min(bar, text_.size())).starts_with(kOverline)) return false;
    size_t end = bar + kOverline.size(), begin = end;
    while (is_digit(at(end))) ++end;
    if (end > begin && at(end) == '}') {
      if (at(i_) == '.') digits_ += '.';
      digits_ += '(' + std::string(text_.substr(begin, end - begin)) + ')';
      i_ = end + 1;
    }
    return true;
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

WrittenNumber read_number(std::string_view text, NumberPlace place) {
  return NumberReader(text, place).read();
}

}  // namespace mantissa
