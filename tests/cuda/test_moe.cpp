// The kernels of a mixture of experts on CUDA: routes, groups and combinations are those of the CPU; a grouped row has
// the bits of an exact product of its expert alone, whatever rows there are beside it.
#include <algorithm>
#include <numeric>

#include "core/registry.h"
#include "tests/support/cuda_pair.h"

namespace mantissa {
namespace {

constexpr Dtype kTypes[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};

class CudaMoe : public CudaFixture<testing::Test> {
 protected:
  Tensor logits(int64_t rows, int64_t count, bool ties) {
    const Tensor t = random({rows, count}, Dtype::kF32, 1);
    if (ties)
      for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = std::round(t.data<float>()[i]);
    return t;
  }
  /// Slots of rows whose experts are drawn among `among`.
  Tensor choices(int64_t rows, int64_t slots, const std::vector<int32_t>& among) {
    RandomStream random(1, 9);
    std::vector<int32_t> values;
    for (int64_t i = 0; i < rows * slots; ++i) values.push_back(among[random.below(uint32_t(among.size()))]);
    return ints(values, {rows, slots});
  }
};

TEST_F(CudaMoe, RoutesAreThoseOfTheCpu) {
  struct Case {
    int64_t rows, count, slots;
  };
  for (const Case& c : {Case{1, 1, 1}, {1, 5, 5}, {33, 8, 2}, {257, 128, 8}, {70, 300, 3}, {9, 1024, 40}})
    for (const bool ties : {false, true})
      for (const bool normalise : {true, false}) {
        SCOPED_TRACE(str("T ", c.rows, " E ", c.count, " K ", c.slots, ties ? " ties" : ""));
        const Tensor z = logits(c.rows, c.count, ties), dw = random({c.rows, c.slots}, Dtype::kF32, 2);
        Tensor weights = host.empty(dw.shape(), Dtype::kF32), experts = host.empty(dw.shape(), Dtype::kI32);
        Tensor w = poisoned(dw.shape(), Dtype::kF32), e = poisoned(dw.shape(), Dtype::kI32);
        MANTISSA_RUN(host, route, weights, experts, z, normalise);
        MANTISSA_RUN(gpu(), route, w, e, up(z), normalise);
        expect_same_bits(e, experts);
        expect_close(w, weights, 1e-5, 0);
        Tensor dz = host.empty(z.shape(), Dtype::kF32), got = poisoned(z.shape(), Dtype::kF32);
        MANTISSA_RUN(host, route_bwd, dz, dw, z, weights, experts, normalise);
        MANTISSA_RUN(gpu(), route_bwd, got, up(dw), up(z), up(weights), e, normalise);
        expect_close(got, dz, 1e-5, 1.0);
      }
}

TEST_F(CudaMoe, GivenRoutesAreThoseOfTheCpu) {
  struct Case {
    int64_t rows, count, slots;
  };
  for (const Case& c : {Case{1, 1, 1}, {33, 8, 2}, {257, 128, 8}, {70, 255, 3}})
    for (const bool normalise : {true, false}) {
      SCOPED_TRACE(str("T ", c.rows, " E ", c.count, " K ", c.slots, " normalise ", normalise));
      const Tensor z = logits(c.rows, c.count, false);
      const Shape shape{c.rows, c.slots};
      Tensor own_weights = poisoned(shape, Dtype::kF32), own = poisoned(shape, Dtype::kI32);
      MANTISSA_RUN(gpu(), route, own_weights, own, up(z), normalise);
      const std::vector<int32_t> chosen = to_host<int32_t>(own);

      // Its own experts in their order have its own bits; with one of three rows moved on by one expert they do not.
      std::vector<uint8_t> bytes(chosen.begin(), chosen.end());
      Tensor w = poisoned(shape, Dtype::kF32), e = poisoned(shape, Dtype::kI32), same = poisoned({c.rows}, Dtype::kI32);
      MANTISSA_RUN(gpu(), route_given, w, e, up(z), tensor_from<uint8_t>(gpu().backend(), bytes, shape), normalise);
      expect_same_bits(w, own_weights);
      expect_same_bits(e, own);

      for (int64_t t = 0; t < c.rows; t += 3)
        for (int64_t j = 0; j < c.slots; ++j) {
          uint8_t& byte = bytes[size_t(t * c.slots + j)];
          byte = uint8_t((byte + 1) % c.count);
        }
      for (int64_t t = 2; t < c.rows; t += 6) bytes[size_t(t * c.slots)] = kNotGiven;
      for (int64_t t = 1; t < c.rows; t += 3)  // the same set all the same
        std::reverse(bytes.begin() + t * c.slots, bytes.begin() + (t + 1) * c.slots);
      const Tensor given = tensor_from<uint8_t>(cpu(), bytes, shape),
                   given_there = tensor_from<uint8_t>(gpu().backend(), bytes, shape);
      Tensor want_w = tensor_from<float>(cpu(), to_host<float>(own_weights), shape),
             want_e = tensor_from<int32_t>(cpu(), chosen, shape), want_same = host.empty({c.rows}, Dtype::kI32);
      MANTISSA_RUN(host, route_given, want_w, want_e, z, given, normalise);
      MANTISSA_RUN(gpu(), route_given, w, e, up(z), given_there, normalise);
      expect_same_bits(e, want_e);
      expect_close(w, want_w, 1e-5, 0);
      const Tensor own_here = tensor_from<int32_t>(cpu(), chosen, shape);
      MANTISSA_RUN(host, same_routes, want_same, own_here, given);
      MANTISSA_RUN(gpu(), same_routes, same, own, given_there);
      expect_same_bits(same, want_same);
      EXPECT_EQ(to_host<int32_t>(same)[0], c.count == 1);
    }
}

TEST_F(CudaMoe, ARowThatIsNotFiniteStillGoesSomewhere) {
  const std::vector<float> bad = {NAN, 1, NAN, 7, /**/ NAN, NAN, NAN, NAN, /**/ -INFINITY, INFINITY, NAN, -INFINITY};
  Tensor weights = poisoned({3, 3}, Dtype::kF32), experts = poisoned({3, 3}, Dtype::kI32);
  MANTISSA_RUN(gpu(), route, weights, experts, up(tensor_from<float>(cpu(), bad, {3, 4})), true);
  const std::vector<int32_t> chosen = to_host<int32_t>(experts);
  for (size_t row = 0; row < 3; ++row) {
    std::vector<int32_t> own(chosen.begin() + row * 3, chosen.begin() + row * 3 + 3);
    std::sort(own.begin(), own.end());
    EXPECT_EQ(std::adjacent_find(own.begin(), own.end()), own.end()) << row;
    EXPECT_GE(own.front(), 0);
    EXPECT_LT(own.back(), 4);
  }
}

TEST_F(CudaMoe, GroupsAreThoseOfTheCpu) {
  struct Case {
    int64_t rows, slots, count;
    std::vector<int32_t> among;
  };
  std::vector<int32_t> all(1024);
  std::iota(all.begin(), all.end(), 0);
  const auto first = [&](int n) { return std::vector<int32_t>(all.begin(), all.begin() + n); };
  for (const Case& c : {Case{1, 1, 1, {0}},
                        {1, 3, 128, {5, 127}},
                        {300, 1, 7, {3}},
                        {257, 2, 40, first(40)},
                        {5000, 8, 128, first(128)},
                        {4000, 4, 128, {0, 0, 0, 0, 1, 2, 77}},
                        {900, 3, 1024, all}}) {
    SCOPED_TRACE(str("T ", c.rows, " K ", c.slots, " E ", c.count));
    const Tensor experts = choices(c.rows, c.slots, c.among);
    const int64_t grouped = c.rows * c.slots;
    Tensor want[] = {host.empty({c.count + 1}, Dtype::kI32), host.empty({grouped}, Dtype::kI32),
                     host.empty(experts.shape(), Dtype::kI32)};
    Tensor got[] = {poisoned({c.count + 1}, Dtype::kI32), poisoned({grouped}, Dtype::kI32),
                    poisoned(experts.shape(), Dtype::kI32)};
    MANTISSA_RUN(host, group_rows, want[0], want[1], want[2], experts);
    MANTISSA_RUN(gpu(), group_rows, got[0], got[1], got[2], up(experts));
    for (int i = 0; i < 3; ++i) expect_same_bits(got[i], want[i]);
  }
}

TEST_F(CudaMoe, CombinationsAreThoseOfTheCpu) {
  for (const auto& [rows, slots, width] : {std::array<int64_t, 3>{1, 1, 1}, {1, 8, 2048}, {37, 3, 33}, {200, 8, 264}})
    for (const Dtype dtype : kTypes) {
      SCOPED_TRACE(str("T ", rows, " K ", slots, " C ", width, " ", name_of(dtype)));
      std::vector<int32_t> shuffled(size_t(rows * slots));
      std::iota(shuffled.begin(), shuffled.end(), 0);
      RandomStream random_order(1, 5);
      for (size_t i = shuffled.size(); i > 1; --i)
        std::swap(shuffled[i - 1], shuffled[random_order.below(uint32_t(i))]);
      const Tensor at = ints(shuffled, {rows, slots}), in = random({rows * slots, width}, dtype, 1),
                   weights = random({rows, slots}, Dtype::kF32, 2), dout = random({rows, width}, dtype, 3);
      for (const bool weighted : {true, false}) {
        const Tensor w = weighted ? weights : Tensor();
        Tensor want = host.empty({rows, width}, dtype), got = poisoned({rows, width}, dtype);
        MANTISSA_RUN(host, combine_rows, want, in, w, at);
        MANTISSA_RUN(gpu(), combine_rows, got, up(in), weighted ? up(w) : w, up(at));
        expect_same_bits(got, want);
      }
      Tensor din = host.empty(in.shape(), dtype), dw = host.empty(weights.shape(), Dtype::kF32);
      Tensor got = poisoned(in.shape(), dtype), got_dw = poisoned(weights.shape(), Dtype::kF32);
      MANTISSA_RUN(host, combine_rows_bwd, din, dw, dout, in, weights, at);
      MANTISSA_RUN(gpu(), combine_rows_bwd, got, got_dw, up(dout), up(in), up(weights), up(at));
      expect_same_bits(got, din);
      expect_close(got_dw, dw, 1e-5, std::sqrt(double(width)));
    }
}

/// Rows of each expert: none, one, around a tile, all in one, many experts of few.
struct GroupedCase {
  int64_t n, k;
  std::vector<int32_t> counts;
};
std::vector<int32_t> few_each(int experts, int most) {
  std::vector<int32_t> counts;
  for (int e = 0; e < experts; ++e) counts.push_back((e * 7 + 3) % (most + 1));
  return counts;
}
const std::vector<GroupedCase>& grouped_cases() {
  static const std::vector<GroupedCase> cases = {
      {48, 40, {0, 3, 0, 1, 17, 0}},             // few rows an expert
      {264, 80, few_each(70, 12)},               // more experts than a warp has lanes
      {136, 200, few_each(40, 28)},              //
      {1536, 144, few_each(36, 70)},             //
      {264, 136, {0, 128, 129, 0, 1, 300, 63}},  // many
      {72, 520, {400, 64, 192}},                 //
      {256, 64, {0, 0, 900, 0}},                 // all in one
      {520, 520, few_each(64, 140)},             // more tiles than a GPU has multiprocessors
      {24, 16, {1}},                             // one row
      {7, 37, {5, 0, 70, 1}},                    // no bulk copies
  };
  return cases;
}

class CudaGrouped : public CudaMoe {
 protected:
  struct Problem {
    Tensor x, w, dy, offsets;  // on the host
    std::vector<int32_t> bounds;
  };
  Problem problem(const GroupedCase& c, Dtype dtype) {
    Problem p;
    p.bounds = {0};
    for (const int32_t n : c.counts) p.bounds.push_back(p.bounds.back() + n);
    const int64_t rows = p.bounds.back(), experts = int64_t(c.counts.size());
    p.x = random({rows, c.k}, dtype, 1);
    p.w = random({experts * c.n, c.k}, dtype, 2, 0.1f);
    p.dy = random({rows, c.n}, dtype, 3);
    p.offsets = ints(p.bounds);
    return p;
  }
  Tensor grouped(const Tensor& a, const Tensor& b, const Tensor& offsets, Trans trans, const Shape& shape,
                 const Tensor& start = {}) {
    Tensor c = start.defined() ? start : poisoned(shape, a.dtype());
    MANTISSA_RUN(gpu(), grouped_matmul, c, a, b, offsets, trans, start.defined());
    return c;
  }
};

TEST_F(CudaGrouped, ProductsAndGradientsAreNearTheCpu) {
  for (const GroupedCase& c : grouped_cases())
    for (const Dtype dtype : kTypes)
      for (const Match match : {Match::kExact, Match::kPeer}) {
        if (match == Match::kPeer && dtype != Dtype::kF16) continue;  // the CPU's side of it takes long
        SCOPED_TRACE(str("n ", c.n, " k ", c.k, " E ", c.counts.size(), " ", name_of(dtype), " match ", int(match)));
        host.match = gpu().match = match;
        const Problem p = problem(c, dtype);
        const int64_t longest = *std::max_element(c.counts.begin(), c.counts.end());
        const double unit = 2.1 * unit_of(dtype);
        const auto floor = [&](int64_t terms, double size, double bound) {
          return 3e-6 * (1.0 + double(terms) / 8) * size / bound;
        };
        Tensor y = host.empty(p.dy.shape(), dtype), dx = host.empty(p.x.shape(), dtype);
        MANTISSA_RUN(host, grouped_matmul, y, p.x, p.w, p.offsets, Trans::kNT, false);
        MANTISSA_RUN(host, grouped_matmul, dx, p.dy, p.w, p.offsets, Trans::kNN, false);
        Tensor dw = random(p.w.shape(), Dtype::kF32, 4);
        const Tensor start = up(dw);
        MANTISSA_RUN(host, grouped_matmul, dw, p.dy, p.x, p.offsets, Trans::kTN, true);
        const Tensor x = up(p.x), w = up(p.w), dy = up(p.dy), offsets = up(p.offsets);
        expect_close(grouped(x, w, offsets, Trans::kNT, y.shape()), y, unit, floor(c.k, 0.1, unit));
        expect_close(grouped(dy, w, offsets, Trans::kNN, dx.shape()), dx, unit, floor(c.n, 0.1, unit));
        expect_close(grouped(dy, x, offsets, Trans::kTN, dw.shape(), start), dw, 1e-5, floor(longest, 1, 1e-5));
        if (HasFailure()) return;
      }
}

TEST_F(CudaGrouped, RowsHaveTheBitsOfTheirExpertAlone) {
  for (const GroupedCase& c : grouped_cases())
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
      SCOPED_TRACE(str("n ", c.n, " k ", c.k, " E ", c.counts.size(), " ", name_of(dtype)));
      const Problem p = problem(c, dtype);
      const Tensor x = up(p.x), w = up(p.w), y = grouped(x, w, up(p.offsets), Trans::kNT, p.dy.shape());
      for (size_t e = 0; e < c.counts.size(); ++e) {
        const int64_t begin = p.bounds[e], end = p.bounds[e + 1];
        if (begin == end) continue;
        const Tensor weight = w.slice(int64_t(e) * c.n, int64_t(e + 1) * c.n);
        const auto alone = [&](int64_t from, int64_t to) {
          Tensor rows = poisoned({to - from, c.n}, dtype);
          MANTISSA_RUN(gpu(), matmul, rows, x.slice(from, to), weight, Trans::kNT, false);
          return rows;
        };
        expect_same_bits(y.slice(begin, end), alone(begin, end));
        expect_same_bits(y.slice(end - 1, end), alone(end - 1, end));
        if (HasFailure()) return;
      }
    }
}

/// A weight that is not a number, an expert whose rows are not: no other expert sees them.
TEST_F(CudaGrouped, ExpertsDoNotSeeEachOther) {
  for (const GroupedCase& c : {GroupedCase{136, 200, {70, 5, 90}}, {136, 200, {7, 5, 9}}, {72, 104, {130, 5, 250}}})
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
      SCOPED_TRACE(str("n ", c.n, " k ", c.k, " ", name_of(dtype)));
      const Problem p = problem(c, dtype);
      const auto spoilt = [&](const Tensor& t, int64_t begin, int64_t end) {
        Tensor copy = up(t), part = copy.slice(begin, end);
        MANTISSA_RUN(gpu(), fill, part, double(NAN));
        return copy;
      };
      const Tensor x = spoilt(p.x, p.bounds[1], p.bounds[2]), dy = spoilt(p.dy, p.bounds[1], p.bounds[2]),
                   w = spoilt(p.w, c.n, 2 * c.n), offsets = up(p.offsets);
      const auto expect_others_finite = [&](const Tensor& t, int64_t begin, int64_t end) {
        const std::vector<float> values = floats(t);
        for (int64_t i = 0; i < t.numel(); ++i) {
          const int64_t row = i / t.size(1);
          ASSERT_EQ(std::isfinite(values[size_t(i)]), row < begin || row >= end) << "row " << row;
        }
      };
      expect_others_finite(grouped(x, w, offsets, Trans::kNT, p.dy.shape()), p.bounds[1], p.bounds[2]);
      expect_others_finite(grouped(dy, w, offsets, Trans::kNN, p.x.shape()), p.bounds[1], p.bounds[2]);
      expect_others_finite(grouped(dy, x, offsets, Trans::kTN, p.w.shape(), gpu().zeros(p.w.shape(), Dtype::kF32)), c.n,
                           2 * c.n);
    }
}

