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

struct Drafts::Past {
  std::deque<std::vector<int32_t>> texts;  // the prompt's last tokens and a response, the oldest first
  size_t indexed = 0;                      // texts that are in what follows
  std::vector<int32_t> tokens;             // of texts, one after the other, each with a kEnd behind it
  std::vector<int32_t> earlier;            // of each token: the last one before it with the same hash; none: -1
  std::vector<int32_t> latest;             // by the hash of a token and the one before it
  int64_t used = 0;                        // the rollout that last asked

  void index();
};

Drafts::Drafts(bool rehearsed) : rehearsed_(rehearsed) {}
Drafts::~Drafts() = default;

StepCost::Vector StepCost::features(int64_t rows, int64_t keys) {
  return {1, double(rows) / kRowUnit, double(keys) / kKeyUnit};
}

void StepCost::add(int64_t rows, int64_t keys, double seconds) {
  constexpr double kKept = 0.97;  // of the weight of what was seen before
  constexpr double kInertia = 0.1;
  constexpr double kLongest = 2;  // times what was expected: more is the host's doing, or comes again and counts then
  const Vector x = features(rows, keys);
  if (!std::exchange(timed_, true)) {
    const double unit = seconds / of(rows, keys);
    for (double& c : coefficients_) c *= unit;
  }
  seconds = std::min(seconds, kLongest * of(rows, keys));
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) products_[i][j] = kKept * products_[i][j] + x[i] * x[j];
    seconds_[i] = kKept * seconds_[i] + x[i] * seconds;
  }
  // The normal equations, with kInertia on the diagonal for what coefficients were: positive definite.
  std::array<Vector, 3> a = products_;
  Vector& solved = coefficients_;
  for (size_t i = 0; i < x.size(); ++i) {
    a[i][i] += kInertia;
    solved[i] = seconds_[i] + kInertia * solved[i];
  }
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t k = i + 1; k < x.size(); ++k) {
      const double factor = a[k][i] / a[i][i];
      for (size_t j = i; j < x.size(); ++j) a[k][j] -= factor * a[i][j];
      solved[k] -= factor * solved[i];
    }
  for (size_t i = x.size(); i-- > 0;) {
    for (size_t j = i + 1; j < x.size(); ++j) solved[i] -= a[i][j] * solved[j];
    solved[i] /= a[i][i];
  }
}

double StepCost::of(int64_t rows, int64_t keys) const {
  const Vector x = features(rows, keys);
  double seconds = 0;
  for (size_t i = 0; i < x.size(); ++i) seconds += std::max(0.0, coefficients_[i]) * x[i];
  return seconds;
}

Drafts::Past& Drafts::of(const Prompt& prompt) {
  Past& past = prompts_[hash_of(prompt.ids)];
  past.used = rollouts_;
  return past;
}

void Drafts::begin() {
  ++rollouts_;
  choices_ = 0;
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
  of(prompt).texts.push_back(std::move(text));
}

/// Takes in the texts that are new. There are about as many hashes as tokens, so that few places share one by chance.
void Drafts::Past::index() {
  if (indexed == texts.size()) return;
  size_t total = tokens.size();
  for (size_t i = indexed; i < texts.size(); ++i) total += texts[i].size() + 1;
  if (total > latest.size()) {
    latest.assign(std::bit_ceil(std::max<size_t>(256, total)), -1);
    tokens.clear();
    earlier.clear();
    indexed = 0;
  }
  for (; indexed < texts.size(); ++indexed) {
    int32_t before = kEnd;
    for (const int32_t token : texts[indexed]) {
      earlier.push_back(std::exchange(latest[place_of(before, token, latest.size())], int32_t(tokens.size())));
      tokens.push_back(before = token);
    }
    tokens.push_back(kEnd);
    earlier.push_back(-1);
  }
}

std::vector<int32_t> Drafts::propose(Past& past, const Prompt& prompt, std::span<const int32_t> response,
                                     int64_t most) {
  if (rehearsed_) return std::vector<int32_t>(size_t(most), 0);
  if (past.texts.empty()) return {};
  past.index();
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

int64_t Drafts::worth(int64_t running, int64_t keys) const {
  double right = 1, tokens = 1, best = 1 / cost_.of(running, keys);
  int64_t count = 0;
  for (int64_t k = 1; k <= kMost; ++k) {
    right *= guesses_[size_t(k - 1)].right / guesses_[size_t(k - 1)].made;
    tokens += right;
    const double rate = tokens / cost_.of(running * (1 + k), keys);
    if (rate > best) best = rate, count = k;
  }
  return count;
}

int64_t Drafts::choose(int64_t running, int64_t keys) {
  constexpr int64_t kSeldom = 64;
  const int64_t choice = choices_++;
  if (choice == 0) return 0;
  if (rehearsed_) return kMost;
  const int64_t pays = worth(running, keys);
  if (!cost_.timed() || choice % kSeldom != 0) return pays;
  return pays > 0 ? 0 : 1;
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
