#include "rl/rollout/drafts.h"

#include <algorithm>

#include "core/hash.h"

namespace mantissa {
namespace {

constexpr size_t kLongest = 3, kShortest = 2;  // tokens that are looked up: the longer match first
constexpr size_t kTexts = 16;                  // of a prompt
constexpr int64_t kTokens = int64_t(1) << 25;  // of all texts

uint64_t hash_of(std::span<const int32_t> tokens) {
  return hash64(std::as_bytes(tokens));
}

/// The last `count` tokens of prompt and response, fewer where there are no more.
std::vector<int32_t> last_tokens(const Prompt& prompt, std::span<const int32_t> response, size_t count) {
  const size_t own = std::min(count, response.size()), before = std::min(count - own, prompt.ids.size());
  std::vector<int32_t> last(prompt.ids.end() - std::ptrdiff_t(before), prompt.ids.end());
  last.insert(last.end(), response.end() - std::ptrdiff_t(own), response.end());
  return last;
}

}  // namespace

Drafts::Past& Drafts::past_of(const Prompt& prompt) {
  Past& past = prompts_[hash_of(prompt.ids)];
  past.used = rollouts_;
  return past;
}

void Drafts::begin() {
  ++rollouts_;
  const auto forget = [&](Past& past, size_t keep) {
    while (past.texts.size() > keep) {
      tokens_ -= int64_t(past.texts.front().size());
      past.texts.pop_front();
    }
    past.indexed = 0;
    past.followers = {};
  };
  for (auto& [key, past] : prompts_) forget(past, kTexts);
  while (tokens_ > kTokens) {
    const auto oldest = std::min_element(prompts_.begin(), prompts_.end(),
                                         [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
    forget(oldest->second, 0);
    prompts_.erase(oldest);
  }
}

void Drafts::add(const Prompt& prompt, std::span<const int32_t> response) {
  std::vector<int32_t> text = last_tokens(prompt, {}, kLongest);
  text.insert(text.end(), response.begin(), response.end());
  tokens_ += int64_t(text.size());
  past_of(prompt).texts.push_back(std::move(text));
}

std::vector<int32_t> Drafts::propose(const Prompt& prompt, std::span<const int32_t> response, int64_t most) {
  Past& past = past_of(prompt);
  for (; past.indexed < past.texts.size(); ++past.indexed) {
    const std::vector<int32_t>& text = past.texts[past.indexed];
    for (size_t length = kShortest; length <= kLongest; ++length)
      for (size_t next = length; next < text.size(); ++next)
        past.followers[hash_of(std::span(text).subspan(next - length, length))] = {uint32_t(past.indexed),
                                                                                   uint32_t(next)};
  }
  const std::vector<int32_t> last = last_tokens(prompt, response, kLongest);
  for (size_t length = std::min(kLongest, last.size()); length >= kShortest; --length) {
    const auto found = past.followers.find(hash_of(std::span(last).last(length)));
    if (found == past.followers.end()) continue;
    const std::vector<int32_t>& text = past.texts[found->second.text];
    const auto begin = text.begin() + std::ptrdiff_t(found->second.next);
    return {begin, begin + std::min<std::ptrdiff_t>(most, text.end() - begin)};
  }
  return {};
}

}  // namespace mantissa
