// The ops of a mixture of experts: gradients against differences in fp64, routes by hand, rows alone, experts without
// rows.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "autograd/nonfinite.h"
#include "core/random.h"
#include "core/registry.h"
#include "core/safetensors.h"
#include "nn/moe.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/simd_levels.h"

namespace mantissa {
namespace {

using Ints = std::vector<int32_t>;

constexpr int64_t kWidth = 40, kExperts = 5, kInner = 24;

std::vector<double> normal(int64_t count, uint64_t purpose) {
  RandomStream random(11, purpose);
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(random.normal());
  return values;
}

Tensor tensor_of(const std::vector<double>& values, Shape shape, Dtype dtype, Backend& backend = cpu()) {
  Tensor t(cpu(), shape, dtype);
  if (dtype == Dtype::kF64) {
    std::copy(values.begin(), values.end(), t.data<double>());
  } else {
    const std::vector<float> narrow(values.begin(), values.end());
    convert_floats(narrow.data(), Dtype::kF32, t.raw(), dtype, t.numel());
  }
  if (&backend == &cpu()) return t;
  Tensor there(backend, shape, dtype);
  backend.copy_from_host(there.raw(), t.raw(), t.bytes());
  return there;
}

/// x, router, gate_up, down of a mixture, in fp64.
struct Inputs {
  int64_t rows;
  std::vector<std::vector<double>> values;
  std::vector<Shape> shapes;

  explicit Inputs(int64_t rows) : rows(rows) {
    shapes = {{rows, kWidth}, {kExperts, kWidth}, {kExperts * 2 * kInner, kWidth}, {kExperts * kWidth, kInner}};
    for (size_t i = 0; i < shapes.size(); ++i) {
      values.push_back(normal(shapes[i].numel(), i));
      if (i > 0)
        for (double& v : values.back()) v *= 0.3;
    }
  }
};

struct Result {
  Tensor out;
  std::vector<Tensor> grads;
};

ExpertsConfig experts(int64_t per_token, bool normalise) {
  ExpertsConfig x;
  x.count = kExperts;
  x.per_token = per_token;
  x.feed_forward = kInner;
  x.normalise = normalise;
  return x;
}

/// Forward and the gradients of a weighted sum of the outputs (weights: cosines of the element's number).
Result run(const Inputs& in, const ExpertsConfig& config, Dtype dtype, Recompute recompute = Recompute::kNone,
           Backend& backend = cpu(), const ops::RouteExchange& other = {}) {
  Exec exec(backend);
  Tape tape(exec, true, recompute);
  std::vector<Var> v;
  for (size_t i = 0; i < in.values.size(); ++i)
    v.push_back(tape.leaf(tensor_of(in.values[i], in.shapes[i], dtype, backend)));
  const Var out = mixture(tape, v[0], v[1], v[2], v[3], config, nullptr, single_comm(), other);
  std::vector<double> weights;
  for (int64_t i = 0; i < out.value().numel(); ++i) weights.push_back(std::cos(double(i)));
  const Tensor dout = tensor_of(weights, out.shape(), dtype, backend);
  tape.backward(std::span(&out, 1), std::span(&dout, 1));
  Result result{out.value(), {}};
  for (const Var& leaf : v) result.grads.push_back(leaf.grad());
  return result;
}

double objective(const Inputs& in, const ExpertsConfig& config, const ops::RouteExchange& other = {}) {
  Exec exec(cpu());
  Tape tape(exec, false);
  std::vector<Var> v;
  for (size_t i = 0; i < in.values.size(); ++i) v.push_back(Var(tensor_of(in.values[i], in.shapes[i], Dtype::kF64)));
  const std::vector<double> y =
      to_host<double>(mixture(tape, v[0], v[1], v[2], v[3], config, nullptr, single_comm(), other).value());
  double total = 0;
  for (size_t i = 0; i < y.size(); ++i) total += y[i] * std::cos(double(i));
  return total;
}

/// The same on each backend.
class MixtureOn : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!on_cpu() && !no_cuda_because().empty()) GTEST_SKIP() << no_cuda_because();
  }
  bool on_cpu() const { return std::string(GetParam()) == "cpu"; }
  Backend& backend() const { return find_backend(GetParam()); }
  Result run(const Inputs& in, const ExpertsConfig& config, Dtype dtype, Recompute recompute = Recompute::kNone) const {
    return mantissa::run(in, config, dtype, recompute, backend());
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, MixtureOn, testing::Values("cpu"), [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cuda, MixtureOn, testing::Values("cuda"), [](const auto& info) { return info.param; });

void expect_gradients_to_be_differences(const Inputs& in, const ExpertsConfig& config,
                                        const ops::RouteExchange& other) {
  const Result got = run(in, config, Dtype::kF64, Recompute::kNone, cpu(), other);
  for (size_t i = 0; i < in.values.size(); ++i) {
    const std::vector<double> direction = normal(in.shapes[i].numel(), 100 + i);
    const std::vector<double> grad = to_host<double>(got.grads[i]);
    double slope = 0;
    for (size_t j = 0; j < grad.size(); ++j) slope += grad[j] * direction[j];
    constexpr double kStep = 1e-6;
    Inputs up = in, down = in;
    for (size_t j = 0; j < grad.size(); ++j) {
      up.values[i][j] += kStep * direction[j];
      down.values[i][j] -= kStep * direction[j];
    }
    const double difference = (objective(up, config, other) - objective(down, config, other)) / (2 * kStep);
    EXPECT_NEAR(slope, difference, 1e-6 * std::max(1.0, std::abs(difference)))
        << "input " << i << ", " << config.per_token << " slots, normalise " << config.normalise;
  }
}

TEST(Mixture, GradientsAreDifferencesInFp64) {
  for (const bool normalise : {true, false})
    for (const int64_t slots : {int64_t(1), int64_t(3), kExperts})
      expect_gradients_to_be_differences(Inputs(7), experts(slots, normalise), {});
}

/// Of T rows: `first`, `first` + 1, ... modulo the experts, another first for each row.
Tensor given_experts(int64_t rows, int64_t slots, Backend& backend = cpu()) {
  std::vector<uint8_t> values;
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t j = 0; j < slots; ++j) values.push_back(uint8_t((3 * t + j) % kExperts));
  return tensor_from<uint8_t>(backend, values, {rows, slots});
}

