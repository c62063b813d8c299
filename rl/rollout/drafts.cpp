#include "rl/rollout/drafts.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/hash.h"

namespace mantissa {
namespace {

constexpr size_t kContext = 16;                // tokens before a place that are compared
constexpr int kLooks = 64;                     // places that are looked at, the latest first
constexpr int32_t kEnd = -1;                   // behind a text; no token
constexpr size_t kTexts = 16;                  // of a prompt
constexpr int64_t kTokens = int64_t(1) << 25;  // of all texts

uint64_t hash_of(std::span<const int32_t> tokens) {
  return hash64(std::as_bytes(tokens));
}

/// Of two tokens, below a power of two.
size_t place_of(int32_t before, int32_t last, size_t places) {
  const uint64_t pair = uint64_t(uint32_t(before)) << 32 | uint32_t(last);
  return size_t((pair * 0x9e3779b97f4a7c15u) >> 32) & (places - 1);
}

/// The last `count` tokens of prompt and response, fewer where there are no more.
std::vector<int32_t> last_tokens(const Prompt& prompt, std::span<const int32_t> response, size_t count) {
  const size_t own = std::min(count, response.size()), before = std::min(count - own, prompt.ids.size());
  std::vector<int32_t> last(prompt.ids.end() - std::ptrdiff_t(before), prompt.ids.end());
  last.insert(last.end(), response.end() - std::ptrdiff_t(own), response.end());
  return last;
}

}  // namespace

void StepCost::add(int64_t rows, double seconds) {
  constexpr double kKept = 0.995;  // of the weight of what was seen before
  const double r = double(rows);
  steps_ = kKept * steps_ + 1;
  rows_ = kKept * rows_ + r;
  seconds_ = kKept * seconds_ + seconds;
  rows_rows_ = kKept * rows_rows_ + r * r;
  rows_seconds_ = kKept * rows_seconds_ + r * seconds;
}

double StepCost::shared_rows() const {
  const double spread = steps_ * rows_rows_ - rows_ * rows_;  // steps^2 times the variance of rows
  if (steps_ < 16 || spread < steps_ * rows_) return kLeast;
  const double per_row = (steps_ * rows_seconds_ - rows_ * seconds_) / spread;
  const double shared = (seconds_ - per_row * rows_) / steps_;
  return per_row * kMost <= shared ? kMost : std::max(kLeast, shared / per_row);
}

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
    past.tokens = past.earlier = past.latest = {};
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
  std::vector<int32_t> text = last_tokens(prompt, {}, kContext);
  text.insert(text.end(), response.begin(), response.end());
  tokens_ += int64_t(text.size());
  past_of(prompt).texts.push_back(std::move(text));
}

/// Takes in the texts that are new. There are about as many hashes as tokens, so that few places share one by chance.
void Drafts::index(Past& past) {
  size_t total = past.tokens.size();
  for (size_t i = past.indexed; i < past.texts.size(); ++i) total += past.texts[i].size() + 1;
  if (total > past.latest.size()) {
    past.latest.assign(std::bit_ceil(std::max<size_t>(256, total)), -1);
    past.tokens.clear();
    past.earlier.clear();
    past.indexed = 0;
  }
  for (; past.indexed < past.texts.size(); ++past.indexed) {
    int32_t before = kEnd;
    for (const int32_t token : past.texts[past.indexed]) {
      int32_t& latest = past.latest[place_of(before, token, past.latest.size())];
      past.earlier.push_back(std::exchange(latest, int32_t(past.tokens.size())));
      past.tokens.push_back(before = token);
    }
    past.tokens.push_back(kEnd);
    past.earlier.push_back(-1);
  }
}

std::vector<int32_t> Drafts::propose(const Prompt& prompt, std::span<const int32_t> response, int64_t most) {
  Past& past = past_of(prompt);
  if (past.texts.empty()) return {};
  if (past.indexed < past.texts.size()) index(past);
  const std::vector<int32_t> last = last_tokens(prompt, response, kContext);
  if (last.size() < 2) return {};
  const std::vector<int32_t>& tokens = past.tokens;
  int32_t best = -1;
  size_t longest = 1;
  int32_t at = past.latest[place_of(last[last.size() - 2], last.back(), past.latest.size())];
  for (int look = 0; at >= 0 && look < kLooks && longest < last.size(); ++look, at = past.earlier[size_t(at)]) {
    size_t equal = 0;
    while (equal < last.size() && int32_t(equal) <= at && tokens[size_t(at) - equal] == last[last.size() - 1 - equal])
      ++equal;
    if (equal > longest && tokens[size_t(at) + 1] != kEnd) best = at, longest = equal;
  }
  std::vector<int32_t> draft;
  if (best >= 0)
    for (size_t i = size_t(best) + 1; tokens[i] != kEnd && int64_t(draft.size()) < most; ++i)
      draft.push_back(tokens[i]);
  return draft;
}

int64_t Drafts::worth(int64_t running) const {
  const double gain = cost_.shared_rows() / double(running) + 1;
  double right = 1;
  int64_t count = 0;
  for (; count < kMost; ++count) {
    right *= guesses_[size_t(count)].right / guesses_[size_t(count)].made;
    if (right * gain <= 1) break;
  }
  return count;
}

void Drafts::learn(int64_t guessed, int64_t right) {
  constexpr double kRemembered = 4096;
  for (int64_t i = 0; i < std::min(guessed, right + 1); ++i) {
    Guesses& g = guesses_[size_t(i)];
    if (g.made > kRemembered) g = {g.made / 2, g.right / 2};
    g.made += 1;
    g.right += i < right ? 1 : 0;
  }
}

}  // namespace mantissa
