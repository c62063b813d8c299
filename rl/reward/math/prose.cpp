#include "rl/reward/math/prose.h"

#include <algorithm>
#include <vector>

#include "rl/reward/math/counts.h"
#include "rl/reward/math/text.h"
#include "rl/reward/math/words.h"

namespace mantissa {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr size_t kMaxPieces = 60;

bool among(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Words that begin a clause of their own behind a value.
bool opens_clause(std::string_view word) {
  return among(
      word, {"which",  "where",   "when",      "whenever", "if",        "because", "since",    "as",          "but",
             "so",     "while",   "that",      "who",      "with",      "given",   "assuming", "provided",    "after",
             "before", "than",    "not",       "is",       "are",       "was",     "were",     "be",          "has",
             "have",   "for",     "from",      "by",       "this",      "these",   "it",       "it's",        "its",
             "there",  "then",    "thus",      "hence",    "we",        "you",     "he",       "she",         "they",
             "i",      "however", "though",    "although", "instead",   "rather",  "namely",   "meaning",     "the",
             "a",      "an",      "therefore", "surely",   "obviously", "clearly", "correct",  "respectively"});
}
/// A condition: what it says to be some value is not the answer.
bool opens_condition(std::string_view word) {
  return among(word,
               {"where", "when", "whenever", "if", "because", "since", "given", "assuming", "provided", "but", "not"});
}
bool is_verb(std::string_view word) {
  return among(word, {"is", "are", "equals", "was"});
}

struct Delimiter {
  std::string_view open, close;
};
constexpr Delimiter kFormulas[] = {{"$$", "$$"}, {"$", "$"}, {"\\(", "\\)"}, {"\\[", "\\]"}};

/// Two words and more between blanks, outside of braces.
bool reads_as_prose(std::string_view text) {
  int words = 0, depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    depth += (text[i] == '{') - (text[i] == '}');
    if (depth > 0 || !is_letter(text[i]) || (i > 0 && !is_blank(text[i - 1]))) continue;
    size_t end = i;
    while (end < text.size() && is_letter(text[end])) ++end;
    const bool blank = end == text.size() || is_blank(text[end]) || text[end] == ',' || text[end] == '.';
    const std::string_view word = text.substr(i, end - i);
    words += word.size() >= 2 && blank && math_word(word).kind == MathWord::Kind::kUnknown;
    i = end - 1;
  }
  return words > 1;
}

/// Behind the formula that begins at i; i itself where none does.
size_t formula_end(std::string_view text, size_t i) {
  for (auto [open, close] : kFormulas) {
    if (!text.substr(i).starts_with(open)) continue;
    size_t end = text.find(close, i + open.size());
    while (end != kNone && text[end - 1] == '\\' && close[0] == '$') end = text.find(close, end + 1);  // \$
    // "$5 and the rest is $3" is money, no formula.
    if (end == kNone || end == i + open.size()) continue;
    if (open != "$" || !reads_as_prose(text.substr(i + 1, end - i - 1))) return end + close.size();
  }
  return i;
}

/// Up to the end of the line or sentence.
std::string_view first_sentence(std::string_view text) {
  size_t end = 0;
  for (int depth = 0; end < text.size(); ++end) {
    if (const size_t behind = formula_end(text, end); behind > end) {
      end = behind - 1;
      continue;
    }
    const char c = text[end];
    if (c == '\n') break;
    depth += (c == '{') - (c == '}');
    const bool stop = depth <= 0 && (c == '.' || c == '!' || c == '?');
    if (!stop || (end + 1 < text.size() && !is_blank(text[end + 1]))) continue;
    if (c == '.' && end >= 3 && text[end - 2] == '.') {  // "8:34 p.m." keeps its dots
      ++end;
      break;
    }
    if (c != '!' || end + 1 == text.size()) break;
  }
  return trimmed(text.substr(0, end));
}

/// A word or formula of a sentence.
struct Piece {
  size_t begin, end;                    // in the sentence
  std::string_view text;                // without brackets before it and punctuation behind
  bool opened = false, closed = false;  // a bracket stands before it, a comma or semicolon behind

  bool is_word() const {
    return text.size() >= 2 && std::all_of(text.begin(), text.end(), [](char c) { return is_letter(c) || c == '\''; });
  }
  /// A number, a formula, a variable: the beginning of a value.
  bool is_value() const {
    if (text.empty()) return false;
    if (text.size() == 1 && is_letter(text[0])) return text[0] != 'a' && text[0] != 'I';
    const MathWord::Kind kind = math_word(text).kind;
    return !is_word() || kind == MathWord::Kind::kName || kind == MathWord::Kind::kFunction ||
           is_number_word(lowered(text));
  }
};

std::vector<Piece> pieces_of(std::string_view sentence) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < sentence.size() && pieces.size() < kMaxPieces;) {
    if (is_blank(sentence[i])) {
      ++i;
      continue;
    }
    Piece piece{i, i, {}};
    for (int depth = 0; i < sentence.size() && (depth > 0 || !is_blank(sentence[i]));) {
      if (const size_t behind = formula_end(sentence, i); behind > i) {
        i = behind;
        continue;
      }
      depth += (sentence[i] == '{') - (sentence[i] == '}');
      ++i;
    }
    piece.end = i;
    piece.text = sentence.substr(piece.begin, i - piece.begin);
    while (piece.text.starts_with('*')) piece.text.remove_prefix(1);
    if (piece.text.size() > 1 && piece.text[0] == '(' && is_letter(piece.text[1])) {
      piece.text.remove_prefix(1);
      piece.opened = true;
    }
    while (!piece.text.empty() && std::string_view(",;:*").find(piece.text.back()) != kNone) {
      piece.closed = piece.closed || piece.text.back() == ',' || piece.text.back() == ';';
      piece.text.remove_suffix(1);
    }
    if (piece.opened && piece.text.ends_with(')') && piece.text.find('(') == kNone) piece.text.remove_suffix(1);
    pieces.push_back(piece);
  }
  return pieces;
}