/// Small whole numbers, whose sums have no rounding: every row counts once, for its own expert, and is added to what
/// was there.
TEST_F(CudaGrouped, GradientsOfWeightsAreExactSums) {
  const auto whole = [&](const Shape& shape, Dtype dtype, uint64_t purpose) {
    RandomStream stream(1, purpose);
    std::vector<float> values(size_t(shape.numel()));
    for (float& v : values) v = float(stream.below(7)) - 3.0f;
    const Tensor wide = tensor_from<float>(cpu(), values, shape);
    Tensor out = host.empty(shape, dtype);
    MANTISSA_RUN(host, cast, out, wide);
    return out;
  };
  std::vector<int32_t> last_of_many(70, 0);
  last_of_many.back() = 130;
  for (const GroupedCase& c : {GroupedCase{264, 520, {1, 0, 63, 64, 65, 200, 0, 128, 15, 16, 17}},
                               {136, 264, {0, 900, 0, 0}},
                               {128, 256, {320}},
                               {384, 768, {129, 1, 1, 1, 191}},
                               {8, 8, {1, 2, 0, 3}},
                               {72, 136, last_of_many},
                               {264, 80, few_each(70, 12)}})
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
      SCOPED_TRACE(str("n ", c.n, " k ", c.k, " E ", c.counts.size(), " ", name_of(dtype)));
      std::vector<int32_t> bounds = {0};
      for (const int32_t n : c.counts) bounds.push_back(bounds.back() + n);
      const Tensor offsets = ints(bounds), x = whole({bounds.back(), c.k}, dtype, 1),
                   dy = whole({bounds.back(), c.n}, dtype, 2);
      Tensor dw = whole({int64_t(c.counts.size()) * c.n, c.k}, Dtype::kF32, 3);
      const Tensor start = up(dw);
      MANTISSA_RUN(host, grouped_matmul, dw, dy, x, offsets, Trans::kTN, true);
      const std::vector<float> got = floats(grouped(up(dy), up(x), up(offsets), Trans::kTN, dw.shape(), start)),
                               want = floats(dw);
      const auto differs = std::mismatch(got.begin(), got.end(), want.begin());
      if (differs.first == got.end()) continue;
      const int64_t at = differs.first - got.begin(), row = at / c.k;
      ADD_FAILURE() << "expert " << row / c.n << " of " << c.counts[size_t(row / c.n)] << " rows, row " << row % c.n
                    << ", column " << at % c.k << ": " << *differs.first << ", expected " << *differs.second;
    }
}

