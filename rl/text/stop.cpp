#include "rl/text/stop.h"

#include <algorithm>

#include "core/error.h"

namespace mantissa {

std::vector<int32_t> stop_ids(const ModelConfig& config, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  const auto add = [&](int32_t id) {
    if (id >= 0 && id < config.vocab_size && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  for (const int32_t id : config.eos_ids) add(id);
  for (const char* token :
       {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "</s>"})
    add(tokenizer.id_of(token));
  return ids;
}

namespace {

/// Where the first stop string that a text completes begins and ends; npos: there is none.
struct Found {
  size_t begin = std::string::npos, end = std::string::npos;
};

Found find_first(const std::string& text, const std::vector<std::string>& strings) {
  Found first;
  for (const std::string& s : strings) {
    const size_t at = text.find(s);
    if (at != std::string::npos && at + s.size() < first.end) first = {at, at + s.size()};
  }
  return first;
}

}  // namespace

StopRule::StopRule(std::vector<int32_t> ids, const Tokenizer& tokenizer, std::vector<std::string> strings, bool keep)
    : ids_(std::move(ids)), tokenizer_(&tokenizer), strings_(std::move(strings)), keep_(keep) {
  for (const std::string& s : strings_) {
    check(!s.empty(), "rollout.stop: a stop string must not be empty, got \"\"");
    longest_ = std::max(longest_, s.size());
  }
}

/// Most tokens cannot: their text lacks the last byte of every string. A blank, and a byte of a longer character, may
/// come in a token that does not show it when decoded alone, so such an ending rules out nothing.
bool StopRule::may_complete(int32_t id) const {
  if (size_t(id) >= may_complete_.size()) may_complete_.resize(size_t(id) + 1, -1);
  int8_t& known = may_complete_[size_t(id)];
  if (known < 0) {
    const std::string text = tokenizer_->decode({id});
    known = std::any_of(strings_.begin(), strings_.end(), [&](const std::string& s) {
      return uint8_t(s.back()) >= 0x80 || s.back() == ' ' || text.find(s.back()) != std::string::npos;
    });
  }
  return known != 0;
}

Finish StopRule::finish(const std::vector<int32_t>& response) const {
  const int32_t last = response.back();
  if (std::find(ids_.begin(), ids_.end(), last) != ids_.end()) return Finish::kStop;
  if (strings_.empty() || !may_complete(last)) return Finish::kLength;
  // Enough tokens for a string that ends in the last one. What stands at the beginning of a decoded text may differ
  // from what the same tokens give further inside (a blank, the rest of a character): a few bytes are to spare.
  constexpr size_t kSpare = 8;
  const size_t enough = tokenizer_->decode({last}).size() + longest_ + kSpare;
  std::string text;
  for (size_t count = 8;; count *= 2) {
    const bool whole = count >= response.size();
    text = tokenizer_->decode({whole ? response.begin() : response.end() - ptrdiff_t(count), response.end()});
    if (whole || text.size() >= enough) break;
  }
  return find_first(text, strings_).end == std::string::npos ? Finish::kLength : Finish::kStopString;
}

std::string StopRule::text(const Completion& response) const {
  std::string text = tokenizer_->decode(response.ids, true);
  if (response.finish == Finish::kStopString) {
    const Found found = find_first(text, strings_);
    text.resize(std::min(text.size(), keep_ ? found.end : found.begin));
  }
  return text;
}

}  // namespace mantissa
