#include "rl/reward/math/spelling.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include "rl/reward/math/text.h"

namespace mantissa {
namespace {

struct Spelling {
  char32_t character;
  std::string_view meaning;
};

constexpr Spelling kSpellings[] = {{U'π', "\\pi "},
                                   {U'∞', "\\infty "},
                                   {U'≤', "<="},
                                   {U'≥', ">="},
                                   {U'⩽', "<="},
                                   {U'⩾', ">="},
                                   {U'≦', "<="},
                                   {U'≧', ">="},
                                   {U'≠', "!="},
                                   {U'×', "*"},
                                   {U'·', "*"},
                                   {U'⋅', "*"},
                                   {U'∙', "*"},
                                   {U'∗', "*"},
                                   {U'÷', "/"},
                                   {U'∕', "/"},
                                   {U'⁄', "/"},
                                   {U'−', "-"},
                                   {U'–', "-"},
                                   {U'—', "-"},
                                   {U'‐', "-"},
                                   {U'‑', "-"},
                                   {U'‒', "-"},
                                   {U'±', "\\pm "},
                                   {U'∓', "\\mp "},
                                   {U'∪', "\\cup "},
                                   {U'∩', "\\cap "},
                                   {U'∖', "\\setminus "},
                                   {U'∈', "\\in "},
                                   {U'∧', "\\land "},
                                   {U'∨', "\\lor "},
                                   {U'∣', "|"},
                                   {U'‖', "|"},
                                   {U'∶', ":"},
                                   {U'°', "^\\circ "},
                                   {U'º', "^\\circ "},
                                   {U'˚', "^\\circ "},
                                   {U'℃', "^\\circ C "},
                                   {U'℉', "^\\circ F "},
                                   {U'≈', "\\approx "},
                                   {U'≡', "\\equiv "},
                                   {U'∅', "\\emptyset "},
                                   {U'′', "'"},
                                   {U'’', "'"},
                                   {U'‘', "'"},
                                   {U'″', "''"},
                                   {U'“', ""},
                                   {U'”', ""},
                                   {U'。', "."},
                                   {U'、', ","},
                                   {U'…', "\\ldots "},
                                   {U'⋯', "\\cdots "},
                                   {U'€', "\\euro "},
                                   {U'£', "\\pounds "},
                                   {U'¥', "\\yen "},
                                   {U'₹', "\\rupee "},
                                   {U'\u00a0', " "},
                                   {U'\u2002', " "},
                                   {U'\u2003', " "},
                                   {U'\u2004', " "},
                                   {U'\u2005', " "},
                                   {U'\u2006', " "},
                                   {U'\u2007', " "},
                                   {U'\u2008', " "},
                                   {U'\u2009', " "},
                                   {U'\u200a', " "},
                                   {U'\u202f', " "},
                                   {U'\u205f', " "},
                                   {U'\u3000', " "},
                                   {U'\u200b', ""},
                                   {U'\u2060', ""},
                                   {U'\u2061', ""},
                                   {U'\u2062', ""},
                                   {U'\ufeff', ""},
                                   {U'α', "\\alpha "},
                                   {U'β', "\\beta "},
                                   {U'γ', "\\gamma "},
                                   {U'δ', "\\delta "},
                                   {U'ε', "\\epsilon "},
                                   {U'ζ', "\\zeta "},
                                   {U'η', "\\eta "},
                                   {U'θ', "\\theta "},
                                   {U'ι', "\\iota "},
                                   {U'κ', "\\kappa "},
                                   {U'λ', "\\lambda "},
                                   {U'μ', "\\mu "},
                                   {U'µ', "\\mu "},
                                   {U'ν', "\\nu "},
                                   {U'ξ', "\\xi "},
                                   {U'ρ', "\\rho "},
                                   {U'σ', "\\sigma "},
                                   {U'τ', "\\tau "},
                                   {U'υ', "\\upsilon "},
                                   {U'φ', "\\phi "},
                                   {U'ϕ', "\\phi "},
                                   {U'χ', "\\chi "},
                                   {U'ψ', "\\psi "},
                                   {U'ω', "\\omega "},
                                   {U'Γ', "\\Gamma "},
                                   {U'Δ', "\\Delta "},
                                   {U'Θ', "\\Theta "},
                                   {U'Λ', "\\Lambda "},
                                   {U'Ξ', "\\Xi "},
                                   {U'Π', "\\Pi "},
                                   {U'Σ', "\\Sigma "},
                                   {U'Φ', "\\Phi "},
                                   {U'Ψ', "\\Psi "},
                                   {U'Ω', "\\Omega "},
                                   {U'ℝ', "\\mathbb{R}"},
                                   {U'ℚ', "\\mathbb{Q}"},
                                   {U'ℤ', "\\mathbb{Z}"},
                                   {U'ℕ', "\\mathbb{N}"},
                                   {U'ℂ', "\\mathbb{C}"},
                                   {U'⟨', "("},
                                   {U'⟩', ")"},
                                   {U'⌊', "\\lfloor "},
                                   {U'⌋', "\\rfloor "},
                                   {U'⌈', "\\lceil "},
                                   {U'⌉', "\\rceil "},
                                   {U'∠', "\\angle "},
                                   {U'△', "\\triangle "},
                                   {U'½', "\\frac{1}{2}"},
                                   {U'⅓', "\\frac{1}{3}"},
                                   {U'⅔', "\\frac{2}{3}"},
                                   {U'¼', "\\frac{1}{4}"},
                                   {U'¾', "\\frac{3}{4}"},
                                   {U'⅕', "\\frac{1}{5}"},
                                   {U'⅖', "\\frac{2}{5}"},
                                   {U'⅗', "\\frac{3}{5}"},
                                   {U'⅘', "\\frac{4}{5}"},
                                   {U'⅙', "\\frac{1}{6}"},
                                   {U'⅚', "\\frac{5}{6}"},
                                   {U'⅐', "\\frac{1}{7}"},
                                   {U'⅛', "\\frac{1}{8}"},
                                   {U'⅜', "\\frac{3}{8}"},
                                   {U'⅝', "\\frac{5}{8}"},
                                   {U'⅞', "\\frac{7}{8}"},
                                   {U'⅑', "\\frac{1}{9}"},
                                   {U'⅒', "\\frac{1}{10}"},
                                   {U'↉', "\\frac{0}{3}"}};

// Raised and lowered characters, which stand together for one exponent or index.
constexpr std::u32string_view kRaised = U"⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻ";
constexpr std::string_view kRaisedMeaning = "0123456789+-()niabcdefghjklmoprstuvwxyz";
constexpr std::u32string_view kLowered = U"₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼᵣᵤᵥ";
constexpr std::string_view kLoweredMeaning = "0123456789+-()aeoxhklmnpstijruv";

/// The character at i, which moves behind it; U+FFFD and one byte for what is no UTF-8.
char32_t next_character(std::string_view text, size_t& i) {
  const auto byte = [&](size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
  const unsigned first = byte(i);
  const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
  char32_t c = length == 1 ? first : first & (0x7fu >> length);
  for (size_t k = 1; k < length; ++k) {
    if (byte(i + k) >> 6 != 2) return ++i, U'\ufffd';
    c = c << 6 | (byte(i + k) & 0x3f);
  }
  i += std::max<size_t>(length, 1);
  return length == 0 ? U'\ufffd' : c;
}

class AsciiWriter {
 public:
  explicit AsciiWriter(std::string_view text) : text_(text) {}

  std::string write() {
    while (i_ < text_.size()) {
      if (static_cast<unsigned char>(text_[i_]) < 0x80) {
        out_ += text_[i_++];
      } else {
        character();
      }
    }
    return std::move(out_);
  }

 private:
  void character() {
    const std::string raised = run(kRaised, kRaisedMeaning);
    if (!raised.empty()) {
      const size_t end = i_;
      if (take(U'√')) {  // "³√8"; "2³√8" has two readings
        if (!out_.empty() && (is_digit(out_.back()) || is_letter(out_.back()) || out_.back() == '}')) out_ += '?';
        return root("[" + raised + "]");
      }
      if (take(U'⁄') || take(U'∕') || take(U'/')) {
        if (const std::string lowered = run(kLowered, kLoweredMeaning); !lowered.empty()) {
          out_ += "\\frac{" + raised + "}{" + lowered + "}";
          return;
        }
      }
      i_ = end;
      out_ += "^{" + raised + "}";
    } else if (const std::string lowered = run(kLowered, kLoweredMeaning); !lowered.empty()) {
      out_ += "_{" + lowered + "}";
    } else {
      const size_t begin = i_;
      const char32_t c = next_character(text_, i_);
      one(c, text_.substr(begin, i_ - begin));
    }
  }

  /// The meanings of the characters of `set` that stand at i_ without a gap.
  std::string run(std::u32string_view set, std::string_view meaning) {
    std::string found;
    for (size_t next = i_; next < text_.size(); i_ = next) {
      const size_t at = set.find(next_character(text_, next));
      if (at == set.npos) break;
      found += meaning[at];
    }
    return found;
  }

  bool take(char32_t wanted) {
    size_t next = i_;
    if (i_ == text_.size() || next_character(text_, next) != wanted) return false;
    i_ = next;
    return true;
  }

  void one(char32_t c, std::string_view bytes) {
    if (c == U'√' || c == U'∛' || c == U'∜') {
      root(c == U'√' ? "" : c == U'∛' ? "[3]" : "[4]");
    } else if (c == U'⅟') {
      const std::string lowered = run(kLowered, kLoweredMeaning);
      out_ += "\\frac{1}{" + (lowered.empty() ? take_number() : lowered) + '}';
    } else if (c == U'\u0305' || c == U'\u0304') {
      over("\\overline{", bytes);
    } else if (c == U'\u0307') {
      over("\\dot{", bytes);
    } else if (c >= U'！' && c <= U'～') {
      out_ += char(c - U'！' + '!');  // full width
    } else if (c >= U'\U0001d7ce' && c <= U'\U0001d7ff') {
      out_ += char('0' + (c - U'\U0001d7ce') % 10);  // digits in other fonts
    } else if (auto it = std::find_if(std::begin(kSpellings), std::end(kSpellings),
                                      [&](const Spelling& s) { return s.character == c; });
               it != std::end(kSpellings)) {
      out_ += it->meaning;
    } else {
      out_ += bytes;
    }
  }

  /// Over all digits that follow: "√23" has no second reading.
  void root(const std::string& index) {
    while (i_ < text_.size() && text_[i_] == ' ') ++i_;
    const std::string number = take_number();
    out_ += "\\sqrt" + index + (number.empty() ? " " : "{" + number + "}");
  }

  std::string take_number() {
    size_t end = i_;
    while (end < text_.size() && is_digit(text_[end])) ++end;
    if (end + 1 < text_.size() && end > i_ && text_[end] == '.' && is_digit(text_[end + 1])) do
        ++end;
      while (end < text_.size() && is_digit(text_[end]));
    const size_t begin = std::exchange(i_, end);
    return std::string(text_.substr(begin, end - begin));
  }

  /// A combining mark over the digit before it.
  void over(std::string_view command, std::string_view bytes) {
    if (out_.empty() || !is_digit(out_.back())) {
      out_ += bytes;
      return;
    }
    const char digit = out_.back();
    out_.pop_back();
    ((out_ += command) += digit) += '}';
  }

  std::string_view text_;
  size_t i_ = 0;
  std::string out_;
};

/// Whether a blank between `before` and `rest` keeps two numbers apart: "1 2", "1 1/2", "1 e5", "1, 000".
bool separates(char before, std::string_view rest) {
  const auto numeric = [](char c) { return is_digit(c) || c == '.'; };
  if (before == ',') return rest.size() >= 3 && std::all_of(rest.begin(), rest.begin() + 3, is_digit);
  return numeric(before) && (numeric(rest[0]) || rest[0] == 'e' || rest[0] == 'E');
}

/// A word, whose case says nothing: "East", "NaCl", "No"; "AB", "aBc" and "sinX" are variables.
bool is_word(std::string_view run) {
  size_t capitals = 0;
  for (char c : run) capitals += c >= 'A' && c <= 'Z';
  const bool capitalised = capitals == 1 && run[0] >= 'A' && run[0] <= 'Z';
  if (capitals == 0 || capitalised || capitals == run.size()) return run.size() >= 3 || lowered(run) == "no";
  for (std::string_view function : {"sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log"})
    if (run.starts_with(function) && run.size() - function.size() <= 2) return false;
  return run.size() >= 4;
}

class KeyWriter {
 public:
  /// `fold_all`: also the case of short words in \text, marked so that they equal each other alone.
  explicit KeyWriter(std::string_view text, bool fold_all) : text_(text), fold_all_(fold_all) {}

  std::string write() {
    while (i_ < text_.size()) step();
    if (!key_.empty() && key_.back() == '.') key_.pop_back();
    return std::move(key_);
  }
  /// Whether `fold_all` makes a difference.
  bool has_short_words() const { return short_words_; }

 private:
  static constexpr std::string_view kText[] = {"\\text{", "\\mbox{", "\\textbf{", "\\textit{", "\\textrm{"};
  static constexpr std::string_view kFonts[] = {"\\mathrm{", "\\mathbf{"};
  static constexpr std::string_view kNothing[] = {"\\left", "\\right", "\\quad", "\\qquad", "\\displaystyle",
                                                  "\\!",    "\\,",     "\\;",    "\\:",     "\\ ",
                                                  "\\$",    "\\(",     "\\)",    "\\[",     "\\]"};
  enum class Brace { kOwn, kFont, kLetters, kWords };  // kLetters, kWords: of \text, without and with words inside

  bool starts(std::string_view word) const {
    const std::string_view rest = text_.substr(i_);
    return rest.starts_with(word) &&
           !(is_letter(word.back()) && rest.size() > word.size() && is_letter(rest[word.size()]));
  }
  /// Length of the first of `words` that stands at i_.
  size_t length_of(std::span<const std::string_view> words) const {
    for (std::string_view word : words)
      if (starts(word)) return word.size();
    return 0;
  }

  /// The character at i_, or what is written for it.
  void add(char c) {
    if (blank_ && !key_.empty() && separates(key_.back(), text_.substr(i_))) key_ += ' ';
    blank_ = false;
    key_ += c;
  }

  /// Whether two letters stand side by side between i_ and the next '}'. Nested ones do not read the text again.
  bool word_before_brace() {
    if (brace_ < i_) brace_ = std::min(text_.find('}', i_), text_.size());
    word_ = std::max(word_, i_);
    while (word_ + 1 < brace_ && !(is_letter(text_[word_]) && is_letter(text_[word_ + 1]))) ++word_;
    return word_ + 1 < brace_;
  }

  void step() {
    const char c = text_[i_];
    if (c == '\\') {
      command();
    } else if (is_letter(c)) {
      letters();
    } else if (is_blank(c) || c == '$' || c == '~') {
      blank_ = true;
      ++i_;
    } else {
      if (c == '{') braces_.push_back(Brace::kOwn);
      if (c == '}' && !braces_.empty()) {
        const Brace brace = braces_.back();
        braces_.pop_back();
        inside_words_ -= brace == Brace::kWords;
        if (brace != Brace::kOwn) {
          blank_ = true;
          ++i_;
          return;
        }
      }
      add(c);
      ++i_;
    }
  }

  void command() {
    if (const size_t length = length_of(kText)) {
      i_ += length;
      braces_.push_back(word_before_brace() ? Brace::kWords : Brace::kLetters);
      inside_words_ += braces_.back() == Brace::kWords;
      blank_ = true;
    } else if (const size_t font = length_of(kFonts)) {
      i_ += font;
      braces_.push_back(Brace::kFont);
      blank_ = true;
    } else if (const size_t nothing = length_of(kNothing)) {
      i_ += nothing;
      blank_ = true;
    } else if (starts("\\dfrac") || starts("\\tfrac")) {
      add('\\');
      key_ += "frac";
      i_ += 6;
    } else {
      add('\\');
      if (++i_ < text_.size() && !is_letter(text_[i_]) && !is_blank(text_[i_])) key_ += text_[i_++];
      while (i_ < text_.size() && is_letter(text_[i_])) key_ += text_[i_++];
    }
  }

  void letters() {
    size_t end = i_;
    while (end < text_.size() && is_letter(text_[end])) ++end;
    const std::string_view run = text_.substr(i_, end - i_);
    bool fold = is_word(run);
    if (!fold && inside_words_ > 0) {
      short_words_ = true;
      if (fold_all_) add('\x01'), fold = true;
    }
    add(fold ? lowered(text_[i_]) : text_[i_]);
    while (++i_ < end) key_ += fold ? lowered(text_[i_]) : text_[i_];
  }

  std::string_view text_;
  size_t i_ = 0;
  std::string key_;
  bool fold_all_, blank_ = false, short_words_ = false;
  std::vector<Brace> braces_;
  size_t inside_words_ = 0, brace_ = 0, word_ = 0;  // kWords of braces_; places of word_before_brace
};

}  // namespace

std::string to_ascii(std::string_view text) {
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  return ascii ? std::string(text) : AsciiWriter(text).write();
}

std::string text_key(std::string_view text) {
  return KeyWriter(text, false).write();
}

bool same_text(std::string_view a, std::string_view b) {
  KeyWriter key_a(a, false), key_b(b, false);
  const std::string text_a = key_a.write(), text_b = key_b.write();
  if (text_a == text_b) return !text_a.empty();
  return key_a.has_short_words() && key_b.has_short_words() && KeyWriter(a, true).write() == KeyWriter(b, true).write();
}

}  // namespace mantissa
