// Match::kExact on CUDA: a row of a forward product and of attention has the bits that it has alone, in any batch and
// with every kernel that may serve, and a library's algorithm that gives other bits is found out.
#include <algorithm>
#include <limits>
#include <numeric>
#include <sstream>

#include "core/registry.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

class CudaExact : public CudaFixture<::testing::TestWithParam<Dtype>> {
 protected:
  /// a[M,K] . b[N,K]^T (+ bias), both on the GPU.
  Tensor product(const Tensor& a, const Tensor& b, const Tensor& bias = {}, Dtype out = Dtype::kF64) {
    Tensor c = poisoned({a.size(0), b.size(0)}, out == Dtype::kF64 ? a.dtype() : out);
    if (bias.defined())
      MANTISSA_RUN(gpu(), matmul_bias, c, a, b, bias);
    else
      MANTISSA_RUN(gpu(), matmul, c, a, b, Trans::kNT, false);
    return c;
  }
  std::string no_chains_because() {
    return gpu().backend().exact_obstacle({Dtype::kF16, Dtype::kF16, Dtype::kF16, 64, 9, 3, 64});
  }
  /// Random numbers on the GPU: some made once and repeated, in a number that no row length divides.
  Tensor noise(Shape shape, Dtype dtype, uint64_t purpose, float size = 1.0f) {
    constexpr int64_t kValues = 65521;
    const Tensor some = up(random({kValues}, dtype, purpose, size));
    Tensor out = gpu().empty(shape, dtype);
    for (int64_t at = 0; at < out.numel(); at += kValues)
      gpu().backend().copy(static_cast<std::byte*>(out.raw()) + at * int64_t(size_of(dtype)), some.raw(),
                           size_t(std::min(kValues, out.numel() - at)) * size_of(dtype));
    return out;
  }

