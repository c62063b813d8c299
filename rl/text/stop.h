// What ends a response: tokens, and strings of its text.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "nn/config.h"
#include "rl/text/tokenizer.h"
#include "rl/types.h"

namespace mantissa {

/// The model's own end-of-sequence ids first, in their order, then the tokens that end a turn or a text in any known
/// chat format and exist in this vocabulary: a base model with a chat template, or a config.json without eos_token_id,
/// stops too. Empty only when neither side knows one.
std::vector<int32_t> stop_ids(const ModelConfig& config, const Tokenizer& tokenizer);

/// Where a response ends, apart from its limit. A stop string is looked for in the decoded text, wherever tokens begin
/// and end; the token that completes it is the response's last. Ids are never cut: characters behind a stop string in
/// that token are its ids' all the same, and only leave the text.
class StopRule {
 public:
  StopRule() = default;
  explicit StopRule(std::vector<int32_t> ids) : ids_(std::move(ids)) {}
  /// `tokenizer` must outlive the rule. `keep`: the text keeps the stop string that ended it. An empty string throws.
  StopRule(std::vector<int32_t> ids, const Tokenizer& tokenizer, std::vector<std::string> strings, bool keep);

  const std::vector<int32_t>& ids() const { return ids_; }
  /// How the last of these tokens ends the response; kLength: not at all. For one thread at a time.
  Finish finish(const std::vector<int32_t>& response) const;
  /// The text of a response: decoded, special tokens (the stop token is one) left out, and nothing behind the stop
  /// string that ended it. Only where the rule has a tokenizer.
  std::string text(const Completion& response) const;
  bool has_text() const { return tokenizer_ != nullptr; }

 private:
  bool may_complete(int32_t id) const;

  std::vector<int32_t> ids_;
  const Tokenizer* tokenizer_ = nullptr;
  std::vector<std::string> strings_;
  size_t longest_ = 0;  // bytes of the longest string
  bool keep_ = true;
  mutable std::vector<int8_t> may_complete_;  // by id: unknown -1, else whether its text holds a string's last byte
};

}  // namespace mantissa
