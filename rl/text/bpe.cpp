// Merging by a heap of candidate pairs over a doubly linked list of symbols.
#include "rl/text/bpe.h"

#include <cstdio>
#include <queue>

#include "core/error.h"
#include "rl/text/unicode.h"

namespace mantissa {

namespace {

constexpr size_t kCachedWords = 1 << 16;
constexpr size_t kCachedLength = 128;  // longer words hardly repeat

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
}

}  // namespace

int32_t Bpe::id_of(std::string_view token) const {
  const auto it = vocab.find(token);
  return it == vocab.end() ? -1 : it->second;
}

bool Bpe::add_merge(std::string_view left, std::string_view right) {
  std::string joined(left);
  joined += right;
  const int32_t a = id_of(left), b = id_of(right), both = id_of(joined);
  if (a < 0 || b < 0 || both < 0) return false;
  merges_[pair_key(a, b)] = {rank_++, both};
  return true;
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

std::vector<int32_t> Bpe::initial_ids(std::string_view word) const {
  std::vector<int32_t> ids;
  ids.reserve(word.size());
  bool pending_unk = false;
  const auto flush = [&] {
    if (pending_unk) ids.push_back(unk);
    pending_unk = false;
  };
  for (size_t at = 0; at < word.size();) {
    const std::string_view c = word.substr(at, utf8_length(static_cast<unsigned char>(word[at])));
    at += c.size();
    if (const int32_t id = id_of(c); id >= 0) {
      flush();
      ids.push_back(id);
      continue;
    }
    if (byte_fallback) {
      int32_t bytes[4];
      bool all = true;
      for (size_t i = 0; i < c.size(); ++i) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", unsigned(static_cast<unsigned char>(c[i])));
        bytes[i] = id_of(name);
        all = all && bytes[i] >= 0;
      }
      if (all) {
        ids.insert(ids.end(), bytes, bytes + c.size());
        continue;
      }
    }
    check(unk >= 0 || unk_token.empty(), "[tokenize] the text holds \"", c,
          "\", which is not in the vocabulary, and model.unk_token \"", unk_token, "\" is not in model.vocab");
    if (unk < 0) continue;
    if (!fuse_unk) flush();
    pending_unk = true;
  }
  flush();
  return ids;
}

void Bpe::merge(std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    int32_t previous, next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t at;  // left symbol
    int32_t id;  // result
    bool operator<(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  const int32_t n = int32_t(ids.size());
  std::vector<Symbol> symbols(ids.size());
  std::vector<Candidate> first;
  for (int32_t i = 0; i < n; ++i) {
    symbols[size_t(i)] = {ids[size_t(i)], i - 1, i + 1 < n ? i + 1 : -1};
    if (i + 1 < n)
      if (const Merge* m = find_merge(ids[size_t(i)], ids[size_t(i) + 1])) first.push_back({m->rank, i, m->id});
  }
  std::priority_queue<Candidate> queue({}, std::move(first));
  const auto offer = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    if (const Merge* m = find_merge(symbols[size_t(left)].id, symbols[size_t(right)].id))
      queue.push({m->rank, left, m->id});
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[size_t(top.at)];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[size_t(left.next)];
    const Merge* m = find_merge(left.id, right.id);
    if (m == nullptr || m->id != top.id) continue;  // an earlier merge changed this pair
    left.id = top.id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[size_t(left.next)].previous = top.at;
    offer(left.previous, top.at);
    offer(top.at, left.next);
  }
  ids.clear();
  for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols[size_t(i)].next) ids.push_back(symbols[size_t(i)].id);
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges) {
    if (const int32_t id = id_of(word); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  {
    const std::shared_lock lock(cache_.mutex);
    if (const auto it = cache_.words.find(word); it != cache_.words.end()) {
      ids.insert(ids.end(), it->second.begin(), it->second.end());
      return;
    }
  }
  std::vector<int32_t> out = initial_ids(word);
  merge(out);
  ids.insert(ids.end(), out.begin(), out.end());
  if (word.size() > kCachedLength) return;
  const std::unique_lock lock(cache_.mutex);
  if (cache_.words.size() < kCachedWords) cache_.words.emplace(word, std::move(out));
}

}  // namespace mantissa
