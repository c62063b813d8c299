// Attention that rotates and stores new tokens by itself has the bits of the kernels that do so apart.
#include "core/registry.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

/// Decode of new tokens in one kernel against rope_kv and attention_decode, one after the other.
class CudaNewTokens : public CudaFixture<::testing::TestWithParam<Dtype>> {
 protected:
  static constexpr int64_t kOld = 64;  // pages that all rows share: their older keys

  /// Row b has lengths[b] keys; the last page is its own, and its new token's place in there is stale. A row of length
  /// 0 is padding.
  struct Step {
    Heads heads;
    Tensor pages, qkv, angles, positions, slots, table, lengths;
  };
  Step step(Heads heads, const std::vector<int32_t>& lengths, Dtype cache, int64_t table_width = kOld) {
    const int64_t rows = int64_t(lengths.size()), page = kAttentionTile * heads.kv * heads.size;
    Tensor pages = host.empty({2, kOld + rows, kAttentionTile, heads.kv * heads.size}, cache);
    const Tensor some = random({kOld, page}, cache, 21);
    const size_t page_bytes = some.bytes() / kOld;
    for (int64_t i = 0; i < 2 * (kOld + rows); ++i)
      std::memcpy(static_cast<std::byte*>(pages.raw()) + size_t(i) * page_bytes,
                  static_cast<const std::byte*>(some.raw()) + size_t(i * 7 % kOld) * page_bytes, page_bytes);
    std::vector<int32_t> positions, slots, table(size_t(rows * table_width), -1);
    for (int64_t b = 0; b < rows; ++b) {
      const int32_t n = lengths[size_t(b)], last = (n - 1) / kAttentionTile, own = int32_t(kOld + rows - 1 - b);
      positions.push_back(std::max(0, n - 1));
      slots.push_back(n > 0 ? own * kAttentionTile + (n - 1) % kAttentionTile : -1);
      for (int32_t i = 0; i <= last && n > 0; ++i)
        table[size_t(b * table_width + i)] = i < last ? (i * 5 + n) % kOld : own;
    }
    return {heads,
            pages,
            up(random({rows, heads.row()}, GetParam(), 22)),
            up(random({kOld * kAttentionTile, heads.size / 2, 2}, Dtype::kF32, 23)),
            up(ints(positions)),
            up(ints(slots)),
            up(ints(table, {rows, table_width})),
            up(ints(lengths))};
  }
  struct Made {
    Tensor out, pages;
  };
  Made apart(const Step& s) {
    Made made{poisoned({s.qkv.size(0), s.heads.query * s.heads.size}, GetParam()), up(s.pages)};
    Tensor rotated = poisoned(s.qkv.shape(), GetParam());
    MANTISSA_RUN(gpu(), rope_kv, rotated, made.pages, s.qkv, s.angles, s.positions, s.slots, s.heads);
    MANTISSA_RUN(gpu(), attention_decode, made.out, rotated, made.pages, s.table, s.lengths, {}, s.heads);
    return made;
  }
  Made together(const Step& s) {
    Made made{poisoned({s.qkv.size(0), s.heads.query * s.heads.size}, GetParam()), up(s.pages)};
    Tensor room = poisoned(s.qkv.shape(), GetParam());
    MANTISSA_RUN(gpu(), rope_attention_decode, made.out, made.pages, room, s.qkv, s.angles, s.positions, s.slots,
                 s.table, s.lengths, s.heads);
    return made;
  }
  void expect_same_together(const Step& s) {
    const Made want = apart(s), got = together(s);
    expect_same_bits(got.out, want.out);
    expect_same_bits(got.pages, want.pages);
  }
};
INSTANTIATE_TEST_SUITE_P(All, CudaNewTokens, kCudaTypes, type_of_case);

/// Few rows at a time: many are served by the two kernels anyway.
TEST_P(CudaNewTokens, HaveTheBitsOfRopeAndAttentionApart) {
  const std::vector<std::vector<int32_t>> batches = {{1, 2, 16, 0, 17, 63, 64},
                                                     {65, 128, 0, 129, 191, 500, 512},
                                                     {0, 513, 960, 1023, 1024, 1025},
                                                     {1088, 2047, 2048, 2049, 4096, 0}};
  for (const Heads heads :
       {Heads{12, 2, 128}, Heads{9, 3, 64}, Heads{4, 4, 16}, Heads{4, 1, 32}, Heads{16, 1, 80}, Heads{2, 1, 96},
        Heads{20, 1, 64}, Heads{16, 16, 64}, Heads{16, 1, 128}, Heads{40, 2, 128}, Heads{2, 2, 8}, Heads{3, 1, 24}})
    for (const Dtype cache : {GetParam(), Dtype::kF32})
      for (const Match match : {Match::kExact, Match::kFast}) {
        if ((cache != GetParam() || match == Match::kFast) && heads.size > 64) continue;
        gpu().match = match;
        SCOPED_TRACE(str(heads.query, "/", heads.kv, "/", heads.size, " cache ", name_of(cache)));
        for (const std::vector<int32_t>& lengths : batches) expect_same_together(step(heads, lengths, cache));
      }
}

