// Match::kExact on CUDA: a row of attention has the bits that it has alone, decoded or packed, in any batch and in any
// packing.
#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

class CudaExactAttention : public CudaFixture<::testing::TestWithParam<Dtype>> {
 protected:
  struct Sequences {
    Tensor qkv, offsets;  // on the GPU
    std::vector<int> lengths, begin;
    int64_t longest = 0;
  };
  Sequences sequences(std::vector<int> lengths, Heads heads) {
    std::vector<int32_t> offsets = {0};
    for (const int n : lengths) offsets.push_back(offsets.back() + n);
    Sequences s;
    s.qkv = noise({offsets.back(), heads.row()}, GetParam(), 11);
    s.offsets = up(ints(offsets));
    s.begin.assign(offsets.begin(), offsets.end() - 1);
    s.longest = *std::max_element(lengths.begin(), lengths.end());
    s.lengths = std::move(lengths);
    return s;
  }
  Tensor packed(const Sequences& s, Heads heads, Tensor* lse_out = nullptr) {
    Tensor out = poisoned({s.qkv.size(0), heads.query * heads.size}, GetParam());
    Tensor lse = poisoned({s.qkv.size(0), heads.query}, Dtype::kF32);
    MANTISSA_RUN(gpu(), attention_fwd, out, lse, s.qkv, s.offsets, s.longest, heads);
    if (lse_out) *lse_out = lse;
    return out;
  }
  /// attention_decode of positions `rows` of sequence i, as rows of one step, against `want`, packed attention; once
  /// each by itself and once those that follow each other as a token and guesses behind it.
  void expect_decode(const Sequences& s, size_t i, const std::vector<int32_t>& rows, Heads heads, const Tensor& want) {
    const int n = s.lengths[i];
    const int64_t width = int64_t(heads.kv) * heads.size, most = (s.longest + kAttentionTile - 1) / kAttentionTile;
    // Pages in reverse, full of large stale values; all rows read the same ones, as several query rows of a sequence.
    Tensor pages = host.empty({2, most + 2, kAttentionTile, width}, GetParam());
    std::memset(pages.raw(), 0x7b, pages.bytes());
    Tensor device_pages = up(pages);
    std::vector<int32_t> slots, table, lengths, ahead;
    for (int t = 0; t < n; ++t)
      slots.push_back(int32_t((most + 1 - t / kAttentionTile) * kAttentionTile + t % kAttentionTile));
    const Tensor own = s.qkv.slice(s.begin[i], s.begin[i] + n);
    MANTISSA_RUN(gpu(), kv_write, device_pages, own, up(ints(slots)), heads);
    for (const int32_t t : rows) {
      ahead.push_back(!lengths.empty() && lengths.back() == t ? ahead.back() + 1 : 0);
      lengths.push_back(t + 1);
      for (int64_t page = 0; page < most; ++page) table.push_back(int32_t(most + 1 - page));
    }
    const int64_t count = int64_t(rows.size());
    Tensor queries = gpu().empty({count, heads.row()}, GetParam()),
           some = gpu().empty({count, want.size(1)}, GetParam());
    const Tensor index = up(ints(rows));
    MANTISSA_RUN(gpu(), gather_rows, queries, own, index);
    MANTISSA_RUN(gpu(), gather_rows, some, want.slice(s.begin[i], s.begin[i] + n), index);
    for (const Tensor& guesses : {Tensor(), up(ints(ahead))}) {
      Tensor got = poisoned(some.shape(), GetParam());
      MANTISSA_RUN(gpu(), attention_decode, got, queries, device_pages, up(ints(table, {count, most})),
                   up(ints(lengths)), guesses, heads);
      expect_same_bits(got, some);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(All, CudaExactAttention, ::testing::Values(Dtype::kF16, Dtype::kBF16), type_of_case);

TEST_P(CudaExactAttention, DecodeIsPackedAttentionBitForBit) {
  for (const Heads heads :
       {Heads{12, 2, 128}, {9, 3, 64}, {4, 4, 16}, {4, 1, 32}, {16, 1, 80}, {2, 1, 96}, {20, 1, 64}}) {
    SCOPED_TRACE(str(heads.query, "/", heads.kv, "/", heads.size));
    const Sequences s = sequences({1, 2, 63, 64, 65, 129, 1000, 1024, 1025, 2049, 4096}, heads);
    const Tensor want = packed(s, heads);
    for (size_t i = 0; i < s.lengths.size(); ++i) {
      const int n = s.lengths[i];
      std::vector<int32_t> rows;
      for (int t = 0; t < n; t += n > 200 ? 61 : 1) rows.push_back(t);
      if (rows.back() != n - 1) rows.push_back(n - 1);
      SCOPED_TRACE(str("length ", n));
      expect_decode(s, i, rows, heads, want);
    }
  }
}

/// Of few rows the last block of each folds the segments; of so many that they fill the device each block its own, up
/// to five, and of more segments a kernel.
TEST_P(CudaExactAttention, SoIsDecodeOfFewRowsAndOfManyWithSeveralSegments) {
  const std::pair<Heads, int> cases[] = {
      {{12, 2, 128}, 4096}, {{9, 3, 64}, 4096}, {{16, 1, 80}, 4096}, {{20, 1, 64}, 4096}, {{12, 2, 128}, 5500}};
  for (const auto& [heads, length] : cases) {
    SCOPED_TRACE(str(heads.query, "/", heads.kv, "/", heads.size, ", length ", length));
    const Sequences s = sequences({length}, heads);
    const Tensor want = packed(s, heads);
    std::vector<int32_t> all(size_t(length), 0);
    std::iota(all.begin(), all.end(), 0);
    for (const int32_t t : {1023, 1024, 2500, 4095}) expect_decode(s, 0, {t}, heads, want);
    expect_decode(s, 0, all, heads, want);
  }
}

/// In runs of 1 to 20 rows that begin anywhere in a tile; some end in the next segment.
TEST_P(CudaExactAttention, AndOfATokenWithGuessesBehindIt) {
  for (const Heads heads : {Heads{12, 2, 128}, {9, 3, 64}, {14, 2, 64}, {8, 8, 32}, {16, 4, 96}}) {
    SCOPED_TRACE(str(heads.query, "/", heads.kv, "/", heads.size));
    const Sequences s = sequences({2200}, heads);
    const Tensor want = packed(s, heads);
    std::vector<int32_t> rows;
    int count = 1;
    for (const int begin : {0, 5, 60, 128, 700, 1010, 1023, 1500, 2040, 2047, 2180}) {
      for (int i = 0; i < count; ++i) rows.push_back(begin + i);
      count = count % 17 + 4;
    }
    expect_decode(s, 0, rows, heads, want);
    for (const int32_t first : {1022, 1023, 1024, 2046})
      expect_decode(s, 0, {first, first + 1, first + 2}, heads, want);
  }
}

/// The neighbours' numbers may be anything: once they are infinite.
TEST_P(CudaExactAttention, PackedAttentionDoesNotDependOnThePacking) {
  for (const Heads heads : {Heads{6, 2, 64}, {12, 2, 128}, {4, 2, 32}}) {
    SCOPED_TRACE(str(heads.query, "/", heads.kv, "/", heads.size));
    const Sequences s = sequences({70, 1, 1500, 64, 200}, heads);
    Tensor lse;
    const Tensor want = packed(s, heads, &lse);
    for (size_t i = 0; i < s.lengths.size(); ++i) {
      SCOPED_TRACE(str("sequence ", i));
      const int begin = s.begin[i], end = begin + s.lengths[i];
      Sequences alone{s.qkv.slice(begin, end), up(ints({0, s.lengths[i]})), {s.lengths[i]}, {0}, s.lengths[i]};
      Tensor own_lse;
      expect_same_bits(packed(alone, heads, &own_lse), want.slice(begin, end));
      expect_same_bits(own_lse, lse.slice(begin, end));
      alone.longest = 5000;  // a bound may be loose
      expect_same_bits(packed(alone, heads), want.slice(begin, end));

      Sequences among = s;
      among.qkv = gpu().empty(s.qkv.shape(), GetParam());
      MANTISSA_RUN(gpu(), fill, among.qkv, std::numeric_limits<double>::infinity());
      Tensor own = among.qkv.slice(begin, end);
      gpu().backend().copy(own.raw(), alone.qkv.raw(), own.bytes());
      expect_same_bits(packed(among, heads, &own_lse).slice(begin, end), want.slice(begin, end));
      expect_same_bits(own_lse.slice(begin, end), lse.slice(begin, end));
    }
  }
}

TEST_P(CudaExactAttention, AttentionIsNearTheCpu) {
  const Heads heads{4, 2, 32};
  const Sequences s = sequences({70, 1, 1200}, heads);
  Tensor lse, out = packed(s, heads, &lse);
  Tensor want = host.empty(out.shape(), GetParam()), want_lse = host.empty(lse.shape(), Dtype::kF32);
  MANTISSA_RUN(host, attention_fwd, want, want_lse, down(s.qkv), down(s.offsets), s.longest, heads);
  expect_close(out, want, 4 * unit_of(GetParam()), 0.25);
  expect_close(lse, want_lse, unit_of(GetParam()), 1.0);
}

}  // namespace
}  // namespace mantissa