  /// measured_choices() without choices: the device, the library's version, and the mark between exact and other ones.
  std::string no_choices() {
    gpu().backend().restore_measured_choices("");
    Tensor c = product(noise({8, 16}, GetParam(), 1), noise({8, 16}, GetParam(), 2));
    const std::string text = gpu().backend().measured_choices();
    const std::string head = text.substr(0, text.find('\n', text.find('\n') + 1) + 1) + "other\n";
    gpu().backend().restore_measured_choices(head);
    return head;
  }
  /// The same with one exact choice.
  static std::string with_choice(std::string head, const std::string& line) {
    return head.insert(head.size() - std::strlen("other\n"), line + '\n');
  }
  /// Words of the only line that measured_choices() adds to `head`.
  std::vector<std::string> only_choice(const std::string& head) {
    std::istringstream lines(gpu().backend().measured_choices()), known(head);
    std::vector<std::string> words;
    for (std::string line; std::getline(lines, line);) {
      if (head.find(line + '\n') != std::string::npos) continue;
      EXPECT_TRUE(words.empty()) << line;
      std::istringstream in(line);
      for (std::string word; in >> word;) words.push_back(word);
    }
    return words;
  }
  static std::string joined(const std::vector<std::string>& words) {
    std::string line;
    for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
    return line;
  }

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
INSTANTIATE_TEST_SUITE_P(All, CudaExact, ::testing::Values(Dtype::kF16, Dtype::kBF16), type_of_case);

struct ProductCase {
  int64_t columns, depth;
  bool bias;
  Dtype out;  // kF64: as the operands
  std::vector<int64_t> rows;
};

struct ChainedCase {
  int64_t columns, depth, rank;
  std::vector<ColumnRange> parts;
  bool bias;
  std::vector<int64_t> rows;
};

TEST_P(CudaExact, TwoProductsInOneChainAreTheProductOfTheJoinedOperands) {
  if (const std::string reason = no_chains_because(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr double kScale = 0.3;  // rounds
  const ChainedCase cases[] = {
      {960, 576, 32, {{0, 576}, {576, 768}, {768, 960}}, true, {1, 16, 17, 64, 200, 256, 257, 1000, 4096}},
      {576, 1536, 16, {{0, 576}}, false, {1, 33, 64, 512, 3000}},
      {2048, 1536, 48, {{0, 1536}, {1792, 2048}}, true, {5, 100, 700}},
      {3072, 576, 32, {{0, 1536}, {1536, 3072}}, false, {64, 128, 192, 256, 1024}},
      {2048, 1536, 32, {{0, 1536}, {1536, 1792}, {1792, 2048}}, true, {64, 65, 128, 129, 256}},
      {136, 80, 128, {{8, 104}}, false, {3, 300}},
      {137, 72, 8, {{1, 50}, {51, 90}}, true, {1, 17, 65, 128, 200}},
      {411, 200, 24, {{0, 411}}, true, {33, 64, 100}}};
  for (const ChainedCase& c : cases) {
    int64_t updated = 0;
    for (const ColumnRange& part : c.parts) updated += part.size();
    // Every chain is padded by zeros to whole steps of 16.
    const auto padded = [](int64_t n) { return (n + 15) / 16 * 16; };
    const int64_t most = c.rows.back(), inner = int64_t(c.parts.size()) * c.rank, depth = padded(c.depth),
                  joined = depth + int64_t(c.parts.size()) * padded(c.rank);
    const Tensor a = up(random({most, c.depth}, GetParam(), 1)),
                 down_rows = up(random({inner, c.depth}, GetParam(), 2, 0.1f));
    const Tensor sums = product(a, down_rows, {}, Dtype::kF32);
    Tensor u = gpu().empty({most, inner}, GetParam());
    MANTISSA_RUN(gpu(), unary, u, sums, Unary::kAffine, kScale, 0.0);
    const Tensor b = up(random({c.columns, c.depth}, GetParam(), 3, 0.1f)),
                 v = up(random({updated, c.rank}, GetParam(), 4, 0.1f));
    const Tensor bias = c.bias ? noise({c.columns}, GetParam(), 5) : Tensor();

    Tensor left = gpu().zeros({most, joined}, GetParam()), right = gpu().zeros({c.columns, joined}, GetParam());
    MANTISSA_RUN(gpu(), copy_columns, left, 0, a, 0, c.depth);
    MANTISSA_RUN(gpu(), copy_columns, right, 0, b, 0, c.depth);
    int64_t row = 0, column = depth, of_u = 0;
    for (const ColumnRange& part : c.parts) {
      MANTISSA_RUN(gpu(), copy_columns, left, column, u, of_u, c.rank);
      Tensor rows = right.slice(part.begin, part.end);
      MANTISSA_RUN(gpu(), copy_columns, rows, column, v.slice(row, row + part.size()), 0, c.rank);
      row += part.size();
      column += padded(c.rank);
      of_u += c.rank;
    }
    const Tensor want = product(left, right, bias);
    for (const int64_t rows : c.rows) {
      SCOPED_TRACE(str("M ", rows, " N ", c.columns, " K ", c.depth, " R ", c.rank));
      for (const int64_t first : {int64_t(0), most - rows}) {
        const Tensor inputs = a.slice(first, first + rows), own_u = u.slice(first, first + rows);
        Tensor got = poisoned({rows, c.columns}, GetParam());
        LowRankTerm given{own_u, {}, v, c.parts};
        MANTISSA_RUN(gpu(), matmul_low_rank, got, inputs, b, bias, given);
        expect_same_bits(got, want.slice(first, first + rows));
        for (int time = 0; time < 2; ++time) {  // measured, then by what was chosen
          Tensor again = poisoned({rows, c.columns}, GetParam());
          LowRankTerm made{poisoned({rows, inner}, GetParam()), down_rows, v, c.parts, kScale};
          MANTISSA_RUN(gpu(), matmul_low_rank, again, inputs, b, bias, made);
          expect_same_bits(made.u, own_u);
          expect_same_bits(again, want.slice(first, first + rows));
        }
      }
    }
  }
}

TEST_P(CudaExact, TheGradientOfAnInputIsTheProductOfTheJoinedOperands) {
  if (const std::string reason = no_chains_because(); !reason.empty()) GTEST_SKIP() << reason;
  struct Case {
    int64_t rows, columns, depth, rank;
  };
  for (const Case& c : {Case{300, 576, 960, 96}, {4096, 576, 3072, 64}, {1000, 1536, 576, 16}, {7, 136, 80, 128}}) {
    SCOPED_TRACE(str("M ", c.rows, " N ", c.columns, " K ", c.depth, " R ", c.rank));
    const int64_t joined = c.depth + c.rank;
    const Tensor left = up(random({c.rows, joined}, GetParam(), 1)),
                 right = up(random({c.columns, joined}, GetParam(), 2, 0.1f));
    const auto split = [&](int64_t begin, int64_t n) {  // columns of left, and those of right, transposed
      Tensor a = gpu().empty({c.rows, n}, GetParam()), columns = gpu().empty({c.columns, n}, GetParam());
      MANTISSA_RUN(gpu(), copy_columns, a, 0, left, begin, n);
      MANTISSA_RUN(gpu(), copy_columns, columns, 0, right, begin, n);
      const std::vector<float> from = floats(columns);
      std::vector<float> to(from.size());
      for (int64_t i = 0; i < c.columns; ++i)
        for (int64_t k = 0; k < n; ++k) to[size_t(k * c.columns + i)] = from[size_t(i * n + k)];
      Tensor wide = tensor_from<float>(cpu(), to, {n, c.columns}), b = host.empty(wide.shape(), GetParam());
      MANTISSA_RUN(host, cast, b, wide);
      return std::pair(a, up(b));
    };
    const auto [a, b] = split(0, c.depth);
    const auto [u, v] = split(c.depth, c.rank);
    Tensor got = poisoned({c.rows, c.columns}, GetParam());
    MANTISSA_RUN(gpu(), matmul_two, got, a, b, u, v);
    expect_same_bits(got, product(left, right));
  }
}

TEST_P(CudaExact, RowsOfProductsAloneAreRowsInABatch) {
  const Dtype same = Dtype::kF64;
  const ProductCase cases[] = {{960, 576, false, same, {1, 2, 7, 16, 33, 64, 100, 192, 300, 1024, 4096, 16384}},
                               {576, 1536, true, same, {1, 16, 17, 64, 128, 511, 2048}},
                               {1000, 576, false, Dtype::kF32, {1, 24, 64, 256, 1000}},
                               {1536, 8960, false, same, {1, 16, 64, 96, 192, 256, 777}},
                               {130, 72, true, same, {1, 5, 70, 400}},
                               {64, 37, false, Dtype::kF32, {1, 3, 33}},  // K odd: rows lie on two bytes
                               {31, 16, false, same, {1, 40}}};
  for (const ProductCase& c : cases) {
    const int64_t most = c.rows.back();
    const Tensor a = up(random({most, c.depth}, GetParam(), 1)),
                 b = up(random({c.columns, c.depth}, GetParam(), 2, 0.1f));
    const Tensor bias = c.bias ? noise({c.columns}, GetParam(), 3) : Tensor();
    const Tensor all = product(a, b, bias, c.out);
    for (const int64_t rows : c.rows) {
      SCOPED_TRACE(str("M ", rows, " N ", c.columns, " K ", c.depth));
      expect_same_bits(product(a.slice(0, rows), b, bias, c.out), all.slice(0, rows));
      expect_same_bits(product(a.slice(most - rows, most), b, bias, c.out), all.slice(most - rows, most));
    }
    for (const int64_t row : {int64_t(0), most / 3, most - 1})
      expect_same_bits(product(a.slice(row, row + 1), b, bias, c.out), all.slice(row, row + 1));
  }
}

/// Kernels of few rows begin while the one ahead of them still runs.
TEST_P(CudaExact, ABiasThatTheKernelAheadWritesIsSeen) {
  constexpr int kTimes = 64, kValues = 4;
  const Tensor a = noise({64, 640}, GetParam(), 1), b = noise({576, 640}, GetParam(), 2);
  std::vector<Tensor> sources, want, got;
  Tensor bias = gpu().empty({576}, GetParam());
  for (int i = 0; i < kValues; ++i) {
    sources.push_back(noise({576}, Dtype::kF32, uint64_t(10 + i), 100));
    MANTISSA_RUN(gpu(), cast, bias, sources.back());
    gpu().backend().synchronize();
    want.push_back(product(a, b, bias));
    gpu().backend().synchronize();
  }
  for (int i = 0; i < kTimes; ++i) {
    MANTISSA_RUN(gpu(), cast, bias, sources[size_t(i % kValues)]);
    got.push_back(product(a, b, bias));
  }
  for (int i = 0; i < kTimes; ++i) expect_same_bits(got[size_t(i)], want[size_t(i % kValues)]);
}

constexpr size_t kKeyWords = 14;  // of a choice's line; then the own kernel or -1, then the library's algorithm

TEST_P(CudaExact, OwnKernelsAgreeAndUnknownOnesAreReplaced) {
  const std::string head = no_choices();
  struct Case {
    int64_t rows, columns, depth;
    bool bias = false;
    Dtype out = Dtype::kF64;  // as the operands
  };
  for (const auto& [rows, columns, depth, biased, out] : {Case{70, 130, 72},
                                                          {1, 24, 1536},
                                                          {64, 1536, 8960},
                                                          {33, 50, 640},
                                                          {200, 64, 8},
                                                          {250, 500, 576},
                                                          {64, 274, 136},
                                                          {40, 275, 136, true},
                                                          {65, 131, 72, false, Dtype::kF32},
                                                          {20, 138, 264, true, Dtype::kF32}}) {
    const Tensor a = noise({rows, depth}, GetParam(), 4), b = noise({columns, depth}, GetParam(), 5);
    const Tensor bias = biased ? noise({columns}, out == Dtype::kF32 ? out : GetParam(), 6) : Tensor();
    const Tensor want = product(a, b, bias, out);
    std::vector<std::string> words = only_choice(head);
    ASSERT_EQ(words.size(), kKeyWords + 9);
    for (int kernel = 0; kernel < 14; ++kernel) {
      SCOPED_TRACE(str("M ", rows, " N ", columns, " K ", depth, " kernel ", kernel));
      words[kKeyWords] = str(kernel);
      for (size_t i = kKeyWords + 1; i < words.size(); ++i) words[i] = "0";
      const std::string forged = with_choice(head, joined(words));
      gpu().backend().restore_measured_choices(forged);
      expect_same_bits(product(a, b, bias, out), want);
      EXPECT_EQ(gpu().backend().measured_choices() == forged, kernel < 13)
          << "there are twelve kernels and the plain one";
    }
    gpu().backend().restore_measured_choices(head);
  }
}

/// A checkpoint that names an algorithm with another order of summation: it is checked, refused and replaced.
TEST_P(CudaExact, ASplitPlanFromACheckpointIsRefused) {
  const std::string head = no_choices();
  const Tensor a = noise({48, 8960}, GetParam(), 8), b = noise({1536, 8960}, GetParam(), 9);
  gpu().match = Match::kFast;
  gpu().deterministic = false;
  const Tensor fast = product(a, b);
  gpu().match = Match::kExact;
  std::vector<std::string> words = only_choice(head);
  ASSERT_EQ(words.size(), kKeyWords + 8);
  words[12] = str(std::stoll(words[12]) - 1);  // the mark of choices by time alone
  words.insert(words.begin() + kKeyWords, "-1");
  const std::string forged = with_choice(head, joined(words));
  gpu().backend().restore_measured_choices(forged);
  const Tensor exact = product(a, b);
  for (const int64_t row : {0, 20, 47}) expect_same_bits(product(a.slice(row, row + 1), b), exact.slice(row, row + 1));
  const bool differs = bits_of(fast) != bits_of(exact);
  EXPECT_EQ(gpu().backend().measured_choices().find(joined(words)) == std::string::npos, differs);
  gpu().backend().restore_measured_choices(head);
}

/// With many rows nobody waits for the check: the device computes anew what is wrong until the plan is replaced.
TEST_P(CudaExact, ASplitPlanForManyRowsIsRepairedAndReplaced) {
  const std::string head = no_choices();
  const Tensor a = noise({600, 8960}, GetParam(), 8), b = noise({1536, 8960}, GetParam(), 9);
  gpu().match = Match::kFast;
  gpu().deterministic = false;
  const Tensor fast = product(a.slice(0, 48), b);
  gpu().match = Match::kExact;
  const std::vector<std::string> split = only_choice(head);
  ASSERT_EQ(split.size(), kKeyWords + 8);
  gpu().backend().restore_measured_choices(head);
  const Tensor want = product(a, b);
  std::vector<std::string> words = only_choice(head);
  ASSERT_EQ(words.size(), kKeyWords + 9);
  words[kKeyWords] = "-1";
  std::copy(split.begin() + kKeyWords, split.end(), words.begin() + kKeyWords + 1);
  const std::string forged = with_choice(head, joined(words));
  gpu().backend().restore_measured_choices(forged);
  for (int i = 0; i < 4; ++i) {
    expect_same_bits(product(a, b), want);
    if (i == 2) gpu().backend().synchronize();
  }
  const bool differs = bits_of(fast) != bits_of(want.slice(0, 48));
  if (differs) {
    EXPECT_EQ(gpu().backend().measured_choices().find(joined(words)), std::string::npos);
  }
  gpu().backend().restore_measured_choices(head);
}

TEST_P(CudaExact, ChoicesComeBack) {
  const Tensor a = noise({64, 256}, GetParam(), 8), b = noise({320, 256}, GetParam(), 9);
  const Tensor want = product(a, b);
  const std::string text = gpu().backend().measured_choices();
  gpu().backend().restore_measured_choices(text);
  EXPECT_EQ(gpu().backend().measured_choices(), text);
  expect_same_bits(product(a, b), want);
}

TEST_P(CudaExact, DecodeIsPackedAttentionBitForBit) {
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
TEST_P(CudaExact, SoIsDecodeOfFewRowsAndOfManyWithSeveralSegments) {
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
TEST_P(CudaExact, AndOfATokenWithGuessesBehindIt) {
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
TEST_P(CudaExact, PackedAttentionDoesNotDependOnThePacking) {
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

TEST_P(CudaExact, AttentionIsNearTheCpu) {
  const Heads heads{4, 2, 32};
  const Sequences s = sequences({70, 1, 1200}, heads);
  Tensor lse, out = packed(s, heads, &lse);
  Tensor want = host.empty(out.shape(), GetParam()), want_lse = host.empty(lse.shape(), Dtype::kF32);
  MANTISSA_RUN(host, attention_fwd, want, want_lse, down(s.qkv), down(s.offsets), s.longest, heads);
  expect_close(out, want, 4 * unit_of(GetParam()), 0.25);
  expect_close(lse, want_lse, unit_of(GetParam()), 1.0);
}

TEST(CudaExactObstacle, IsNamed) {
  if (!no_cuda_because().empty()) GTEST_SKIP() << no_cuda_because();
  Backend& cuda = find_backend("cuda");
  const ExactNeeds fine{Dtype::kF16, Dtype::kF16, Dtype::kF16, 64, 9, 3};
  EXPECT_EQ(cuda.exact_obstacle(fine), "");
  const auto expect = [&](const char* part, auto change) {
    ExactNeeds needs = fine;
    change(needs);
    EXPECT_NE(cuda.exact_obstacle(needs).find(part), std::string::npos) << cuda.exact_obstacle(needs);
  };
  expect("products of fp32", [](ExactNeeds& n) { n.compute = Dtype::kF32; });
  expect("cache of bf16", [](ExactNeeds& n) { n.kv_cache = Dtype::kBF16; });
  expect("head's product of fp32", [](ExactNeeds& n) { n.lm_head = Dtype::kF32; });
  expect("not 40", [](ExactNeeds& n) { n.head_size = 40; });
  ExactNeeds adapted = fine;
  adapted.adapter = 64;
  const bool hopper =
      cuda.description().find(" H100") != std::string::npos || cuda.description().find(" H200") != std::string::npos;
  if (hopper) {
    EXPECT_EQ(cuda.exact_obstacle(adapted), "");
    expect("not of 36", [](ExactNeeds& n) { n.adapter = 36; });
  }
}

}  // namespace
}  // namespace mantissa
