// Normalizers, pre-tokenizers, decoders and the search for added tokens.
#include "rl/text/stages.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "rl/text/unicode.h"

namespace mantissa {

namespace {

/// GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 onwards.
struct ByteAlphabet {
  std::array<std::string, 256> text;
  std::array<int, 0x144> byte;  // code point -> byte, -1: none
  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
      const char32_t c = printable ? char32_t(b) : next++;
      append_utf8(text[size_t(b)], c);
      byte[c] = b;
    }
  }
};
const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

constexpr const char* kUnplaced =
    "[tokenize] a Replace normalizer that inserts before the first character of a text is not supported with ";

struct Part {
  Span span;
  bool match;
};

/// Covers the text with matches and what lies between them.
std::vector<Part> parts_of(const Pattern& pattern, std::string_view text) {
  std::vector<Part> parts;
  size_t at = 0;
  for (const Span s : pattern.find_all(text)) {
    if (s.begin > at) parts.push_back({{at, s.begin}, false});
    parts.push_back({s, true});
    at = s.end;
  }
  if (at < text.size()) parts.push_back({{at, text.size()}, false});
  return parts;
}

std::vector<Span> join_parts(const std::vector<Part>& parts, SplitBehavior behavior, bool invert) {
  std::vector<Span> spans;
  bool previous = false,
       open = false;  // previous part matched; kMergedWithNext: the last span waits for its text
  for (const Part& part : parts) {
    const bool match = part.match != invert;
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (!match) spans.push_back(part.span);
        break;
      case SplitBehavior::kIsolated:
        spans.push_back(part.span);
        break;
      case SplitBehavior::kContiguous:
        if (match == previous && !spans.empty())
          spans.back().end = part.span.end;
        else
          spans.push_back(part.span);
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (match && !previous && !spans.empty())
          spans.back().end = part.span.end;
        else
          spans.push_back(part.span);
        break;
      case SplitBehavior::kMergedWithNext:
        if (!match && open)
          spans.back().end = part.span.end;
        else
          spans.push_back(part.span);
        open = match;
        break;
    }
    previous = match;
  }
  return spans;
}

void split_piece(const PreTokenizer& step, const Piece& piece, std::vector<Piece>& out) {
  for (const Span s : join_parts(parts_of(step.pattern, piece.text), step.behavior, step.invert))
    if (s.end > s.begin) out.push_back(piece.part(s.begin, s.end));  // matches of no width cut, and leave nothing
}

void insert_front(std::string_view text, Piece& piece) {
  piece.text.insert(0, text);
  if (piece.lead > 0) piece.lead += text.size();
  if (piece.unplaced > 0) piece.unplaced += text.size();
}

void prepend(const PreTokenizer& step, std::string_view mark, Piece& piece) {
  const bool wanted = step.prepend == PreTokenizer::Prepend::kAlways ||
                      (step.prepend == PreTokenizer::Prepend::kFirst && piece.lead > 0);
  if (wanted && !piece.text.starts_with(mark)) insert_front(mark, piece);
}

/// A match's replacement comes from where its last character came from.
void replace(const Normalizer& step, bool begins, Piece& piece) {
  Piece out;
  size_t at = 0;
  const auto keep = [&](size_t end) {
    const Piece part = piece.part(at, end);
    out.text += part.text;
    out.lead += part.lead;
    out.unplaced += part.unplaced;
  };
  for (const Span s : step.pattern.find_all(piece.text)) {
    keep(s.begin);
    out.text += step.content;
    if (s.end <= piece.lead && (s.end > 0 || begins)) out.lead += step.content.size();
    if (s.end <= piece.unplaced) out.unplaced += step.content.size();
    at = s.end;
  }
  keep(piece.text.size());
  piece = std::move(out);
}

void compose(Piece& piece) {
  std::string text = nfc(piece.text);
  if (piece.lead > 0) {
    size_t last = 0;
    const std::string_view lead = std::string_view(piece.text).substr(0, piece.lead);
    last_codepoint(lead, last);
    const std::string alone = nfc(lead);
    const size_t before = nfc(lead.substr(0, lead.size() - last)).size();
    // Its last character may have taken in what follows.
    piece.lead = text.starts_with(alone) ? alone.size()
                 : before >= text.size() ? text.size()
                                         : before + utf8_length(static_cast<unsigned char>(text[before]));
  }
  piece.text = std::move(text);
}