/// Whether a clause behind a value takes it back or gives another one: "5 if x > 0, otherwise 6", "5 but also 6", "5
/// for x and 6 for y", "5 with remainder 2", "5 by 6".
bool names_another(const std::vector<Piece>& pieces, size_t clause) {
  const std::string opening = lowered(pieces[clause].text);
  if (clause + 1 < pieces.size() && among(opening, {"by", "from", "than"}) && pieces[clause + 1].is_value())
    return true;
  if (!among(opening, {"if", "when", "whenever", "where", "for", "but", "with"})) return false;
  for (size_t k = clause + 1; k < pieces.size(); ++k) {
    const std::string word = lowered(pieces[k].text);
    if (among(word, {"otherwise", "else", "also"}) || (word == opening && word != "but")) return true;
    if (opening == "with" && among(word, {"remainder", "probability"})) return word == "remainder";
  }
  return false;
}

/// How many pieces from `first` are the value.
size_t value_length(const std::vector<Piece>& pieces, size_t first) {
  bool in_words = true;  // nothing but words so far: "red and blue"
  size_t k = first;
  for (; k < pieces.size(); ++k) {
    const Piece& piece = pieces[k];
    const std::string word = lowered(piece.text);
    if (k > first) {
      if (word == "and" || word == "or") {
        const bool more = k + 1 < pieces.size() && (pieces[k + 1].is_value() || in_words);
        const bool part =
            k + 2 < pieces.size() && among(lowered(pieces[k + 1].text), {"a", "one", "two", "three"}) &&
            among(lowered(pieces[k + 2].text).substr(0, 4), {"half", "thir", "quar", "four", "fift", "tent"});
        if (part) return pieces.size() - first;  // "5 and a half"
        if (!more || opens_clause(lowered(pieces[k + 1].text))) break;
        continue;
      }
      const bool before_word = k + 1 < pieces.size() && pieces[k + 1].is_word();  // "I think", but "\\sin a"
      if (opens_clause(word) && (piece.is_word() || before_word)) {
        if (names_another(pieces, k)) return pieces.size() - first;
        break;
      }
      if (pieces[k - 1].closed && piece.is_word() && !piece.is_value() && !in_words) break;
    }
    if (!piece.is_word()) in_words = false;
  }
  return k - first;
}

/// Where the value begins in a sentence that names it first: "the remainder when 17 is divided by 5 is 2". 0: nowhere.
size_t value_behind_name(std::string_view sentence, const std::vector<Piece>& pieces) {
  bool condition = false;
  for (size_t k = 1; k + 1 < pieces.size(); ++k) {
    const std::string before = lowered(pieces[k - 1].text), word = lowered(pieces[k].text);
    if (pieces[k - 1].closed && (opens_condition(word) || among(word, {"it", "this", "that", "so", "i", "we"})))
      return 0;
    condition = condition || opens_condition(before);
    const bool verb = is_verb(word);
    if (verb && condition) {  // of the condition
      condition = false;
    } else if ((verb || sentence[pieces[k].end - 1] == ':') && pieces[k + 1].is_value()) {
      return condition ? 0 : k + 1;
    }
  }
  return 0;
}

/// A formula alone without its delimiters.
std::string_view without_delimiters(std::string_view text) {
  for (auto [open, close] : kFormulas)
    if (text.starts_with(open) && formula_end(text, 0) == text.size() && text.size() > open.size() + close.size())
      return trimmed(text.substr(open.size(), text.size() - open.size() - close.size()));
  return text;
}

}  // namespace

std::string_view stated_value(std::string_view text) {
  text = trimmed(text);
  while (!text.empty() && (text[0] == '*' || text[0] == ':')) text = trimmed(text.substr(1));
  const std::string_view sentence = first_sentence(text);
  const std::vector<Piece> pieces = pieces_of(sentence);
  if (pieces.empty()) return sentence;

  size_t first = 0;
  const std::string_view head = without_delimiters(pieces[0].text);
  const bool named = !head.empty() && is_letter(head[0]) && head.find('=') == kNone;  // "n is 34", "the sum is 3"
  if (named) first = value_behind_name(sentence, pieces);
  const size_t length = value_length(pieces, first);
  if (length == 0) return sentence;
  std::string_view value = sentence.substr(pieces[first].begin, pieces[first + length - 1].end - pieces[first].begin);
  if (pieces.size() == kMaxPieces && first + length == pieces.size()) value = sentence.substr(pieces[first].begin);
  while (!value.empty() && std::string_view(",;:*").find(value.back()) != kNone)
    value = trimmed(value.substr(0, value.size() - 1));
  while (value.size() > 1 && value.starts_with("**")) value.remove_prefix(2);
  return without_delimiters(value);
}

int prose_words(std::string_view line) {
  int words = 0;
  for (size_t i = 0; i < line.size();) {
    size_t end = i;
    while (end < line.size() && is_letter(line[end])) ++end;
    const bool command = i > 0 && line[i - 1] == '\\';
    if (end - i >= 2 && !command && math_word(line.substr(i, end - i)).kind == MathWord::Kind::kUnknown) ++words;
    i = std::max(end, i + 1);
  }
  return words;
}

}  // namespace mantissa
