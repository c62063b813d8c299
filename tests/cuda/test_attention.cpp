// The attention family on CUDA against the CPU kernels: rotary embedding, cache writes and copies, packed
// forward and backward, paged decode; and the promises about bits: batch, repetition, graphs.
#include <algorithm>

#include "core/registry.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

struct Case {
  Heads heads;
  std::vector<int> lengths;
};

/// Odd sizes, empty and one-token sequences, every ratio of heads that has a path of its own. Head sizes that
/// are no multiple of 16 always take the own kernels.
const std::vector<Case> kCases = {
    {{2, 2, 8}, {1, 31, 64}},         {{2, 1, 16}, {65, 0, 1}},    {{3, 3, 24}, {33, 7}},
    {{4, 2, 40}, {100, 1, 1, 27}},    {{9, 3, 64}, {129, 5, 300}}, {{6, 1, 64}, {257}},
    {{12, 2, 128}, {70, 1, 64, 200}}, {{2, 1, 80}, {96}},          {{3, 1, 136}, {50, 33}},
    {{4, 2, 192}, {65, 3}},           {{2, 1, 256}, {40, 100}},    {{1, 1, 64}, {1}},
    {{4, 4, 64}, {1, 1, 1, 1, 1}},
};

std::string name_of_case(const Case& c) {
  std::string name = str(c.heads.query, "/", c.heads.kv, "/", c.heads.size, " lengths");
  for (int n : c.lengths) name += str(" ", n);
  return name;
}

std::vector<int32_t> offsets_of(const std::vector<int>& lengths) {
  std::vector<int32_t> offsets = {0};
  for (int n : lengths) offsets.push_back(offsets.back() + n);
  return offsets;
}

class CudaAttention : public CudaFixture<::testing::TestWithParam<Dtype>> {
 protected:
  struct Packed {
    Tensor out, lse, dqkv;
  };
  Packed run_host(const Tensor& qkv, const Tensor& dout, const std::vector<int>& lengths, Heads heads) {
    const Tensor offsets = ints(offsets_of(lengths));
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    Packed r{host.empty(dout.shape(), dout.dtype()), host.empty({qkv.size(0), heads.query}, Dtype::kF32),
             host.empty(qkv.shape(), qkv.dtype())};
    MANTISSA_RUN(host, attention_fwd, r.out, r.lse, qkv, offsets, longest, heads);
    MANTISSA_RUN(host, attention_bwd, r.dqkv, dout, qkv, r.out, r.lse, offsets, longest, heads);
    return r;
  }
  /// qkv and dout are on the host.
  Packed run_gpu(const Tensor& qkv, const Tensor& dout, const std::vector<int>& lengths, Heads heads) {
    const Tensor offsets = up(ints(offsets_of(lengths))), x = up(qkv), dy = up(dout);
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    Packed r{poisoned(dout.shape(), dout.dtype()), poisoned({qkv.size(0), heads.query}, Dtype::kF32),
             poisoned(qkv.shape(), qkv.dtype())};
    MANTISSA_RUN(gpu(), attention_fwd, r.out, r.lse, x, offsets, longest, heads);
    MANTISSA_RUN(gpu(), attention_bwd, r.dqkv, dy, x, r.out, r.lse, offsets, longest, heads);
    return r;
  }
  Tensor random_dout(int64_t tokens, Heads heads, uint64_t purpose) {
    return random({tokens, heads.query * heads.size}, GetParam(), purpose);
  }

