// XXH64 (Yann Collet's xxHash, seed 0): a fast 64-bit checksum for files and data sets. It finds damage, not forgery;
// `xxhsum -H64` computes the same.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace mantissa {

inline uint64_t hash64(std::span<const std::byte> bytes) {
  constexpr uint64_t k1 = 0x9E3779B185EBCA87ull, k2 = 0xC2B2AE3D27D4EB4Full, k3 = 0x165667B19E3779F9ull,
                     k4 = 0x85EBCA77C2B2AE63ull, k5 = 0x27D4EB2F165667C5ull;
  const auto round = [&](uint64_t lane, uint64_t word) { return std::rotl(lane + word * k2, 31) * k1; };
  const std::byte* p = bytes.data();
  size_t left = bytes.size();
  const auto take = [&](auto word) {
    std::memcpy(&word, p, sizeof(word));
    p += sizeof(word);
    left -= sizeof(word);
    return uint64_t(word);
  };

  uint64_t h = k5;
  if (left >= 32) {
    uint64_t lanes[4] = {k1 + k2, k2, 0, 0 - k1};
    while (left >= 32)
      for (uint64_t& lane : lanes) lane = round(lane, take(uint64_t()));
    h = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
    for (const uint64_t lane : lanes) h = (h ^ round(0, lane)) * k1 + k4;
  }
  h += bytes.size();
  while (left >= 8) h = std::rotl(h ^ round(0, take(uint64_t())), 27) * k1 + k4;
  if (left >= 4) h = std::rotl(h ^ take(uint32_t()) * k1, 23) * k2 + k3;
  while (left > 0) h = std::rotl(h ^ take(uint8_t()) * k5, 11) * k1;
  h = (h ^ (h >> 33)) * k2;
  h = (h ^ (h >> 29)) * k3;
  return h ^ (h >> 32);
}

inline uint64_t hash64(std::string_view text) {
  return hash64(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace mantissa
