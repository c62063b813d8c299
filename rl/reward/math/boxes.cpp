#include "rl/reward/math/boxes.h"

#include <algorithm>

#include "rl/reward/math/text.h"

namespace mantissa {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr size_t kLookBack = 400;  // how far before a box its formula may begin

/// The content of a box whose macro ends at `open`: a braced group, or one character after blanks ("\boxed 5"). Of the
/// boxes that are known, the first last, those of a group are passed over.
bool read_box(std::string_view text, size_t begin, size_t open, const std::vector<Box>& known, Box& box) {
  size_t i = open;
  while (i < text.size() && is_blank(text[i])) ++i;
  if (i == text.size()) return false;
  if (text[i] != '{') {
    if (i == open) return false;  // \boxedsomething
    size_t end = i;
    while (end < text.size() && !is_blank(text[end]) && text[end] != '$') ++end;
    box = {begin, end, text.substr(i, end - i)};
    return end > i;
  }
  int depth = 0;
  size_t next = known.size();
  for (size_t j = i; j < text.size(); ++j) {
    if (next > 0 && j == known[next - 1].begin) {
      const Box& inner = known[--next];
      const bool group = size_t(inner.content.data() - text.data()) + inner.content.size() < inner.end;
      if (group) j = inner.end - 1;
    } else if (text[j] == '\\' && j + 1 < text.size() && (text[j + 1] == '{' || text[j + 1] == '}')) {
      ++j;
    } else if (text[j] == '{') {
      ++depth;
    } else if (text[j] == '}' && --depth == 0) {
      box = {begin, j + 1, text.substr(i + 1, j - i - 1)};
      return true;
    }
  }
  return false;
}

/// The formula around `at`, from behind the delimiter that opens it up to `at`; data() is null where there is none.
std::string_view formula_before(std::string_view text, size_t at) {
  const size_t from = at > kLookBack ? at - kLookBack : 0;
  std::string_view before = text.substr(from, at - from);
  if (const size_t paragraph = before.rfind("\n\n"); paragraph != kNone) before.remove_prefix(paragraph + 2);
  for (auto [open, close] : {std::pair<std::string_view, std::string_view>{"\\(", "\\)"},
                             {"\\[", "\\]"},
                             {"\\begin{align", "\\end"},
                             {"\\begin{equation", "\\end"},
                             {"\\begin{gather", "\\end"}})
    if (const size_t opened = before.rfind(open); opened != kNone && before.find(close, opened) == kNone)
      return before.substr(opened + open.size());
  size_t dollars = 0, opened = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == '\\') {
      ++i;
    } else if (before[i] == '$') {
      if (i + 1 < before.size() && before[i + 1] == '$') ++i;
      ++dollars;
      opened = i + 1;
    }
  }
  return dollars % 2 == 1 ? before.substr(opened) : std::string_view();
}

/// Without blanks, open braces, delimiters and spacing commands at the end.
std::string_view before_spacing(std::string_view text) {
  for (;;) {
    text = trimmed(text);
    size_t length = 0;
    for (std::string_view nothing : {"{", "\\,", "\\;", "\\!", "\\:", "\\ ", "\\displaystyle", "\\quad"})
      if (text.ends_with(nothing)) length = nothing.size();
    if (length == 0) return text;
    text.remove_suffix(length);
  }
}

/// A minus behind this text has a left side: a number, a name, a closing bracket.
bool ends_in_operand(std::string_view text) {
  text = trimmed(text);
  if (text.empty()) return false;
  const char last = text.back();
  if (!is_letter(last))
    return is_digit(last) || last == ')' || last == '}' || last == ']' || last == '|' || last == '!';
  size_t begin = text.size();
  while (begin > 0 && is_letter(text[begin - 1])) --begin;
  if (begin == 0 || text[begin - 1] != '\\') return true;
  const std::string_view command = text.substr(begin);
  for (std::string_view relation :
       {"implies", "Rightarrow", "rightarrow", "to", "approx", "equiv", "quad",      "qquad", "le",   "leq",
        "ge",      "geq",        "lt",         "gt", "ne",     "neq",   "therefore", "iff",   "text", "left"})
    if (command == relation) return false;
  return true;
}

