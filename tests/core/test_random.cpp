// Random numbers: Philox against the published answers, ranges, repeatability, and the shape of normal().
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/random.h"

namespace mantissa {
namespace {

void expect_block(PhiloxBlock counter, PhiloxKey key, PhiloxBlock want) {
  const PhiloxBlock got = philox(counter, key);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(got.v[i], want.v[i]) << "word " << i;
}

// From the known-answer file of Random123 (philox4x32, 10 rounds).
TEST(Random, PhiloxKnownAnswers) {
  expect_block({{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
  expect_block({{~0u, ~0u, ~0u, ~0u}}, {~0u, ~0u}, {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
  expect_block({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, {0xa4093822u, 0x299f31d0u},
               {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}});
}

TEST(Random, UniformIsOpenAndExact) {
  EXPECT_EQ(uniform_from(0), 0x1p-24f);
  EXPECT_EQ(uniform_from(~0u), 1.0f - 0x1p-24f);
  EXPECT_EQ(uniform_from(0x80000000u), 0.5f + 0x1p-24f);
}

TEST(Random, StreamIsRepeatableAndSeekable) {
  RandomStream a(7, 1), b(7, 1), other_purpose(7, 2), other_seed(8, 1);
  std::vector<uint32_t> words;
  for (int i = 0; i < 11; ++i) words.push_back(a.next());
  for (uint32_t word : words) EXPECT_EQ(b.next(), word);
  EXPECT_NE(other_purpose.next(), words[0]);
  EXPECT_NE(other_seed.next(), words[0]);
  a.seek(5);
  EXPECT_EQ(a.next(), words[5]);
  EXPECT_EQ(a.position(), 6u);
}

TEST(Random, BelowStaysInRangeAndReachesAll) {
  RandomStream stream(1, 1);
  std::set<uint32_t> seen;
  for (int i = 0; i < 500; ++i) seen.insert(stream.below(7));
  EXPECT_EQ(seen.size(), 7u);
  EXPECT_EQ(*seen.rbegin(), 6u);
  EXPECT_EQ(stream.below(1), 0u);
  // Three quarters of the range: without rejection the first third would come up twice as often.
  int low = 0;
  for (int i = 0; i < 30000; ++i) low += stream.below(0xC0000000u) < 0x40000000u;
  EXPECT_NEAR(low / 30000.0, 1.0 / 3, 0.015);
}

TEST(Random, NormalHasTheRightMoments) {
  RandomStream stream(3, 4);
  constexpr int kDraws = 200000;
  double sum = 0, squares = 0, fourths = 0;
  int beyond = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = stream.normal();
    sum += x, squares += x * x, fourths += x * x * x * x;
    beyond += std::abs(x) > 1.959964;
  }
  EXPECT_EQ(stream.position(), uint64_t(2 * kDraws));
  EXPECT_NEAR(sum / kDraws, 0.0, 0.01);
  EXPECT_NEAR(squares / kDraws, 1.0, 0.015);
  EXPECT_NEAR(fourths / kDraws, 3.0, 0.15);
  EXPECT_NEAR(beyond / double(kDraws), 0.05, 0.003);
}

}  // namespace
}  // namespace mantissa
