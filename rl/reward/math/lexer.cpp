#include "rl/reward/math/lexer.h"

#include <algorithm>
#include <utility>

#include "rl/reward/math/extract.h"
#include "rl/reward/math/words.h"

namespace mantissa {
namespace {

using Kind = MathToken::Kind;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}
char lower(char c) {
  return c >= 'A' && c <= 'Z' ? char(c + 'a' - 'A') : c;
}

/// Unicode spellings, replaced before anything else.
std::string to_ascii(std::string_view text) {
  static constexpr std::pair<std::string_view, std::string_view> kMap[] = {
      {"π", "\\pi "},     {"√", "\\sqrt "},   {"∞", "\\infty "},    {"≤", "<="},       {"≥", ">="},
      {"⩽", "<="},        {"⩾", ">="},        {"≠", "!="},          {"×", "*"},        {"·", "*"},
      {"⋅", "*"},         {"÷", "/"},         {"−", "-"},           {"–", "-"},        {"—", "-"},
      {"±", "\\pm "},     {"∓", "\\mp "},     {"∪", "\\cup "},      {"∩", "\\cap "},   {"∈", "\\in "},
      {"°", "^\\circ "},  {"⁰", "^0"},        {"¹", "^1"},          {"²", "^2"},       {"³", "^3"},
      {"⁴", "^4"},        {"⁵", "^5"},        {"⁶", "^6"},          {"⁷", "^7"},       {"⁸", "^8"},
      {"⁹", "^9"},        {"½", "(1/2)"},     {"⅓", "(1/3)"},       {"⅔", "(2/3)"},    {"¼", "(1/4)"},
      {"¾", "(3/4)"},     {"≈", "\\approx "}, {"∅", "\\emptyset "}, {"′", "'"},        {"’", "'"},
      {"“", ""},          {"”", ""},          {"，", ","},          {"。", "."},       {"：", ":"},
      {"；", ";"},        {"（", "("},        {"）", ")"},          {"、", ","},       {"€", ""},
      {"£", ""},          {"¥", ""},          {"\u00a0", " "},      {"\u2009", " "},   {"\u202f", " "},
      {"α", "\\alpha "},  {"β", "\\beta "},   {"γ", "\\gamma "},    {"δ", "\\delta "}, {"θ", "\\theta "},
      {"λ", "\\lambda "}, {"μ", "\\mu "},     {"ρ", "\\rho "},      {"σ", "\\sigma "}, {"τ", "\\tau "},
      {"φ", "\\phi "},    {"ω", "\\omega "},  {"ℝ", "\\mathbb{R}"}, {"⟨", "("},        {"⟩", ")"}};
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      out += text[i++];
      continue;
    }
    auto it =
        std::find_if(std::begin(kMap), std::end(kMap), [&](auto& m) { return text.substr(i).starts_with(m.first); });
    if (it != std::end(kMap)) {
      out += it->second;
      i += it->first.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  std::vector<MathToken> run() {
    while (i_ < text_.size()) step();
    push(Kind::kEnd, "");
    return std::move(tokens_);
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
      tokens_.push_back({kind, std::move(text), spaced_, i_});
    }
    spaced_ = false;
  }

  void step() {
    char c = text_[i_];
    if (is_blank(c) || c == '$' || c == '~' || c == '"') {
      spaced_ = true;
      ++i_;
    } else if (is_digit(c) || (c == '.' && is_digit(at(i_ + 1)))) {
      number();
    } else if (is_letter(c)) {
      letters();
    } else if (c == '\\') {
      command();
    } else {
      symbol();
    }
  }