/// Only connecting words, commas and the signs of mathematics stand between two boxes.
bool connects(std::string_view gap) {
  if (gap.size() > 1000) return false;
  std::string rest;
  for (size_t i = 0; i < gap.size(); ++i) {
    if (gap[i] == '\\') {
      size_t j = i + 1;
      while (j < gap.size() && is_letter(gap[j])) ++j;
      i = std::max(j - 1, i + 1);  // \quad, \text, \( ...
      rest += ' ';
    } else {
      rest += std::string_view("${}(),;.&/|*-+=:?!").find(gap[i]) == kNone ? lowered(gap[i]) : ' ';
    }
  }
  int words = 0;
  for (size_t i = 0; i < rest.size();) {
    size_t j = i;
    while (j < rest.size() && !is_blank(rest[j])) ++j;
    const std::string_view word = std::string_view(rest).substr(i, j - i);
    // A letter or a number is a label, "x =", "(b)", "2.", or one more of the values.
    bool connecting = word.size() <= 1 || std::all_of(word.begin(), word.end(), is_digit);
    for (std::string_view known : {"and", "or", "either", "also", "maybe", "perhaps", "possibly", "else", "otherwise",
                                   "alternatively", "could", "might", "may", "be", "it"})
      connecting = connecting || word == known;
    if (!connecting) return false;
    words += !word.empty();
    i = j + 1;
  }
  return words <= 5;
}

}  // namespace

std::vector<Box> last_boxes(std::string_view text, size_t limit) {
  std::vector<Box> boxes;
  size_t before = text.size();
  int unclosed = 0;  // bounds the work on a text of open boxes
  while (boxes.size() < limit && before > 0 && unclosed < 8) {
    size_t at = before, length = 0;
    while (length == 0 && at > 0)
      if (text[--at] == '\\')
        for (std::string_view macro : {"\\boxed", "\\fbox", "\\framebox"})
          if (text.substr(at).starts_with(macro)) length = macro.size();
    if (length == 0) break;
    Box box;
    if (read_box(text, at, at + length, boxes, box)) {
      // A box around those just found replaces them: the outer content is the answer.
      while (!boxes.empty() && box.end > boxes.back().begin) boxes.pop_back();
      boxes.push_back(box);
    } else {
      ++unclosed;
    }
    before = at;
  }
  return boxes;
}

std::string signed_content(std::string_view text, const Box& box) {
  const std::string_view formula = formula_before(text, box.begin);
  const bool inside = formula.data() != nullptr;
  const size_t from = box.begin > kLookBack ? box.begin - kLookBack : 0;
  std::string_view before = inside ? before_spacing(formula) : text.substr(from, box.begin - from);
  // "-$\boxed{5}$": the formula touches the minus.
  if (inside && before.empty()) {
    before = text.substr(from, size_t(formula.data() - text.data()) - from);
    for (std::string_view delimiter : {"$$", "$", "\\(", "\\["})
      if (before.ends_with(delimiter)) {
        before.remove_suffix(delimiter.size());
        break;
      }
  }
  if (const std::string_view minus = trimmed(before);  // "x = - \boxed{5}" says by its = that it is a formula
      !inside && minus.ends_with('-') && trimmed(minus.substr(0, minus.size() - 1)).ends_with('='))
    before = minus;
  std::string_view sign;
  for (std::string_view mark : {"-", "−", "\\pm", "±"})
    if (before.ends_with(mark)) {
      sign = mark;
      before.remove_suffix(mark.size());
      break;
    }
  const std::string_view content = trimmed(box.content);
  const bool dash = before.ends_with("-");
  // Outside a formula, a word and a blank before the minus are prose; inside, they are what is subtracted from.
  const bool binary = !sign.empty() && (inside ? ends_in_operand(before)
                                               : ends_in_operand(before.substr(before.size() - !before.empty())));
  if (sign.empty() || dash || binary || content.empty()) return std::string(box.content);
  const std::string written = sign == "±"   ? "\\pm "
                              : sign == "−" ? "-"
                                            : std::string(sign) + (sign == "\\pm" ? " " : "");
  const bool simple = content.find_first_of("+-,;=<> ") == kNone;
  return simple ? written + std::string(content) : written + "(" + std::string(content) + ")";
}

size_t run_of_boxes(std::string_view text, const std::vector<Box>& boxes) {
  size_t run = std::min<size_t>(boxes.size(), 1);
  while (run < boxes.size() && connects(text.substr(boxes[run].end, boxes[run - 1].begin - boxes[run].end))) ++run;
  return run;
}

}  // namespace mantissa