TEST(Mixture, SoAreTheyWithGivenExperts) {
  for (const bool normalise : {true, false})
    for (const int64_t slots : {int64_t(1), int64_t(3)})
      expect_gradients_to_be_differences(Inputs(7), experts(slots, normalise),
                                         {.given = given_experts(7, slots), .replay = true});
}

/// What a forward chose, given to another, changes no bit; in another order it is the same set all the same.
TEST_P(MixtureOn, ItsOwnExpertsChangeNothing) {
  constexpr int64_t kRows = 21, kSlots = 3;
  const Inputs in(kRows);
  for (const bool normalise : {true, false}) {
    Exec exec(backend());
    ops::RouteExchange first{.chosen = exec.empty({kRows, kSlots}, Dtype::kI32)};
    const auto with = [&](const ops::RouteExchange& other, Recompute tier = Recompute::kNone) {
      return mantissa::run(in, experts(kSlots, normalise), Dtype::kF16, tier, backend(), other);
    };
    const Result free = with(first);
    const std::vector<int32_t> chosen = to_host<int32_t>(first.chosen);
    std::vector<uint8_t> bytes(chosen.begin(), chosen.end());
    ops::RouteExchange again{.given = tensor_from<uint8_t>(backend(), bytes, {kRows, kSlots}),
                             .replay = true,
                             .same = exec.empty({kRows}, Dtype::kI32)};
    for (const Recompute tier : {Recompute::kNone, Recompute::kMlp}) {
      const Result replayed = with(again, tier);
      EXPECT_EQ(to_host_float(replayed.out), to_host_float(free.out));
      for (size_t i = 0; i < free.grads.size(); ++i)
        EXPECT_EQ(to_host_float(replayed.grads[i]), to_host_float(free.grads[i])) << i;
      EXPECT_EQ(to_host<int32_t>(again.same), Ints(kRows, 1));
    }

    for (int64_t t = 0; t < kRows; ++t) std::reverse(bytes.begin() + t * kSlots, bytes.begin() + (t + 1) * kSlots);
    again.given = tensor_from<uint8_t>(backend(), bytes, {kRows, kSlots});
    with(again);
    EXPECT_EQ(to_host<int32_t>(again.same), Ints(kRows, 1));

    again.given = given_experts(kRows, kSlots, backend());
    EXPECT_NE(to_host_float(with(again).out), to_host_float(free.out));
    Ints same;
    for (int64_t t = 0; t < kRows; ++t) {
      std::vector<int32_t> own(chosen.begin() + t * kSlots, chosen.begin() + (t + 1) * kSlots), other;
      for (int64_t j = 0; j < kSlots; ++j) other.push_back(int32_t((3 * t + j) % kExperts));
      same.push_back(std::is_permutation(own.begin(), own.end(), other.begin()));
    }
    EXPECT_EQ(to_host<int32_t>(again.same), same);
    EXPECT_EQ(std::count(same.begin(), same.end(), 1) > 0 && std::count(same.begin(), same.end(), 0) > 0, true);

    again.replay = false;
    EXPECT_EQ(to_host_float(with(again).out), to_host_float(free.out)) << "compared, not taken";
    EXPECT_EQ(to_host<int32_t>(again.same), same);

    again.replay = true;
    again.given = tensor_from<uint8_t>(backend(), std::vector<uint8_t>(kRows * kSlots, kNotGiven), {kRows, kSlots});
    EXPECT_EQ(to_host_float(with(again).out), to_host_float(free.out)) << "none are given";
  }
}

