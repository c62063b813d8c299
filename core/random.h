// Philox4x32-10 (Salmon et al., SC'11): a counter-based generator. The same (key, counter) gives the same four words on
// every device, so a draw depends only on what it is for, never on what else ran.
#pragma once

#include <array>
#include <cstdint>

#if defined(__CUDACC__)
#define MANTISSA_HOST_DEVICE __host__ __device__
#else
#define MANTISSA_HOST_DEVICE
#endif

namespace mantissa {

struct PhiloxKey {
  uint32_t lo, hi;
};
struct PhiloxBlock {
  uint32_t v[4];
};

MANTISSA_HOST_DEVICE inline PhiloxBlock philox(PhiloxBlock counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * counter.v[0];
    const uint64_t p1 = uint64_t(0xCD9E8D57u) * counter.v[2];
    counter = {{uint32_t(p1 >> 32) ^ counter.v[1] ^ key.lo, uint32_t(p1), uint32_t(p0 >> 32) ^ counter.v[3] ^ key.hi,
                uint32_t(p0)}};
    key.lo += 0x9E3779B9u;
    key.hi += 0xBB67AE85u;
  }
  return counter;
}

/// Uniform in the open interval (0, 1): the middle of one of 2^23 equal cells, exact in float, so never 0 or 1.
MANTISSA_HOST_DEVICE inline float uniform_from(uint32_t word) {
  return (float(word >> 9) + 0.5f) * 0x1p-23f;
}

/// Mixes a 64-bit value (splitmix64 finaliser): turns (seed, purpose) pairs into keys.
MANTISSA_HOST_DEVICE inline uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

MANTISSA_HOST_DEVICE inline PhiloxKey philox_key(uint64_t seed, uint64_t step) {
  const uint64_t k = mix64(seed ^ mix64(step));
  return {uint32_t(k), uint32_t(k >> 32)};
}

/// A sequential stream for host-side uses (shuffles, initialisation). State is (key, position): cheap to save.
class RandomStream {
 public:
  RandomStream(uint64_t seed, uint64_t purpose) : key_(philox_key(seed, purpose)) {}
  uint32_t next() {
    const uint64_t block = position_ / 4;
    const PhiloxBlock b = philox({{uint32_t(block), uint32_t(block >> 32), 0, 0}}, key_);
    return b.v[position_++ % 4];
  }
  float uniform() { return uniform_from(next()); }
  /// Uniform integer in [0, n), n > 0; unbiased.
  uint32_t below(uint32_t n) {
    const uint32_t limit = uint32_t((uint64_t(1) << 32) / n * n - 1);
    uint32_t x = next();
    while (x > limit) x = next();
    return x % n;
  }
  /// Standard normal (Box-Muller; one value per two words).
  float normal();
  uint64_t position() const { return position_; }
  void seek(uint64_t position) { position_ = position; }

 private:
  PhiloxKey key_;
  uint64_t position_ = 0;
};

}  // namespace mantissa