  /// Length of a thousands separator at i that three digits and no fourth follow, else 0. A bare comma
  /// separates only outside brackets (inside it is a list), a blank only where nothing else can be meant.
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
    } else if ((at(i) == ',' && depth_ == 0) || at(i) == ' ') {
      length = 1;
    }
    if (length == 0) return 0;
    size_t d = i + length;
    return is_digit(at(d)) && is_digit(at(d + 1)) && is_digit(at(d + 2)) && !is_digit(at(d + 3)) ? length : 0;
  }

  void number() {
    std::string digits;
    size_t i = i_;
    while (is_digit(at(i))) digits += text_[i++];
    if (!digits.empty() && digits.size() <= 3 && digits[0] != '0' && (!in_fraction() || at(i) != ' ')) {
      size_t begin = i, groups = 0;
      std::string grouped = digits;
      char kind = at(i);
      while (size_t length = separator(i)) {
        if (at(i) != kind) break;
        grouped += text_.substr(i + length, 3);
        i += length + 3;
        ++groups;
      }
      // "1,234,5" is a list, and so is "1 234 5".
      bool list = at(i) == kind && (kind == ',' || kind == ' ') && is_digit(at(i + 1));
      if (groups > 0 && !list) {
        digits = std::move(grouped);
      } else {
        i = begin;
      }
    }
    if (at(i) == '.' && is_digit(at(i + 1))) {
      do digits += text_[i++];
      while (is_digit(at(i)));
    }
    static constexpr std::string_view kOverline = "\\overline{";
    size_t bar = at(i) == '.' ? i + 1 : i;
    if ((at(i) == '.' || digits.find('.') != std::string::npos) &&
        text_.substr(std::min(bar, text_.size())).starts_with(kOverline)) {
      size_t j = bar + kOverline.size(), begin = j;
      while (is_digit(at(j))) ++j;
      if (j > begin && at(j) == '}') {
        if (at(i) == '.') digits += '.';
        digits += '(' + std::string(text_.substr(begin, j - begin)) + ')';
        i = j + 1;
      }
    } else if (at(i) == 'e' || at(i) == 'E') {
      size_t j = i + 1;
      if (at(j) == '-' || at(j) == '+') ++j;
      size_t begin = j;
      while (is_digit(at(j))) ++j;
      if (j > begin && !is_letter(at(j))) {
        digits += 'e' + std::string(text_.substr(i + 1, j - i - 1));
        i = j;
      }
    }
    push(Kind::kNumber, std::move(digits));
    i_ = i;
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
      default: {
        std::string text(run);
        std::transform(text.begin(), text.end(), text.begin(), lower);
        return push(Kind::kText, std::move(text));
      }
    }
  }

  /// A run of letters outside \text: a known word, a function glued to its argument, an unknown word of four
  /// letters or more, else one variable per letter.
  void letters() {
    size_t end = i_;
    while (is_letter(at(end))) ++end;
    std::string_view run = text_.substr(i_, end - i_);
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
               run.size() == 2 && lower(run[1]) == 'm' && n > 1 && tokens_[n - 2].text == ":") {
      word({}, run);  // 8:34 PM
    } else if (std::string_view head = function_prefix(run); !head.empty()) {
      word(math_word(head), head);
      i_ += head.size();
      return;
    } else if (run.size() >= 4) {
      word({}, run);
    } else {
      for (char c : run) push(Kind::kName, std::string(1, c));
    }
    i_ = end;
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
    if (!is_letter(c)) {
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
      } else if (c != '!' && c != '\\') {
        spaced_ = true;  // \, \; \: \( \) \[ \] \$ and a trailing backslash
      }
      i_ += c == '\\' && !row ? 1 : 2;
      return;
    }
    size_t end = i_ + 1;
    while (is_letter(at(end))) ++end;
    std::string_view name = text_.substr(i_ + 1, end - i_ - 1);
    i_ = end;
    if (name == "begin" || name == "end") {
      std::string environment(trimmed(group()));
      bool begin = name == "begin";
      environments_ = std::max(0, environments_ + (begin ? 1 : -1));
      push(Kind::kOp, begin ? "begin:" + environment : "end");
      if (begin && environment == "array") group();  // its columns
      return;
    }
    if (name == "mathbb") {
      std::string_view set = group();
      return push(Kind::kName, "mathbb" + std::string(set));
    }
    MathWord meaning = math_command(name);
    switch (meaning.kind) {
      case MathWord::Kind::kSkip:
        spaced_ = true;
        if ((name == "hspace" || name == "phantom") && at(i_) == '{') group();
        if ((name == "left" || name == "right") && at(i_) == '.') ++i_;
        return;
      case MathWord::Kind::kDecoration:
        return;
      case MathWord::Kind::kText:
        return words(group());
      case MathWord::Kind::kUnknown:
        return push(Kind::kName, std::string(name));
      default:
        return word(meaning, name);
    }
  }

  /// The content of \text: runs of two letters and more are words, the rest is as elsewhere.
  void words(std::string_view content) {
    if (nesting_ >= 8) throw MathSyntaxError("\\text nested more than 8 deep");
    if (!content.empty() && is_blank(content.front())) spaced_ = true;
    std::string_view outer = std::exchange(text_, content);
    size_t outer_i = std::exchange(i_, 0);
    ++nesting_;
    while (i_ < text_.size()) {
      size_t end = i_;
      while (is_letter(at(end)) || (end > i_ && (at(end) == '-' || at(end) == '\'') && is_letter(at(end + 1)))) ++end;
      std::string_view run = text_.substr(i_, end - i_);
      if (is_letter(at(i_)) && at(i_ + 1) == '.' && is_letter(at(i_ + 2)) && !is_letter(at(i_ + 3))) {
        push(Kind::kText, {lower(at(i_)), lower(at(i_ + 2))});  // a.m., p.m.
        i_ += at(i_ + 3) == '.' ? 4 : 3;
      } else if (run.size() >= 2) {
        MathWord known = math_word(run);
        bool separates =
            known.kind == MathWord::Kind::kOp && (known.text == "and" || known.text == "%" || known.text == "deg");
        bool function = known.kind == MathWord::Kind::kFunction && run != "min" && run != "sec";
        word(separates || function ? known : MathWord{}, run);
        i_ = end;
        if (at(i_) == '.') ++i_;  // "sq. units"
      } else if (run.size() == 1 && run == "m" && follows_number()) {
        word({}, "meter");
        i_ = end;
      } else if (at(i_) == '.' && !is_digit(at(i_ + 1))) {
        ++i_;
      } else {
        step();
      }
    }
    --nesting_;
    text_ = outer, i_ = outer_i;
    spaced_ = true;
  }

  bool follows_number() const {
    return !tokens_.empty() && (tokens_.back().kind == Kind::kNumber || tokens_.back().text == "}");
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
      while (is_blank(at(next)) || at(next) == '$' || at(next) == '.' || at(next) == '}') ++next;
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
  bool spaced_ = false;
  int depth_ = 0, environments_ = 0, nesting_ = 0;
};

}  // namespace