TEST_P(MixtureOn, NarrowTypesAgreeWithFp64) {
  const ExpertsConfig config = experts(2, true);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    Inputs in(33);
    for (size_t i = 0; i < in.values.size(); ++i) {  // what a run in `dtype` sees
      const std::vector<float> rounded = to_host_float(tensor_of(in.values[i], in.shapes[i], dtype));
      in.values[i].assign(rounded.begin(), rounded.end());
    }
    const Result want = mantissa::run(in, config, Dtype::kF64), got = run(in, config, dtype);
    const double unit = dtype == Dtype::kF32 ? 0x1p-24 : dtype == Dtype::kF16 ? 0x1p-11 : 0x1p-8;
    const auto close = [&](const Tensor& a, const Tensor& b, const char* what) {
      const std::vector<float> x = to_host_float(a);
      const std::vector<double> y = to_host<double>(b);
      double largest = 0, error = 0;
      for (size_t i = 0; i < y.size(); ++i) {
        largest = std::max(largest, std::abs(y[i]));
        error = std::max(error, std::abs(x[i] - y[i]));
      }
      EXPECT_LE(error, (dtype == Dtype::kF32 ? 64 : 6) * unit * largest) << name_of(dtype) << " " << what;
    };
    close(got.out, want.out, "output");
    for (size_t i = 0; i < 4; ++i) close(got.grads[i], want.grads[i], str("gradient ", i).c_str());
  }
}

TEST_P(MixtureOn, ARowAloneHasTheBitsItHasInABatch) {
  const ExpertsConfig config = experts(3, true);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    if (dtype == Dtype::kF32 && !on_cpu()) continue;  // the library's sums of the router depend on the batch
    const Inputs in(50);
    const Result batch = run(in, config, dtype);
    for (const int64_t row : {0, 17, 49}) {
      Inputs alone(1);
      alone.values = in.values;
      alone.values[0].assign(in.values[0].begin() + row * kWidth, in.values[0].begin() + (row + 1) * kWidth);
      EXPECT_EQ(to_host_float(run(alone, config, dtype).out), to_host_float(batch.out.slice(row, row + 1)))
          << name_of(dtype) << " row " << row;
    }
  }
}

TEST(Mixture, ThreadsAndInstructionSetsDoNotReachTheBits) {
  const Inputs in(70);
  const int before = omp_get_max_threads();
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    std::vector<std::vector<float>> first;
    for (const char* level : SimdLevels()) {
      limit_simd(level);
      for (const int threads : {1, 3}) {
        omp_set_num_threads(threads);
        const Result got = run(in, experts(2, false), dtype);
        std::vector<std::vector<float>> all{to_host_float(got.out)};
        for (const Tensor& grad : got.grads) all.push_back(to_host_float(grad));
        if (first.empty()) first = all;
        EXPECT_EQ(all, first) << level << ", " << threads << " threads, " << name_of(dtype);
      }
    }
    omp_set_num_threads(before);
  }
}