std::string to_byte_alphabet(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (const char c : text) out += byte_alphabet().text[static_cast<unsigned char>(c)];
  return out;
}

/// `map` of the text, character by character.
template <class Map>
void map_text(const Map& map, Piece& piece) {
  for (size_t* count : {&piece.lead, &piece.unplaced})
    if (*count > 0) *count = map(std::string_view(piece.text).substr(0, *count)).size();
  piece.text = map(piece.text);
}

/// Bytes of a token in the byte alphabet; a token with any other character stands for itself.
void append_bytes(const std::string& token, std::string& out) {
  const size_t mark = out.size();
  for (size_t at = 0; at < token.size(); at += utf8_length(static_cast<unsigned char>(token[at]))) {
    const char32_t c = first_codepoint(std::string_view(token).substr(at));
    const int byte = c < byte_alphabet().byte.size() ? byte_alphabet().byte[c] : -1;
    if (byte < 0) {
      out.resize(mark);
      out += token;
      return;
    }
    out += char(byte);
  }
}

int hex_digit(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                : -1;
}

/// <0xXX> tokens become bytes; a run of them that is no UTF-8 becomes one U+FFFD a byte.
std::vector<std::string> join_byte_tokens(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (to_valid_utf8(bytes) == bytes)
      out.push_back(bytes);
    else
      out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    bytes.clear();
  };
  for (const std::string& t : tokens) {
    const bool form = t.size() == 6 && t.starts_with("<0x") && t[5] == '>';
    const int high = form ? hex_digit(t[3]) : -1, low = form ? hex_digit(t[4]) : -1;
    if (high >= 0 && low >= 0) {
      bytes += char(high * 16 + low);
    } else {
      flush();
      out.push_back(t);
    }
  }
  flush();
  return out;
}

std::string strip(const DecodeStep& step, std::string_view token) {
  for (size_t i = 0; i < step.start && token.starts_with(step.content); ++i) token.remove_prefix(step.content.size());
  for (size_t i = 0; i < step.stop && token.ends_with(step.content); ++i) token.remove_suffix(step.content.size());
  return std::string(token);
}

std::string join(const std::vector<std::string>& tokens) {
  std::string out;
  for (const std::string& t : tokens) out += t;
  return out;
}

}  // namespace

std::vector<Span> Pattern::find_all(std::string_view text) const {
  if (regex) return regex->find_all(text);
  std::vector<Span> found;
  if (literal.empty()) return found;
  for (size_t at = text.find(literal); at != std::string_view::npos; at = text.find(literal, at + literal.size()))
    found.push_back({at, at + literal.size()});
  return found;
}

std::string Pattern::replace_all(std::string_view text, std::string_view by) const {
  std::string out;
  size_t at = 0;
  for (const Span s : find_all(text)) {
    out.append(text, at, s.begin - at).append(by);
    at = s.end;
  }
  return out.append(text, at);
}

void AddedTokenMatcher::add(const AddedToken& token, std::string_view key) {
  if (key.empty()) return;
  uint32_t node = 0;
  for (const char c : key) {
    const auto [it, fresh] =
        edges_.try_emplace(uint64_t(node) << 8 | static_cast<unsigned char>(c), uint32_t(ends_.size()));
    if (fresh) ends_.push_back(-1);
    node = it->second;
  }
  if (ends_[node] < 0) ends_[node] = int32_t(tokens_.size());
  tokens_.push_back(token);
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t& length) const {
  const AddedToken* found = nullptr;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto it = edges_.find(uint64_t(node) << 8 | static_cast<unsigned char>(text[i]));
    if (it == edges_.end()) break;
    node = it->second;
    if (ends_[node] >= 0) {
      found = &tokens_[size_t(ends_[node])];
      length = i + 1;
    }
  }
  return found;
}

