#include "rl/reward/math/lexer.h"

#include <algorithm>
#include <utility>

#include "rl/reward/math/counts.h"
#include "rl/reward/math/numbers.h"
#include "rl/reward/math/spelling.h"
#include "rl/reward/math/text.h"
#include "rl/reward/math/units.h"
#include "rl/reward/math/words.h"

namespace mantissa {
namespace {

using Kind = MathToken::Kind;

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  MathTokens run() {
    while (i_ < text_.size()) step();
    push(Kind::kEnd, "");
    return {std::move(tokens_), std::move(unknown_), std::move(connective_)};
  }

 private:
  char at(size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  bool starts(std::string_view word) const { return text_.substr(i_).starts_with(word); }

  void push(Kind kind, std::string text) {
    if (tokens_.size() > 4000) throw MathSyntaxError("more than 4000 tokens");
    if (kind == Kind::kOp) {
      if (text == "(" || text == "[" || text == "\\{") ++depth_;
      if ((text == ")" || text == "]" || text == "\\}") && depth_ > 0) --depth_;
    }
    if (kind == Kind::kText && !tokens_.empty() && tokens_.back().kind == Kind::kText) {
      tokens_.back().text += ' ' + text;
    } else {
      tokens_.push_back({kind, std::move(text), spaced_, i_, false});
    }
    spaced_ = false;
  }

  void step() {
    char c = text_[i_];
    if (is_blank(c) || c == '$' || c == '~' || c == '"') {
      spaced_ = true;
      ++i_;
    } else if (starts_number(text_.substr(i_))) {
      number();
    } else if (is_letter(c)) {
      letters();
    } else if (c == '\\') {
      command();
    } else {
      symbol();
    }
  }

  void number() {
    const WrittenNumber number =
        read_number(text_.substr(i_), {.in_brackets = depth_ > 0, .in_fraction = in_fraction()});
    if (number.length == 0) throw MathSyntaxError("a mark over an expression");
    const auto prefix = [](char c) { return c == 'x' || c == 'X' || c == 'b' || c == 'o'; };
    if (number.digits == "0" && prefix(at(i_ + 1)) && is_hex(at(i_ + 2)))
      throw MathSyntaxError("a number of a program");
    push(Kind::kNumber, number.digits);
    i_ += number.length;
  }

  /// "\frac 3 800": the arguments of a fraction are never joined by a blank.
  bool in_fraction() const {
    size_t n = tokens_.size();
    return (n > 0 && tokens_[n - 1].text == "frac") || (n > 1 && tokens_[n - 2].text == "frac");
  }

  void word(MathWord word, std::string_view run) {
    switch (word.kind) {
      case MathWord::Kind::kOp:
        return push(Kind::kOp, std::string(word.text));
      case MathWord::Kind::kName:
        return push(Kind::kName, std::string(word.text));
      case MathWord::Kind::kFunction:
        return push(Kind::kFunction, std::string(word.text));
      default:
        return push(Kind::kText, lowered(run));
    }
  }

  /// A run of letters outside \text: a known word, a function glued to its argument, an unknown word of four letters
  /// or more, else one variable per letter.
  void letters() {
    size_t end = i_;
    while (is_letter(at(end))) ++end;
    std::string_view run = text_.substr(i_, end - i_);
    if (time_of_day()) return;
    if (run.size() == 1) {
      bool between =
          (run == "U" || run == "u") && !tokens_.empty() && (tokens_.back().text == ")" || tokens_.back().text == "]");
      size_t next = end;
      while (is_blank(at(next))) ++next;
      if (between && (at(next) == '(' || at(next) == '[' || at(next) == '\\' || at(next) == '{')) {
        push(Kind::kOp, "cup");
      } else {
        push(Kind::kName, std::string(run));
      }
    } else if (MathWord known = math_word(run); known.kind != MathWord::Kind::kUnknown) {
      word(known, run);
    } else if (size_t n = tokens_.size();
               run.size() == 2 && lowered(run[1]) == 'm' && n > 1 && tokens_[n - 2].text == ":") {
      word({}, run);  // 8:34 PM
    } else if (std::string_view head = function_prefix(run); !head.empty()) {
      word(math_word(head), head);
      i_ += head.size();
      return;
    } else if (run.size() >= 4 || is_number_word(lowered(run)) || run.find_first_not_of("IVX") == run.npos) {
      word({}, run);
    } else {
      for (char c : run) push(Kind::kName, std::string(1, c));
    }
    i_ = end + (tokens_.back().kind == Kind::kText && number_behind_hyphen(end) && is_number_word(lowered(run)));
  }

  /// "a.m.", "P.M"
  bool time_of_day() {
    const bool noon = lowered(at(i_)) == 'a' || lowered(at(i_)) == 'p';
    if (!noon || at(i_ + 1) != '.' || lowered(at(i_ + 2)) != 'm' || is_letter(at(i_ + 3))) return false;
    push(Kind::kText, {lowered(at(i_)), 'm'});
    i_ += at(i_ + 3) == '.' ? 4 : 3;
    return true;
  }

  /// "five" behind "twenty-".
  bool number_behind_hyphen(size_t hyphen) const {
    size_t end = hyphen + 1;
    while (is_letter(at(end))) ++end;
    return at(hyphen) == '-' && is_number_word(lowered(text_.substr(hyphen + 1, end - hyphen - 1)));
  }

  /// "sin" of "sinx", "sqrt" of "sqrtab".
  static std::string_view function_prefix(std::string_view run) {
    for (std::string_view name : {"sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln"})
      if (run.starts_with(name) && run.size() - name.size() <= 2) return name;
    return {};
  }

  /// The braced group at i_ (after blanks), without its braces; one character where there is no brace.
  std::string_view group() {
    while (is_blank(at(i_))) ++i_;
    if (at(i_) != '{') {
      size_t begin = i_;
      i_ = std::min(i_ + 1, text_.size());
      return text_.substr(begin, i_ - begin);
    }
    int depth = 0;
    size_t begin = i_ + 1;
    for (; i_ < text_.size(); ++i_) {
      if (text_[i_] == '\\') {
        ++i_;
      } else if (text_[i_] == '{') {
        ++depth;
      } else if (text_[i_] == '}' && --depth == 0) {
        ++i_;
        return text_.substr(begin, i_ - 1 - begin);
      }
    }
    throw MathSyntaxError("a { without its }");
  }

  void command() {
    char c = at(i_ + 1);
    if (!is_letter(c)) return escape();
    size_t end = i_ + 1;
    while (is_letter(at(end))) ++end;
    std::string_view name = text_.substr(i_ + 1, end - i_ - 1);
    i_ = end;
    if (name == "begin" || name == "end") return environment(name == "begin");
    if (name == "mathbb" || name == "Bbb") return push(Kind::kName, "mathbb" + std::string(group()));
    if (name == "SI" || name == "qty" || name == "ang") {
      nested(group(), [&] { step(); });
      return name == "ang" ? push(Kind::kOp, "deg") : words(group(), true);
    }
    MathWord meaning = math_command(name);
    for (std::string_view space : {"quad", "qquad"})  // "\quadx"
      if (meaning.kind == MathWord::Kind::kUnknown && name.starts_with(space)) {
        i_ -= name.size() - space.size();
        return void(spaced_ = true);
      }
    if (meaning.text == "and") {
      const std::string_view which = name == "land" || name == "wedge" ? "land" : "lor";
      connective_ = connective_.empty() || connective_ == which ? which : "both";
    }
    switch (meaning.kind) {
      case MathWord::Kind::kSkip:
        spaced_ = true;
        if ((name == "left" || name == "right") && at(i_) == '.') ++i_;
        return;
      case MathWord::Kind::kSkipArgs:
        return skip_arguments(meaning.text.size());
      case MathWord::Kind::kFont:
        return;
      case MathWord::Kind::kAccent:
        return accent(meaning.text, trimmed(group()));
      case MathWord::Kind::kText:
        return words(group(), !name.starts_with("math"));
      case MathWord::Kind::kUnknown:
        if (unknown_.empty()) unknown_ = name;
        return push(Kind::kName, std::string(name));
      default:
        word(meaning, name);
        tokens_.back().command = true;
    }
  }

  /// A backslash and what is no letter.
  void escape() {
    char c = at(i_ + 1);
    // Doubled backslashes outside an environment are an escaped string's.
    bool row = c == '\\' && (environments_ > 0 || !is_letter(at(i_ + 2)));
    if (row) {
      push(Kind::kOp, "\\\\");
    } else if (c == '{' || c == '}') {
      push(Kind::kOp, std::string("\\") + c);
    } else if (c == '%') {
      push(Kind::kOp, "%");
    } else if (c == '|') {
      push(Kind::kOp, "|");
    } else if (c == '$') {
      push(Kind::kOp, "dollar");
    } else if (std::string_view(",;:>/-@()[] \t\n\r").find(c) != std::string_view::npos || i_ + 1 == text_.size()) {
      spaced_ = true;
    } else if (c != '!' && c != '\\') {
      throw MathSyntaxError(std::string("unexpected \\") + c);
    }
    i_ += c == '\\' && !row ? 1 : 2;
  }

  void environment(bool begin) {
    std::string name(trimmed(group()));
    environments_ = std::max(0, environments_ + (begin ? 1 : -1));
    push(Kind::kOp, begin ? "begin:" + name : "end");
    if (begin && name == "array") group();  // its columns
  }

  /// "[rgb]{0,0,1}" and the like: a star, options, `count` groups.
  void skip_arguments(size_t count) {
    spaced_ = true;
    if (at(i_) == '*') ++i_;
    if (at(i_) == '[')
      while (i_ < text_.size() && text_[i_++] != ']') {
      }
    for (; count > 0; --count)
      if (at(i_) == '{' || is_blank(at(i_))) group();
  }

  /// A mark over letters makes another name of them; over capitals, which are points, over one letter as a vector's
  /// arrow, and where `mark` is empty, it says nothing. Numbers under a mark are no numbers: "0.1\bar{6}" has been
  /// read before.
  void accent(std::string_view mark, std::string_view content) {
    const auto is_capital = [](char c) { return c >= 'A' && c <= 'Z'; };
    const bool letters = !content.empty() && std::all_of(content.begin(), content.end(), is_letter);
    const bool greek = content.starts_with('\\') && math_command(content.substr(1)).kind == MathWord::Kind::kName;
    if (content.empty() || std::any_of(content.begin(), content.end(), is_digit))
      throw MathSyntaxError("a mark over a number");
    const bool points = letters && content.size() > 1 && std::all_of(content.begin(), content.end(), is_capital);
    if (!mark.empty() && mark != "vec" && !points) {
      if (!letters && !greek) throw MathSyntaxError("a mark over an expression");
      return push(Kind::kName, std::string(mark) + ' ' + std::string(content));
    }
    if (mark == "vec" && letters && content.size() > 1) return push(Kind::kName, "vec " + std::string(content));
    push(Kind::kOp, "{");
    nested(content, [&] { step(); });
    push(Kind::kOp, "}");
  }

  /// Reads `content` in place, step by step.
  template <class Step>
  void nested(std::string_view content, const Step& step_inside) {
    if (nesting_ >= 8) throw MathSyntaxError("\\text nested more than 8 deep");
    std::string_view outer = std::exchange(text_, content);
    size_t outer_i = std::exchange(i_, 0);
    ++nesting_;
    while (i_ < text_.size()) step_inside();
    --nesting_;
    text_ = outer, i_ = outer_i;
  }

  /// The content of \text: runs of two letters and more are words, the rest is as elsewhere. In the fonts of
  /// mathematics (`text` false) runs of two letters are variables where they are no known word.
  void words(std::string_view content, bool text) {
    if (!content.empty() && is_blank(content.front())) spaced_ = true;
    nested(content, [&] { word_or_step(text); });
    spaced_ = true;
  }

  void word_or_step(bool text) {
    size_t end = i_;
    while (is_letter(at(end)) || (end > i_ && (at(end) == '-' || at(end) == '\'') && is_letter(at(end + 1)))) ++end;
    std::string_view run = text_.substr(i_, end - i_);
    if (run.size() >= 2) {
      MathWord known = math_word(run);
      if (!text && run.size() == 2 && known.kind == MathWord::Kind::kUnknown && unit_of_symbol(run).empty())
        return step();
      bool separates = known.kind == MathWord::Kind::kOp &&
                       (known.text == "and" || known.text == "%" || known.text == "deg" || known.text == "mod");
      bool function = known.kind == MathWord::Kind::kFunction && run != "min" && run != "sec";
      word(separates || function ? known : MathWord{}, run);
      i_ = end;
      if (at(i_) == '.') ++i_;  // "sq. units"
    } else if (time_of_day()) {
      return;
    } else if (run.size() == 1 && follows_quantity() && !unit_of_symbol(run).empty()) {
      push(Kind::kText, std::string(run));
      i_ = end;
    } else if (at(i_) == '.' && !is_digit(at(i_ + 1))) {
      ++i_;
    } else if (run == "a" && is_blank(at(end)) && scale_of_word(next_word(end)) > 0) {  // "a dozen"
      push(Kind::kText, "a");
      i_ = end;
    } else {
      step();
    }
  }

  std::string next_word(size_t at_blank) const {
    size_t begin = at_blank;
    while (is_blank(at(begin))) ++begin;
    size_t end = begin;
    while (is_letter(at(end))) ++end;
    return lowered(text_.substr(begin, end - begin));
  }

  /// Behind a number, a closing bracket, a unit or the slash of one: where "m" is a metre.
  bool follows_quantity() const {
    const size_t n = tokens_.size();
    if (n == 0) return false;
    const MathToken& last = tokens_[n - 1];
    if (last.text == "{" && n > 2) {  // 9.8 \frac{\text{m}}{\text{s}}
      const MathToken& before = tokens_[n - 3];
      return tokens_[n - 2].text == "frac" ? before.kind == Kind::kNumber || before.text == "}"
                                           : tokens_[n - 2].text == "}" && before.kind == Kind::kText;
    }
    return last.kind == Kind::kNumber || last.kind == Kind::kText || last.text == "}" || last.text == ")" ||
           ((last.text == "/" || last.text == "*") && n > 1 && tokens_[n - 2].kind == Kind::kText);
  }

  void symbol() {
    static constexpr std::pair<std::string_view, std::string_view> kPairs[] = {{"<=", "<="}, {">=", ">="}, {"=<", "<="},
                                                                               {"!=", "!="}, {"==", "="},  {"**", "^"}};
    for (auto [written, op] : kPairs)
      if (starts(written)) {
        push(Kind::kOp, std::string(op));
        i_ += written.size();
        return;
      }
    char c = text_[i_];
    if (c == '.' || c == '`') {
      // The full stop of a sentence; a decimal point stands before a digit.
      size_t next = i_ + 1;
      while (is_blank(at(next)) || at(next) == '$' || at(next) == '.' || at(next) == '}' || at(next) == ')') ++next;
      if (next < text_.size() && c == '.') throw MathSyntaxError("a full stop inside the answer");
    } else if (std::string_view("+-*/^_()[]{}|,;:!'=<>%&").find(c) != std::string_view::npos) {
      push(Kind::kOp, std::string(1, c));
    } else {
      throw MathSyntaxError(std::string("unexpected character '") + c + "'");
    }
    ++i_;
  }

  std::string_view text_;
  size_t i_ = 0;
  std::vector<MathToken> tokens_;
  std::string unknown_, connective_;
  bool spaced_ = false;
  int depth_ = 0, environments_ = 0, nesting_ = 0;
};

}  // namespace

MathTokens lex_math(std::string_view text) {
  const std::string ascii = to_ascii(text);
  return Lexer(ascii).run();
}

}  // namespace mantissa