TEST_P(MixtureOn, RecomputeTiersGiveTheSameBits) {
  const Inputs in(9);
  const Result keep = run(in, experts(2, false), Dtype::kF16);
  for (const Recompute tier : {Recompute::kElementwise, Recompute::kMlp}) {
    const Result again = run(in, experts(2, false), Dtype::kF16, tier);
    for (size_t i = 0; i < keep.grads.size(); ++i)
      EXPECT_EQ(to_host_float(keep.grads[i]), to_host_float(again.grads[i])) << int(tier) << " " << i;
  }
}

struct Routed {
  std::vector<int32_t> experts, offsets, tokens, rows;
  std::vector<float> weights;
};

/// route() on logits given as they are: x is the identity's rows times the router's columns.
Routed route(const std::vector<float>& logits, int64_t count, int64_t slots, bool normalise) {
  const int64_t rows = int64_t(logits.size()) / count;
  Exec exec(cpu());
  Tape tape(exec, false);
  std::vector<float> x(size_t(rows * rows), 0.0f), w(size_t(count * rows));
  for (int64_t t = 0; t < rows; ++t) {
    x[size_t(t * rows + t)] = 1;
    for (int64_t e = 0; e < count; ++e) w[size_t(e * rows + t)] = logits[size_t(t * count + e)];
  }
  const ops::Routing r = ops::route(tape, Var(tensor_from<float>(cpu(), x, {rows, rows})),
                                    Var(tensor_from<float>(cpu(), w, {count, rows})), slots, normalise);
  return {to_host<int32_t>(r.routes.experts), to_host<int32_t>(r.routes.offsets), to_host<int32_t>(r.routes.tokens),
          to_host<int32_t>(r.routes.rows), to_host<float>(r.weights.value())};
}

TEST(Route, TheLargestFirstAndOfEqualsTheLowerIndex) {
  const Routed r = route({1, 3, 3, 0, /**/ 2, 2, 2, 2, /**/ -1, 0, 5, 5}, 4, 2, true);
  EXPECT_EQ(r.experts, (Ints{1, 2, /**/ 0, 1, /**/ 2, 3}));
  EXPECT_EQ(r.offsets, (Ints{0, 1, 3, 5, 6}));
  EXPECT_EQ(r.tokens, (Ints{1, /**/ 0, 1, /**/ 0, 2, /**/ 2}));
  EXPECT_EQ(r.rows, (Ints{1, 3, /**/ 0, 2, /**/ 4, 5}));
  EXPECT_EQ(r.weights, (std::vector<float>{0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f}));
}

TEST(Route, WeightsAreTheSoftmaxOverAllExpertsUnlessNormalised) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};  // 1/8, 2/8, 5/8
  const std::vector<float> plain = route(logits, 3, 2, false).weights, normal = route(logits, 3, 2, true).weights;
  EXPECT_NEAR(plain[0], 5.0 / 8, 1e-6);
  EXPECT_NEAR(plain[1], 2.0 / 8, 1e-6);
  EXPECT_NEAR(normal[0], 5.0 / 7, 1e-6);
  EXPECT_NEAR(normal[1], 2.0 / 7, 1e-6);
}

TEST(Route, ARowThatIsNotFiniteStillGoesSomewhere) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Routed r = route({nan}, 1, 1, true);
  EXPECT_EQ(r.experts, (Ints{0}));
  Exec exec(cpu());
  Tensor weights = exec.empty({1, 3}, Dtype::kF32), chosen = exec.empty({1, 3}, Dtype::kI32);
  const std::vector<float> bad = {nan, 1, nan, 7};
  MANTISSA_RUN(exec, route, weights, chosen, tensor_from<float>(cpu(), bad, {1, 4}), true);
  Ints sorted = to_host<int32_t>(chosen);
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end());
  EXPECT_GE(sorted.front(), 0);
  EXPECT_LT(sorted.back(), 4);
}

