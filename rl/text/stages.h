// The stages of a tokenizer around its BPE, as plain data (tokenizer_json.cpp fills them) with one function each:
//
//   text -> split at added tokens -> normalize -> pre_tokenize -> BPE -> ids
//   ids -> tokens -> decode_tokens -> text
//
// "Sequence" stages of the file are flattened into the vectors here. They follow the `tokenizers` library.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "nn/formats/tokenizer_config.h"
#include "rl/text/regex.h"

namespace mantissa {

/// A literal or a regular expression.
struct Pattern {
  std::string literal;
  std::shared_ptr<const Regex> regex;  // null: literal
  std::vector<Span> find_all(std::string_view text) const;
  std::string replace_all(std::string_view text, std::string_view by) const;
};

struct Normalizer {
  enum class Kind { kNfc, kPrepend, kReplace } kind;
  Pattern pattern;      // kReplace
  std::string content;  // kPrepend, kReplace
};

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct PreTokenizer {
  enum class Kind { kSplit, kByteLevel, kMetaspace } kind;
  Pattern pattern;  // kSplit; kByteLevel with use_regex: GPT-2's
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // kSplit: what does not match separates
  bool split = true;    // kByteLevel: use_regex; kMetaspace: split before each mark
  enum class Prepend { kNever, kFirst, kAlways } prepend = Prepend::kNever;  // a space or mark before the text
  std::string mark;                                                          // kMetaspace: stands for a space
};

struct DecodeStep {
  enum class Kind { kByteLevel, kReplace, kByteFallback, kFuse, kStrip, kMetaspace } kind;
  Pattern pattern;             // kReplace
  std::string content;         // kReplace: by what; kStrip: the character; kMetaspace: the mark
  size_t start = 0, stop = 0;  // kStrip: at most so many at each end
  bool drop_first = true;      // kMetaspace: marks of the first token vanish
};

/// Finds added tokens in text: leftmost first, then longest.
class AddedTokenMatcher {
 public:
  /// `key`: what the text shows for the token.
  void add(const AddedToken& token, std::string_view key);
  struct Section {
    Span span;
    int32_t id;  // -1: ordinary text
  };
  std::vector<Section> split(std::string_view text) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t& length) const;
  std::unordered_map<uint64_t, uint32_t> edges_;  // (node, byte) -> node
  std::vector<int32_t> ends_{-1};                 // node -> index in tokens_
  std::vector<AddedToken> tokens_;
};

/// Text between the stages. The library remembers for every character where in the input it came from. Two facts of
/// that matter here, both as a number of bytes at the start of the piece. `lead`: those from the first character of the
/// whole text (a Metaspace of prepend_scheme first marks the pieces that begin so). `unplaced`: those that come from no
/// character, because the replacement of an empty match stands before the first one.
struct Piece {
  std::string text;
  size_t lead = 0, unplaced = 0;
  Piece part(size_t begin, size_t end) const;
};

/// `begins`: the whole text begins here. Error for an NFC behind `unplaced` text: the library then repeats some of it.
Piece normalize(const std::vector<Normalizer>& steps, std::string text, bool begins);
/// Error for a ByteLevel on `unplaced` text.
std::vector<Piece> pre_tokenize(const std::vector<PreTokenizer>& steps, Piece text);
/// The pieces joined, as valid UTF-8: what was not has become U+FFFD.
std::string decode_tokens(const std::vector<DecodeStep>& steps, std::vector<std::string> tokens);

}  // namespace mantissa