/// Experts without rows among them, and no rows at all.
TEST_F(CudaGrouped, WrittenGradientsHaveTheBitsOfThoseAddedToZeros) {
  std::vector<GroupedCase> cases = grouped_cases();
  cases.push_back({136, 200, {0, 0, 0}});
  for (const GroupedCase& c : cases)
    for (const Dtype dtype : kTypes)
      for (const Match match : {Match::kExact, Match::kPeer}) {
        SCOPED_TRACE(str("n ", c.n, " k ", c.k, " E ", c.counts.size(), " ", name_of(dtype), " match ", int(match)));
        gpu().match = match;
        const Problem p = problem(c, dtype);
        const Tensor x = up(p.x), dy = up(p.dy), offsets = up(p.offsets);
        const Tensor added = grouped(dy, x, offsets, Trans::kTN, p.w.shape(), gpu().zeros(p.w.shape(), Dtype::kF32));
        Tensor written = poisoned(p.w.shape(), Dtype::kF32);
        MANTISSA_RUN(gpu(), grouped_matmul, written, dy, x, offsets, Trans::kTN, false);
        expect_same_bits(written, added);
        if (HasFailure()) return;
      }
}

TEST_F(CudaGrouped, RepeatsItsBitsAndIsRecorded) {
  const GroupedCase c{136, 200, few_each(40, 28)};
  const Problem p = problem(c, Dtype::kF16);
  const Tensor x = up(p.x), w = up(p.w), dy = up(p.dy), offsets = up(p.offsets);
  const Tensor y = grouped(x, w, offsets, Trans::kNT, p.dy.shape());
  const auto sums = [&] {
    return grouped(dy, x, offsets, Trans::kTN, p.w.shape(), gpu().zeros(p.w.shape(), Dtype::kF32));
  };
  expect_same_bits(sums(), sums());

  Tensor experts = up(choices(100, 2, {0, 1, 2, 39})), bounds = gpu().empty({41}, Dtype::kI32),
         tokens = gpu().empty({200}, Dtype::kI32), rows = gpu().empty({100, 2}, Dtype::kI32),
         inputs = up(random({100, c.k}, Dtype::kF16, 7)), gathered = gpu().empty({200, c.k}, Dtype::kF16),
         out = gpu().empty({200, c.n}, Dtype::kF16), combined = gpu().empty({100, c.n}, Dtype::kF16);
  const auto body = [&] {
    MANTISSA_RUN(gpu(), group_rows, bounds, tokens, rows, experts);
    MANTISSA_RUN(gpu(), gather_rows, gathered, inputs, tokens);
    MANTISSA_RUN(gpu(), grouped_matmul, out, gathered, w, bounds, Trans::kNT, false);
    MANTISSA_RUN(gpu(), combine_rows, combined, out, Tensor(), rows);
  };
  body();
  const std::unique_ptr<Graph> graph = gpu().backend().capture(gpu(), body);
  // Other experts than those it was recorded with.
  const Tensor other = choices(100, 2, {5, 6, 7, 8, 9, 38});
  gpu().backend().copy_from_host(experts.raw(), other.raw(), other.bytes());
  graph->replay();
  const auto replayed = bits_of(combined);
  body();
  EXPECT_EQ(bits_of(combined), replayed);
}

}  // namespace
}  // namespace mantissa