/// Every row goes to expert 2: the others have no rows.
TEST_P(MixtureOn, ExpertsWithoutRowsLeaveTheirGradientsAlone) {
  Inputs in(6);
  for (double& v : in.values[0]) v = std::abs(v);
  for (int64_t e = 0; e < kExperts; ++e) std::fill_n(in.values[1].begin() + e * kWidth, kWidth, e == 2 ? 1.0 : -1.0);
  Exec exec(backend());
  Tape tape(exec, true);
  Tensor sink = exec.zeros(in.shapes[2], Dtype::kF32);
  MANTISSA_RUN(exec, fill, sink, 3.0);  // of micro-batches before
  std::vector<Var> v;
  for (size_t i = 0; i < in.values.size(); ++i) {
    const Tensor t = tensor_of(in.values[i], in.shapes[i], Dtype::kF16, backend());
    v.push_back(i == 2 ? tape.param(t, sink) : tape.leaf(t));
  }
  Tensor offsets;
  const Var out = mixture(tape, v[0], v[1], v[2], v[3], experts(1, false), &offsets);
  EXPECT_EQ(to_host<int32_t>(offsets), (Ints{0, 0, 0, 6, 6, 6}));
  tape.backward(ops::sum(tape, out));
  const auto parts = [](const Tensor& t, int64_t e) {
    const int64_t rows = t.size(0) / kExperts;
    return to_host_float(t.slice(e * rows, (e + 1) * rows));
  };
  for (int64_t e = 0; e < kExperts; ++e) {
    const std::vector<float> summed = parts(sink, e), fresh = parts(v[3].grad(), e);
    EXPECT_EQ(std::all_of(summed.begin(), summed.end(), [](float x) { return x == 3; }), e != 2) << e;
    EXPECT_EQ(std::all_of(fresh.begin(), fresh.end(), [](float x) { return x == 0; }), e != 2) << e;
  }
}

TEST_P(MixtureOn, AnOverflowNamesTheExpert) {
  for (const bool large : {true, false}) {
    Inputs in(20);
    for (double& v : in.values[0]) v = 1 + std::abs(v);
    // fp16 ends at 65504, which the products of expert 3 pass.
    std::fill_n(in.values[2].begin() + 3 * 2 * kInner * kWidth, 2 * kInner * kWidth, large ? 3e4 : 1.0);
    Exec exec(backend());
    Tape tape(exec, true);
    NonFiniteReport report;
    tape.set_observer(find_first_nonfinite(exec, report));
    std::vector<Var> v;
    for (size_t i = 0; i < in.values.size(); ++i)
      v.push_back(tape.param(tensor_of(in.values[i], in.shapes[i], Dtype::kF16, backend()),
                             exec.zeros(in.shapes[i], Dtype::kF32)));
    const Tape::Scope scope(tape, "layers.1.mlp");
    const Var out = mixture(tape, v[0], v[1], v[2], v[3], experts(kExperts, true));
    if (large) {
      EXPECT_EQ(report.expert, 3);
      EXPECT_EQ(report.text().rfind("expert 3 of layers.1.mlp grouped_linear forward: inf", 0), 0u) << report.text();
    } else {
      EXPECT_FALSE(report.found);
    }
  }
}

TEST(Mixture, BadShapesAreRefused) {
  Exec exec(cpu());
  Tape tape(exec, false);
  const Var x(exec.zeros({2, 8}, Dtype::kF32)), w(exec.zeros({4, 8}, Dtype::kF32));
  EXPECT_THROW(ops::route(tape, x, w, 5, true), Error);
  EXPECT_THROW(ops::route(tape, x, w, 0, true), Error);
  EXPECT_THROW(ops::route(tape, x, Var(exec.zeros({4, 7}, Dtype::kF32)), 1, true), Error);
  const Tensor bytes(cpu(), {2, 1}, Dtype::kU8), ints(cpu(), {2, 1}, Dtype::kI32);
  EXPECT_THROW(ops::route(tape, x, w, 1, true, {.given = ints}), Error);
  EXPECT_THROW(ops::route(tape, x, w, 2, true, {.given = bytes}), Error);
  EXPECT_THROW(ops::route(tape, x, w, 1, true, {.chosen = bytes}), Error);
  EXPECT_THROW(ops::route(tape, x, w, 1, true, {.replay = true}), Error);  // of nothing
  EXPECT_THROW(ops::route(tape, x, Var(exec.zeros({256, 8}, Dtype::kF32)), 1, true, {.given = bytes}), Error);
  EXPECT_THROW(ops::route(tape, x, w, 1, true, {.chosen = ints, .given = bytes, .replay = true}), Error);
  const ops::Routes routes = ops::route(tape, x, w, 2, true).routes;
  EXPECT_THROW(ops::grouped_linear(tape, x, w, routes), Error);  // 2 rows for 4
  EXPECT_THROW(
      ops::grouped_linear(tape, ops::group_rows(tape, x, routes), Var(exec.zeros({6, 8}, Dtype::kF32)), routes),
      Error);  // 6 rows for 4 experts
}

}  // namespace
}  // namespace mantissa
