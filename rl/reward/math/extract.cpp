#include "rl/reward/math/extract.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "rl/reward/math/text.h"
#include "rl/reward/math/words.h"

namespace mantissa {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr size_t kBareLimit = 200;  // a longer line is no bare answer

struct Box {
  size_t begin, end;  // the whole macro in the text
  std::string_view content;
};

/// The content of a box whose macro ends at `open`: a braced group, or one character after blanks ("\boxed 5").
bool read_box(std::string_view text, size_t begin, size_t open, Box& box) {
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
  for (size_t j = i; j < text.size(); ++j) {
    if (text[j] == '\\' && j + 1 < text.size() && (text[j + 1] == '{' || text[j + 1] == '}')) {
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

/// Complete boxes not inside each other's content, last first, at most `limit` of them.
std::vector<Box> last_boxes(std::string_view text, size_t limit) {
  std::vector<Box> boxes;
  size_t before = text.size();
  int unclosed = 0;  // bounds the work on a text of open boxes
  while (boxes.size() < limit && before > 0 && unclosed < 8) {
    size_t at = kNone, length = 0;
    for (std::string_view macro : {"\\boxed", "\\fbox", "\\framebox"}) {
      size_t found = text.rfind(macro, before - 1);
      if (found != kNone && (at == kNone || found > at)) at = found, length = macro.size();
    }
    if (at == kNone) break;
    Box box;
    if (read_box(text, at, at + length, box)) {
      // A box around the one just found replaces it: the outer content is the answer.
      if (!boxes.empty() && box.end > boxes.back().begin) boxes.pop_back();
      boxes.push_back(box);
    } else {
      ++unclosed;
    }
    before = at;
  }
  return boxes;
}

/// Only connecting words, commas and math delimiters stand between two boxes.
bool connects(std::string_view gap) {
  if (gap.size() > 60) return false;
  std::string rest;
  for (size_t i = 0; i < gap.size(); ++i) {
    if (gap[i] == '\\') {
      size_t j = i + 1;
      while (j < gap.size() && std::isalpha(static_cast<unsigned char>(gap[j]))) ++j;
      i = std::max(j - 1, i + 1);  // \quad, \text, \( ...
      rest += ' ';
    } else {
      rest += std::string_view("${}(),;.&").find(gap[i]) == kNone ? gap[i] : ' ';
    }
  }
  int words = 0;
  for (size_t i = 0; i < rest.size();) {
    size_t j = i;
    while (j < rest.size() && !is_blank(rest[j])) ++j;
    std::string_view word(rest.data() + i, j - i);
    if (!word.empty() && word != "and" && word != "or") return false;
    words += !word.empty();
    i = j + 1;
  }
  return words <= 1;
}

/// `text` up to the end of its line or sentence; a $...$ or \(...\) right at the start is taken whole.
std::string_view first_statement(std::string_view text) {
  text = trimmed(text);
  while (!text.empty() && (text[0] == '*' || text[0] == ':')) text = trimmed(text.substr(1));
  struct Delimiter {
    std::string_view open, close;
  };
  for (auto [open, close] : std::array<Delimiter, 4>{{{"$$", "$$"}, {"$", "$"}, {"\\(", "\\)"}, {"\\[", "\\]"}}})
    if (text.starts_with(open)) {
      size_t end = text.find(close, open.size());
      while (end != kNone && text[end - 1] == '\\' && close[0] == '$') end = text.find(close, end + 1);  // \$
      if (end != kNone && end > open.size()) {
        std::string_view inside = trimmed(text.substr(open.size(), end - open.size()));
        // "$5 and the rest is $3" is money, not math.
        if (open != "$" || inside.find("  ") == kNone) return inside;
      }
    }
  size_t end = 0;
  int depth = 0;
  for (; end < text.size(); ++end) {
    if (text[end] == '\n') break;
    depth += (text[end] == '{') - (text[end] == '}');
    bool stop = depth <= 0 && (text[end] == '.' || text[end] == '!' || text[end] == '?');
    if (stop && (end + 1 == text.size() || is_blank(text[end + 1]))) {
      // "8:34 p.m." keeps its dots.
      if (text[end] == '.' && end >= 3 && text[end - 2] == '.') {
        ++end;
        break;
      }
      if (text[end] != '!' || end + 1 == text.size()) break;
    }
  }
  std::string_view line = trimmed(text.substr(0, end));
  while (line.size() > 1 && line.ends_with("*")) line = trimmed(line.substr(0, line.size() - 1));
  // "The largest n is 34": the value is what it says last.
  if (size_t is = line.rfind(" is "); is != kNone) return first_statement(line.substr(is + 4));
  return line;
}

/// Words that make a line prose rather than an answer: two letters and more, no command, no known word.
int prose_words(std::string_view line) {
  int words = 0;
  for (size_t i = 0; i < line.size();) {
    auto letter = [&](size_t k) { return k < line.size() && std::isalpha(static_cast<unsigned char>(line[k])); };
    size_t end = i;
    while (letter(end)) ++end;
    bool command = i > 0 && line[i - 1] == '\\';
    if (end - i >= 2 && !command && math_word(line.substr(i, end - i)).kind == MathWord::Kind::kUnknown) ++words;
    i = std::max(end, i + 1);
  }
  return words;
}

std::string_view after_last_anchor(std::string_view text) {
  std::string low = lowered(text);
  size_t best = kNone;
  for (size_t at = low.rfind("answer"); at != kNone; at = at == 0 ? kNone : low.rfind("answer", at - 1)) {
    size_t i = at + 6;
    while (i < low.size() && (low[i] == ' ' || low[i] == '*')) ++i;
    if (i < low.size() && low[i] == ':') {
      best = i + 1;
    } else if (low.compare(i, 1, "$") == 0 || low.compare(i, 2, "\\(") == 0 || low.compare(i, 2, "\\[") == 0) {
      best = i;
    } else if (low.compare(i, 2, "is") == 0 && i + 2 < low.size() &&
               !std::isalpha(static_cast<unsigned char>(low[i + 2]))) {
      best = i + 2;
    }
    if (best != kNone && !trimmed(text.substr(best)).empty()) return text.substr(best);
    best = kNone;
  }
  return {};
}

}  // namespace

ExtractedAnswer extract_answer(std::string_view response, bool boxed_only) {
  constexpr std::string_view kThinkEnd = "</think>";
  if (size_t end = response.rfind(kThinkEnd); end != kNone) response.remove_prefix(end + kThinkEnd.size());

  ExtractedAnswer answer;
  auto found = [&](std::string_view text, bool marked) {
    answer.found = true, answer.marked = marked;
    answer.text = trimmed(text);
    return answer;
  };
  std::vector<Box> boxes = last_boxes(response, 16);
  if (!boxes.empty()) {
    size_t run = 1;
    while (run < boxes.size() && connects(response.substr(boxes[run].end, boxes[run - 1].begin - boxes[run].end)))
      ++run;
    if (run > 1)
      for (size_t i = run; i-- > 0;) (answer.joined += boxes[i].content) += i == 0 ? "" : ", ";
    return found(boxes[0].content, true);
  }
  if (boxed_only) return answer;
  constexpr std::string_view kTag = "<answer>";  // of the prompt template r1
  if (size_t at = response.rfind(kTag); at != kNone) {
    std::string_view text = response.substr(at + kTag.size());
    text = trimmed(text.substr(0, text.find("</answer>")));
    if (!text.empty()) return found(text, true);
  }
  if (size_t at = response.rfind("####"); at != kNone) {
    std::string_view line = response.substr(at + 4);
    line = trimmed(line.substr(0, line.find('\n')));
    if (!line.empty()) return found(line, true);
  }
  if (std::string_view text = after_last_anchor(response); !text.empty()) return found(first_statement(text), true);

  std::string_view whole = trimmed(response);
  if (whole.empty() || whole.size() > kBareLimit || whole.find('\n') != kNone || prose_words(whole) > 2) return answer;
  return found(whole, false);
}

ExtractedAnswer extract_gold(std::string_view gold) {
  bool marked = gold.find("\\boxed") != kNone || gold.find("\\fbox") != kNone || gold.find("####") != kNone;
  if (!marked) {
    std::string start = lowered(trimmed(gold).substr(0, 16));
    marked = start.starts_with("answer is") || start.starts_with("the answer is");
  }
  if (marked)
    if (ExtractedAnswer answer = extract_answer(gold); answer.found) return answer;
  ExtractedAnswer answer;
  answer.found = true;
  answer.text = trimmed(gold);
  return answer;
}

}  // namespace mantissa
