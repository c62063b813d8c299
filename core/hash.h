// XXH64 (Yann Collet's xxHash, seed 0): a fast 64-bit checksum for files and data sets. It finds damage, not forgery;
// `xxhsum -H64` computes the same.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace mantissa {

/// The hash of bytes that come piece by piece: where they are cut does not matter.
class Hash64 {
 public:
  void add(std::span<const std::byte> bytes) {
    if (filled_ > 0) {
      const size_t taken = std::min(bytes.size(), sizeof(rest_) - filled_);
      if (taken > 0) std::memcpy(rest_ + filled_, bytes.data(), taken);
      bytes = bytes.subspan(taken);
      total_ += taken;
      if ((filled_ += taken) < sizeof(rest_)) return;
      blocks(rest_);
      filled_ = 0;
    }
    total_ += bytes.size();
    bytes = bytes.last(blocks(bytes));
    if (!bytes.empty()) std::memcpy(rest_, bytes.data(), filled_ = bytes.size());
  }

  /// Of all that was added.
  uint64_t value() const {
    uint64_t h = k5;
    if (total_ >= sizeof(rest_)) {
      h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
      for (const uint64_t lane : lanes_) h = (h ^ round(0, lane)) * k1 + k4;
    }
    h += total_;
    const std::byte* p = rest_;
    size_t left = filled_;
    while (left >= 8) h = std::rotl(h ^ round(0, take<uint64_t>(p, left)), 27) * k1 + k4;
    if (left >= 4) h = std::rotl(h ^ take<uint32_t>(p, left) * k1, 23) * k2 + k3;
    while (left > 0) h = std::rotl(h ^ take<uint8_t>(p, left) * k5, 11) * k1;
    h = (h ^ (h >> 33)) * k2;
    h = (h ^ (h >> 29)) * k3;
    return h ^ (h >> 32);
  }

 private:
  static constexpr uint64_t k1 = 0x9E3779B185EBCA87ull, k2 = 0xC2B2AE3D27D4EB4Full, k3 = 0x165667B19E3779F9ull,
                            k4 = 0x85EBCA77C2B2AE63ull, k5 = 0x27D4EB2F165667C5ull;

  static uint64_t round(uint64_t lane, uint64_t word) { return std::rotl(lane + word * k2, 31) * k1; }
  template <class Word>
  static uint64_t take(const std::byte*& p, size_t& left) {
    Word word;
    std::memcpy(&word, p, sizeof(word));
    p += sizeof(word);
    left -= sizeof(word);
    return word;
  }
  /// Takes whole blocks; returns how many bytes are left.
  size_t blocks(std::span<const std::byte> bytes) {
    const std::byte* p = bytes.data();
    size_t left = bytes.size();
    uint64_t lanes[4] = {lanes_[0], lanes_[1], lanes_[2], lanes_[3]};
    while (left >= sizeof(rest_))
      for (uint64_t& lane : lanes) lane = round(lane, take<uint64_t>(p, left));
    std::memcpy(lanes_, lanes, sizeof lanes);
    return left;
  }

  uint64_t lanes_[4] = {k1 + k2, k2, 0, 0 - k1};
  std::byte rest_[32];  // of which `filled_` wait for the others of their block
  size_t filled_ = 0, total_ = 0;
};

inline uint64_t hash64(std::span<const std::byte> bytes) {
  Hash64 hash;
  hash.add(bytes);
  return hash.value();
}

inline uint64_t hash64(std::string_view text) {
  return hash64(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace mantissa