std::vector<MathToken> lex_math(std::string_view text) {
  return Lexer(to_ascii(text)).run();
}

std::string text_key(std::string_view text) {
  static constexpr std::string_view kFonts[] = {"\\text{",   "\\mbox{",   "\\textbf{", "\\textit{",
                                                "\\textrm{", "\\mathrm{", "\\mathbf{"};
  static constexpr std::string_view kNothing[] = {"\\left", "\\right", "\\quad", "\\qquad", "\\displaystyle",
                                                  "\\!",    "\\,",     "\\;",    "\\:",     "\\ ",
                                                  "\\$",    "\\(",     "\\)",    "\\[",     "\\]"};
  std::string key;
  std::vector<bool> dropped;  // for each open brace: it belongs to a font
  bool words = true;
  for (size_t i = 0; i < text.size();) {
    std::string_view rest = text.substr(i);
    auto starts = [&](std::string_view s) {
      return rest.starts_with(s) && !(is_letter(s.back()) && rest.size() > s.size() && is_letter(rest[s.size()]));
    };
    if (auto font = std::find_if(std::begin(kFonts), std::end(kFonts), starts); font != std::end(kFonts)) {
      dropped.push_back(true);
      i += font->size();
    } else if (auto it = std::find_if(std::begin(kNothing), std::end(kNothing), starts); it != std::end(kNothing)) {
      i += it->size();
    } else if (starts("\\dfrac") || starts("\\tfrac")) {
      key += "\\frac";
      i += 6;
    } else {
      char c = text[i++];
      if (is_blank(c) || c == '$') continue;
      if (c == '{') dropped.push_back(false);
      if (c == '}' && !dropped.empty()) {
        bool drop = dropped.back();
        dropped.pop_back();
        if (drop) continue;
      }
      words = words && (is_letter(c) || c == ',' || c == '-' || c == '(' || c == ')' || c == '.' || c == '\'');
      key += c;
    }
  }
  while (!key.empty() && key.back() == '.') key.pop_back();
  if (words && key.size() > 1) std::transform(key.begin(), key.end(), key.begin(), lower);
  return key;
}

}  // namespace mantissa