std::vector<AddedTokenMatcher::Section> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Section> sections;
  size_t done = 0;  // everything before it is in a section
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    size_t length = 0;
    const AddedToken* token = longest_at(text.substr(at), length);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + length, last = 0;
    at = end;
    if (token->single_word && ((begin > 0 && is_word(last_codepoint(text.substr(0, begin), last))) ||
                               (end < text.size() && is_word(first_codepoint(text.substr(end))))))
      continue;
    if (token->lstrip) {
      while (begin > done && is_white_space(last_codepoint(text.substr(0, begin), last))) begin -= last;
      begin = std::max(begin, done);  // what the token before has taken on its right
    }
    if (token->rstrip)
      while (end < text.size() && is_white_space(first_codepoint(text.substr(end))))
        end += utf8_length(static_cast<unsigned char>(text[end]));
    if (begin > done) sections.push_back({{done, begin}, -1});
    if (end > begin) sections.push_back({{begin, end}, token->id});
    done = end;
  }
  if (done < text.size()) sections.push_back({{done, text.size()}, -1});
  return sections;
}

Piece Piece::part(size_t begin, size_t end) const {
  const auto rest = [&](size_t count) { return count > begin ? std::min(count, end) - begin : 0; };
  return {text.substr(begin, end - begin), rest(lead), rest(unplaced)};
}

Piece normalize(const std::vector<Normalizer>& steps, std::string text, bool begins) {
  Piece piece{std::move(text)};
  if (begins && !piece.text.empty()) piece.lead = utf8_length(static_cast<unsigned char>(piece.text[0]));
  for (const Normalizer& step : steps) {
    switch (step.kind) {
      case Normalizer::Kind::kNfc:
        check(piece.unplaced == 0, kUnplaced, "an NFC normalizer behind it");
        compose(piece);
        break;
      case Normalizer::Kind::kPrepend:
        if (!piece.text.empty()) insert_front(step.content, piece);
        break;
      case Normalizer::Kind::kReplace:
        replace(step, begins, piece);
        break;
    }
  }
  return piece;
}

std::vector<Piece> pre_tokenize(const std::vector<PreTokenizer>& steps, Piece text) {
  std::vector<Piece> pieces;
  if (!text.text.empty()) pieces.push_back(std::move(text));
  for (const PreTokenizer& step : steps) {
    std::vector<Piece> next;
    for (Piece& piece : pieces) {
      switch (step.kind) {
        case PreTokenizer::Kind::kSplit:
          split_piece(step, piece, next);
          break;
        case PreTokenizer::Kind::kByteLevel: {
          check(piece.unplaced == 0, kUnplaced, "a ByteLevel pre-tokenizer");
          prepend(step, " ", piece);
          const size_t begin = next.size();
          if (step.split)
            split_piece(step, piece, next);
          else
            next.push_back(std::move(piece));
          for (size_t i = begin; i < next.size(); ++i) map_text(to_byte_alphabet, next[i]);
          break;
        }
        case PreTokenizer::Kind::kMetaspace:
          map_text([&](std::string_view text) { return Pattern{" ", nullptr}.replace_all(text, step.mark); }, piece);
          prepend(step, step.mark, piece);
          if (step.split)
            split_piece(step, piece, next);
          else
            next.push_back(std::move(piece));
          break;
      }
    }
    pieces = std::move(next);
  }
  return pieces;
}

std::string decode_tokens(const std::vector<DecodeStep>& steps, std::vector<std::string> tokens) {
  for (const DecodeStep& step : steps) {
    switch (step.kind) {
      case DecodeStep::Kind::kByteLevel: {
        std::string bytes;
        for (const std::string& t : tokens) append_bytes(t, bytes);
        tokens = {to_valid_utf8(bytes)};
        break;
      }
      case DecodeStep::Kind::kReplace:
        for (std::string& t : tokens) t = step.pattern.replace_all(t, step.content);
        break;
      case DecodeStep::Kind::kByteFallback:
        tokens = join_byte_tokens(tokens);
        break;
      case DecodeStep::Kind::kFuse:
        tokens = {join(tokens)};
        break;
      case DecodeStep::Kind::kStrip:
        for (std::string& t : tokens) t = strip(step, t);
        break;
      case DecodeStep::Kind::kMetaspace:
        for (size_t i = 0; i < tokens.size(); ++i)
          tokens[i] = Pattern{step.content, nullptr}.replace_all(tokens[i], i == 0 && step.drop_first ? "" : " ");
        break;
    }
  }
  return join(tokens);
}

}  // namespace mantissa
