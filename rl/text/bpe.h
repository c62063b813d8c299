// Byte-pair encoding of one word: the lowest-ranked adjacent pair merges first, the leftmost of equals. Invariant: a
// vocabulary entry and its id name each other; every merge's parts and result are in the vocabulary.
#pragma once

#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/string_map.h"

namespace mantissa {

class Bpe {
 public:
  StringMap<int32_t> vocab;
  int32_t unk = -1;            // id for characters outside the vocabulary; -1: they are dropped
  std::string unk_token;       // its text: where it is not in the vocabulary, such a character is an error
  bool fuse_unk = false;       // a run of them is one unk
  bool byte_fallback = false;  // they become <0xXX> tokens where those exist
  bool ignore_merges = false;  // a word that is an entry is that entry, whatever the merges say (Llama 3)

  /// Adds the merge of two entries with rank = number of merges so far; false when a part or the result is no entry.
  bool add_merge(std::string_view left, std::string_view right);
  void reserve_merges(size_t count) { merges_.reserve(count); }
  /// Appends the ids of `word` (valid UTF-8). O(n log n). Thread-safe once built.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;
  int32_t id_of(std::string_view token) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  struct PairHash {
    size_t operator()(uint64_t pair) const { return (pair ^ pair >> 29) * 0x9E3779B97F4A7C15ull >> 16; }
  };
  struct Cache {
    std::shared_mutex mutex;
    StringMap<std::vector<int32_t>> words;
  };
  const Merge* find_merge(int32_t left, int32_t right) const;
  std::vector<int32_t> initial_ids(std::string_view word) const;
  void merge(std::vector<int32_t>& ids) const;

  std::unordered_map<uint64_t, Merge, PairHash> merges_;
  uint32_t rank_ = 0;
  mutable Cache cache_;  // text repeats its words
};

}  // namespace mantissa