  /// A cache on the host whose pages lie in reverse order, NaN where nothing was written.
  struct Cache {
    Tensor pages, table;
  };
  Cache fill_cache(const Tensor& qkv, const std::vector<int>& lengths, Heads heads, Dtype dtype, int spare_pages = 0) {
    int64_t count = 0, most = 1;
    for (int n : lengths) {
      const int64_t pages = (n + kAttentionTile - 1) / kAttentionTile;
      count += pages;
      most = std::max(most, pages);
    }
    most += spare_pages;
    std::vector<int32_t> table(lengths.size() * most, -1), slots;
    int32_t next = int32_t(count);
    for (size_t s = 0; s < lengths.size(); ++s)
      for (int t = 0; t < lengths[s]; ++t) {
        int32_t& page = table[s * most + t / kAttentionTile];
        if (t % kAttentionTile == 0) page = next--;
        slots.push_back(page * kAttentionTile + t % kAttentionTile);
      }
    Cache cache{host.empty({2, count + 1, kAttentionTile, heads.kv * heads.size}, dtype),
                ints(table, {int64_t(lengths.size()), most})};
    std::memset(cache.pages.raw(), 0xff, cache.pages.bytes());
    MANTISSA_RUN(host, kv_write, cache.pages, qkv, ints(slots), heads);
    return cache;
  }
  Tensor decode_gpu(const Tensor& rows, const Cache& cache, const std::vector<int32_t>& lengths, Heads heads) {
    Tensor out = poisoned({rows.size(0), heads.query * heads.size}, rows.dtype());
    MANTISSA_RUN(gpu(), attention_decode, out, up(rows), up(cache.pages), up(cache.table), up(ints(lengths)), {},
                 heads);
    return out;
  }
  Tensor decode_host(const Tensor& rows, const Cache& cache, const std::vector<int32_t>& lengths, Heads heads) {
    Tensor out = host.empty({rows.size(0), heads.query * heads.size}, rows.dtype());
    MANTISSA_RUN(host, attention_decode, out, rows, cache.pages, cache.table, ints(lengths), {}, heads);
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(All, CudaAttention, kCudaTypes, type_of_case);

TEST_P(CudaAttention, RopeGivesTheBitsOfTheCpu) {
  for (const Heads heads : {Heads{3, 1, 24}, Heads{9, 3, 64}, Heads{2, 2, 128}, Heads{1, 1, 8}}) {
    const int64_t tokens = 37, half = heads.size / 2;
    const Tensor table = random({50, half, 2}, Dtype::kF32, 1), qkv = random({tokens, heads.row()}, GetParam(), 2);
    std::vector<int32_t> positions(tokens);
    for (int64_t t = 0; t < tokens; ++t) positions[t] = int32_t(t * 7 % 50);
    for (const bool inverse : {false, true}) {
      Tensor want = host.empty(qkv.shape(), GetParam()), got = poisoned(qkv.shape(), GetParam()), in_place = up(qkv);
      MANTISSA_RUN(host, rope, want, qkv, table, ints(positions), heads, inverse);
      MANTISSA_RUN(gpu(), rope, got, up(qkv), up(table), up(ints(positions)), heads, inverse);
      MANTISSA_RUN(gpu(), rope, in_place, in_place, up(table), up(ints(positions)), heads, inverse);
      expect_same_bits(got, want);
      expect_same_bits(in_place, want);
    }
  }
}

TEST_P(CudaAttention, CacheWritesAndCopiesGiveTheBitsOfTheCpu) {
  for (const Dtype cache : {Dtype::kF32, Dtype::kF16, Dtype::kBF16})
    for (const Heads heads : {Heads{2, 2, 8}, Heads{9, 3, 64}, Heads{3, 1, 24}}) {
      const Tensor qkv = random({5, heads.row()}, GetParam(), 3);
      Tensor want = random({2, 4, kAttentionTile, heads.kv * heads.size}, cache, 4), got = up(want);
      const Tensor slots = ints({5, -1, kAttentionTile + 2, 3 * kAttentionTile - 1, 0});
      MANTISSA_RUN(host, kv_write, want, qkv, slots, heads);
      MANTISSA_RUN(gpu(), kv_write, got, up(qkv), up(slots), heads);
      expect_same_bits(got, want);

      const Tensor table = random({9, heads.size / 2, 2}, Dtype::kF32, 5), positions = ints({8, 0, 3, 3, 1});
      const Tensor fresh = random(want.shape(), cache, 6);
      cpu().copy(want.raw(), fresh.raw(), fresh.bytes());
      Tensor rotated = host.empty(qkv.shape(), GetParam());
      MANTISSA_RUN(host, rope_kv, rotated, want, qkv, table, positions, slots, heads);
      for (const bool in_place : {false, true}) {
        got = up(fresh);
        const Tensor in = up(qkv);
        Tensor out = in_place ? in : poisoned(qkv.shape(), GetParam());
        MANTISSA_RUN(gpu(), rope_kv, out, got, in, up(table), up(positions), up(slots), heads);
        expect_same_bits(out, rotated);
        expect_same_bits(got, want);
      }
      const Tensor from = ints({1, -1, 2}), to = ints({3, 0, 2});
      MANTISSA_RUN(host, kv_copy, want, from, to);
      MANTISSA_RUN(gpu(), kv_copy, got, up(from), up(to));
      expect_same_bits(got, want);
    }
}

TEST_P(CudaAttention, PackedForwardAndBackwardMatchTheCpu) {
  const double unit = GetParam() == Dtype::kF32 ? 1e-6 : unit_of(GetParam());
  for (const bool deterministic : {true, false})
    for (const Case& c : kCases) {
      SCOPED_TRACE(name_of_case(c));
      gpu().deterministic = deterministic;
      const int64_t tokens = offsets_of(c.lengths).back();
      const Tensor qkv = random({tokens, c.heads.row()}, GetParam(), 5), dout = random_dout(tokens, c.heads, 6);
      const Packed want = run_host(qkv, dout, c.lengths, c.heads), got = run_gpu(qkv, dout, c.lengths, c.heads);
      // A library may round probabilities and their gradients to the type before it multiplies with them.
      expect_close(got.out, want.out, 3 * unit, 1.0);
      expect_close(got.lse, want.lse, GetParam() == Dtype::kF32 ? 5e-6 : unit, 1.0);  // of rounded probabilities
      expect_close(got.dqkv, want.dqkv, 8 * unit, 1.0);
    }
}

TEST_P(CudaAttention, LaterTokensDoNotReachEarlierRows) {
  const Heads heads{6, 2, 64};
  const Tensor qkv = random({200, heads.row()}, GetParam(), 7), dout = random_dout(200, heads, 8);
  Tensor spoilt = host.empty(qkv.shape(), GetParam());
  std::memcpy(spoilt.raw(), qkv.raw(), qkv.bytes());
  Tensor tail = spoilt.slice(130, 200);
  MANTISSA_RUN(host, fill, tail, 100.0);
  const Packed all = run_gpu(qkv, dout, {200}, heads), run = run_gpu(spoilt, dout, {200}, heads);
  expect_same_bits(run.out.slice(0, 130), all.out.slice(0, 130));
}

TEST_P(CudaAttention, DeterministicRunsRepeatTheirBits) {
  gpu().deterministic = true;
  for (const Heads heads : {Heads{12, 2, 128}, Heads{9, 3, 64}, Heads{3, 1, 24}}) {
    const std::vector<int> lengths = {700, 1, 333, 64};
    const Tensor qkv = random({1098, heads.row()}, GetParam(), 9), dout = random_dout(1098, heads, 10);
    const Packed first = run_gpu(qkv, dout, lengths, heads);
    for (int i = 0; i < 3; ++i) {
      const Packed again = run_gpu(qkv, dout, lengths, heads);
      expect_same_bits(again.out, first.out);
      expect_same_bits(again.lse, first.lse);
      expect_same_bits(again.dqkv, first.dqkv);
    }
  }
}

TEST_P(CudaAttention, DecodeMatchesTheCpu) {
  // Ratios with one and two blocks of heads, with several tiles of them, and lengths around every bound of
  // the splits.
  const std::vector<int> lengths = {1, 63, 64, 65, 511, 512, 513, 1000, 2100};
  for (const Heads heads : {Heads{12, 2, 128}, Heads{9, 3, 64}, Heads{12, 1, 64}, Heads{20, 1, 128}, Heads{2, 2, 8},
                            Heads{3, 1, 24}, Heads{4, 2, 192}, Heads{2, 1, 256}, Heads{16, 16, 64}})
    for (const Dtype cache_type : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
      if (cache_type != GetParam() && heads.size > 64) continue;  // the same kernel as the smaller ones
      SCOPED_TRACE(str(heads.query, "/", heads.kv, "/", heads.size, " cache ", name_of(cache_type)));
      const auto offsets = offsets_of(lengths);
      const Tensor qkv = random({offsets.back(), heads.row()}, GetParam(), 11);
      const Cache cache = fill_cache(qkv, lengths, heads, cache_type, 3);
      const Tensor rows = random({int64_t(lengths.size()), heads.row()}, GetParam(), 12);
      std::vector<int32_t> reads(lengths.begin(), lengths.end());
      reads[3] = 0;  // inactive: zero
      for (const Match match : {Match::kExact, Match::kPeer}) {
        host.match = gpu().match = match;
        const double unit = GetParam() == Dtype::kF32 ? 1e-6 : unit_of(GetParam());
        // Peers round probabilities against maxima of their own splits.
        expect_close(decode_gpu(rows, cache, reads, heads), decode_host(rows, cache, reads, heads),
                     match == Match::kPeer ? 4 * unit : 2.01 * unit, 0.25);
      }
      host.match = gpu().match = Match::kExact;
    }
}

TEST_P(CudaAttention, DecodeOfLongRows) {
  const Heads heads{6, 1, 64};
  const std::vector<int> lengths = {9000, 17000};  // more pages than splits have of eight
  const Tensor qkv = random({26000, heads.row()}, GetParam(), 13);
  const Cache cache = fill_cache(qkv, lengths, heads, GetParam());
  const Tensor rows = random({2, heads.row()}, GetParam(), 14, 3.0f);
  // fp32 sums of n terms are off by about sqrt(n) units.
  const double unit = unit_of(GetParam()) * (GetParam() == Dtype::kF32 ? std::sqrt(17000.0) : 1.0);
  expect_close(decode_gpu(rows, cache, {9000, 17000}, heads), decode_host(rows, cache, {9000, 17000}, heads),
               2.01 * unit, 0.25);
}

TEST_P(CudaAttention, DecodeEqualsPackedForwardWithinRounding) {
  for (const Case& c : {Case{{12, 2, 128}, {700, 1, 65}}, Case{{9, 3, 64}, {129, 600}}, Case{{3, 1, 24}, {70}}}) {
    SCOPED_TRACE(name_of_case(c));
    const auto offsets = offsets_of(c.lengths);
    const Tensor qkv = random({offsets.back(), c.heads.row()}, GetParam(), 15);
    const Packed packed = run_gpu(qkv, random_dout(offsets.back(), c.heads, 16), c.lengths, c.heads);
    const Cache cache = fill_cache(qkv, c.lengths, c.heads, GetParam());
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      const int64_t t = offsets[s + 1] - 1;
      const Cache one{cache.pages, cache.table.slice(int64_t(s), int64_t(s) + 1)};
      const double unit = GetParam() == Dtype::kF32 ? 1e-6 : unit_of(GetParam());
      expect_close(decode_gpu(qkv.slice(t, t + 1), one, {c.lengths[s]}, c.heads), packed.out.slice(t, t + 1), 3 * unit,
                   1.0);
    }
  }
}

TEST_P(CudaAttention, RowsDoNotDependOnTheirBatch) {
  for (const Heads heads : {Heads{12, 2, 128}, Heads{9, 3, 64}, Heads{3, 1, 24}}) {
    // Decode: alone, and among others under a wider table.
    const std::vector<int> lengths = {1, 700, 64, 4000, 1030, 90};
    const auto offsets = offsets_of(lengths);
    const Tensor qkv = random({offsets.back(), heads.row()}, GetParam(), 17);
    const Cache narrow = fill_cache(qkv, lengths, heads, GetParam()),
                wide = fill_cache(qkv, lengths, heads, GetParam(), 70);
    const Tensor rows = random({int64_t(lengths.size()), heads.row()}, GetParam(), 18);
    const Tensor all = decode_gpu(rows, wide, {lengths.begin(), lengths.end()}, heads);
    for (size_t s = 0; s < lengths.size(); ++s) {
      const int64_t b = int64_t(s), pages = (lengths[s] + kAttentionTile - 1) / kAttentionTile;
      std::vector<int32_t> own = to_host<int32_t>(narrow.table.slice(b, b + 1));
      own.resize(size_t(pages));
      const Cache one{narrow.pages, ints(own, {1, pages})};
      expect_same_bits(decode_gpu(rows.slice(b, b + 1), one, {lengths[s]}, heads), all.slice(b, b + 1));
    }
  }
}

TEST_P(CudaAttention, DecodeReplaysFromAGraph) {
  const Heads heads{12, 2, 128};
  const std::vector<int> lengths = {1500, 70};
  const Tensor qkv = random({1570, heads.row()}, GetParam(), 19);
  const Cache cache = fill_cache(qkv, lengths, heads, GetParam());
  const Tensor rows = up(random({2, heads.row()}, GetParam(), 20)), pages = up(cache.pages), table = up(cache.table);
  Tensor reads = up(ints({1500, 70})), out = poisoned({2, heads.query * heads.size}, GetParam());
  const auto step = [&] { MANTISSA_RUN(gpu(), attention_decode, out, rows, pages, table, reads, {}, heads); };
  step();
  const auto graph = gpu().backend().capture(gpu(), step);
  ASSERT_NE(graph, nullptr);
  const std::vector<int32_t> shorter = {900, 33};
  reads.backend().copy_from_host(reads.raw(), shorter.data(), reads.bytes());
  graph->replay();
  const std::vector<std::byte> replayed = bits_of(out);
  step();
  EXPECT_EQ(replayed, bits_of(out));
}

}  // namespace
}  // namespace mantissa
