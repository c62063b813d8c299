// Match::kExact on CUDA: a row of a forward product has the bits that it has alone, in any batch and with every kernel
// that may serve, and a library's algorithm that gives other bits is found out. What a device cannot do is named.
#include <algorithm>
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