TEST_P(CudaNewTokens, SoHaveRowsOfEveryLength) {
  constexpr int kRows = 128;
  for (int first = 1; first <= kOld * kAttentionTile; first += kRows) {
    std::vector<int32_t> lengths;
    for (int i = 0; i < kRows; ++i) lengths.push_back(first + i);
    SCOPED_TRACE(str("lengths from ", first));
    expect_same_together(step({3, 1, 64}, lengths, GetParam()));
  }
}

TEST_P(CudaNewTokens, SoHaveFewRowsUnderTablesOfAnyWidth) {
  for (const int64_t width : {5, 16, 33, 500})
    for (const int rows : {1, 3, 40}) {
      std::vector<int32_t> lengths;
      for (int i = 0; i < rows; ++i) lengths.push_back(i * 97 % 320 + 1);
      expect_same_together(step({9, 3, 64}, lengths, GetParam(), width));
    }
}

/// More rows than run at once, of several segments each; few of them alone.
TEST_P(CudaNewTokens, SoHaveManyRows) {
  constexpr int kRows = 1500, kFew = 3;
  std::vector<int32_t> lengths;
  for (int i = 0; i < kRows; ++i) lengths.push_back(i * 2731 % (kOld * kAttentionTile) + 1);
  const Step all = step({3, 1, 64}, lengths, GetParam());
  const Made want = apart(all), got = together(all);
  expect_same_bits(got.out, want.out);
  expect_same_bits(got.pages, want.pages);
  for (const int64_t from : {0, 701, kRows - kFew}) {
    const auto few = [&](const Tensor& t) { return t.slice(from, from + kFew); };
    const Step some{all.heads,          all.pages,      few(all.qkv),   all.angles,
                    few(all.positions), few(all.slots), few(all.table), few(all.lengths)};
    expect_same_bits(together(some).out, few(want.out));
  }
}

/// As in a step: behind the product that makes qkv, with a reader of the output behind it, recorded and replayed. The
/// few rows rotate their tokens themselves; the many have it done by a kernel that is still running when they begin.
TEST_P(CudaNewTokens, SoHaveTheyInAGraphBehindAProduct) {
  const Heads heads{9, 3, 64};
  std::vector<int32_t> many;
  for (int i = 0; i < 500; ++i) many.push_back(i * 331 % 1500);
  for (const std::vector<int32_t>& lengths : {std::vector<int32_t>{300, 1, 64, 0, 900, 130}, many}) {
    const int64_t rows = int64_t(lengths.size());
    SCOPED_TRACE(str(rows, " rows"));
    Step s = step(heads, lengths, GetParam());
    Tensor x = up(random({rows, 576}, GetParam(), 24));
    const Tensor qkv_weight = up(random({heads.row(), 576}, GetParam(), 25, 0.05f));
    const Tensor o_weight = up(random({576, 576}, GetParam(), 26, 0.05f));
    Tensor pages = up(s.pages), room = poisoned(s.qkv.shape(), GetParam());
    Tensor out = poisoned({rows, 576}, GetParam()), y = poisoned({rows, 576}, GetParam());
    const auto step_together = [&] {
      for (int layer = 0; layer < 8; ++layer) {
        MANTISSA_RUN(gpu(), matmul, s.qkv, x, qkv_weight, Trans::kNT, false);
        MANTISSA_RUN(gpu(), rope_attention_decode, out, pages, room, s.qkv, s.angles, s.positions, s.slots, s.table,
                     s.lengths, heads);
        MANTISSA_RUN(gpu(), matmul, x, out, o_weight, Trans::kNT, false);
      }
      MANTISSA_RUN(gpu(), matmul, y, x, o_weight, Trans::kNT, false);
    };
    const Tensor first = down(x);
    step_together();
    const auto graph = gpu().backend().capture(gpu(), step_together);
    for (int i = 0; i < 20; ++i) {
      gpu().backend().copy_from_host(x.raw(), first.raw(), first.bytes());
      gpu().backend().copy_from_host(pages.raw(), s.pages.raw(), s.pages.bytes());
      graph->replay();
    }
    Tensor want_x = up(first), want = poisoned(out.shape(), GetParam());
    Tensor want_pages = up(s.pages);
    for (int layer = 0; layer < 8; ++layer) {
      MANTISSA_RUN(gpu(), matmul, s.qkv, want_x, qkv_weight, Trans::kNT, false);
      MANTISSA_RUN(gpu(), rope_kv, room, want_pages, s.qkv, s.angles, s.positions, s.slots, heads);
      MANTISSA_RUN(gpu(), attention_decode, want, room, want_pages, s.table, s.lengths, {}, heads);
      MANTISSA_RUN(gpu(), matmul, want_x, want, o_weight, Trans::kNT, false);
    }
    expect_same_bits(x, want_x);
    expect_same_bits(out, want);
    expect_same_bits(pages, want_pages);
  }
}

}  // namespace
}  // namespace mantissa
