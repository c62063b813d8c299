// Every row of the op table (tests/support/op_cases.cpp) through the same checks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/random.h"
#include "core/registry.h"
#include "tests/support/cuda_pair.h"
#include "tests/support/op_cases.h"

namespace mantissa {
namespace {

using Values = std::vector<double>;

double unit_roundoff(Dtype d) {
  switch (d) {
    case Dtype::kF16:
      return 0x1p-11;
    case Dtype::kBF16:
      return 0x1p-8;
    case Dtype::kF64:
      return 0x1p-53;
    default:
      return 0x1p-24;
  }
}

Tensor to_tensor(Backend& backend, const Values& values, Shape shape, Dtype dtype) {
  return dispatch_floating(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<T> rounded;
    for (double v : values) rounded.push_back(round_to<T>(Compute<T>(v)));
    return tensor_from<T>(backend, rounded, shape);
  });
}

Values to_values(const Tensor& t) {
  if (t.dtype() == Dtype::kF64) return to_host<double>(t);
  const std::vector<float> host = to_host_float(t);
  return Values(host.begin(), host.end());
}

std::vector<char> to_bytes(const Tensor& t) {
  std::vector<char> bytes(t.bytes());
  t.backend().copy_to_host(bytes.data(), t.raw(), t.bytes());
  return bytes;
}

Values uniform(size_t count, double low, double high, uint64_t purpose) {
  RandomStream random(20250131, purpose);
  Values values(count);
  for (double& v : values) v = low + (high - low) * random.uniform();
  return values;
}

/// Multiples of 1/64 in [-1, 1]: exact in every type.
Values cotangent(int64_t count, size_t output) {
  Values values = uniform(size_t(count), -1.0, 1.0, 1000 + output);
  for (double& v : values) v = std::round(v * 64) / 64;
  return values;
}

struct Result {
  std::vector<Tensor> outputs, grads;
};

/// One row of the table at one size.
class Problem {
 public:
  Problem(const OpCase& c, int64_t n) : c_(c), n_(n), operands_(c.operands(n)), rows_{0, c.row_count(n)} {
    for (size_t i = 0; i < operands_.size(); ++i)
      values_.push_back(uniform(size_t(operands_[i].shape.numel()), operands_[i].low, operands_[i].high, i));
  }

  Dtype dtype(size_t operand, Dtype compute) const {
    return operands_[operand].wide && is_16bit(compute) ? Dtype::kF32 : compute;
  }
  /// Rounds the operands to what a run in `compute` sees.
  void round(Dtype compute) {
    for (size_t i = 0; i < values_.size(); ++i)
      values_[i] = to_values(to_tensor(cpu(), values_[i], operands_[i].shape, dtype(i, compute)));
  }

  Result run(Backend& backend, Dtype compute) const { return run(backend, compute, rows_); }
  /// Forward and gradient of some rows alone; gradients of the outputs are cut from those of the whole.
  Result run(Backend& backend, Dtype compute, Rows rows) const {
    Exec exec(backend);
    Tape tape(exec, true);
    std::vector<Var> leaves;
    for (size_t i = 0; i < operands_.size(); ++i) {
      const Tensor whole = to_tensor(backend, values_[i], operands_[i].shape, dtype(i, compute));
      leaves.push_back(tape.leaf(operands_[i].rows ? whole.slice(rows.begin, rows.end) : whole));
    }
    const std::vector<Var> outs = c_.run(tape, leaves, rows, n_);
    std::vector<Tensor> douts;
    Result result;
    for (size_t i = 0; i < outs.size(); ++i) {
      douts.push_back(output_gradient(backend, outs[i], i, rows));
      result.outputs.push_back(outs[i].value());
    }
    tape.backward(outs, douts);
    for (const Var& leaf : leaves) result.grads.push_back(leaf.grad());
    return result;
  }

  /// sum of outputs times their cotangents, in fp64, at operands moved by step * direction.
  double objective(const std::vector<Values>& direction, double step) const {
    Exec exec(cpu());
    Tape tape(exec, false);
    std::vector<Var> inputs;
    for (size_t i = 0; i < operands_.size(); ++i) {
      Values moved = values_[i];
      for (size_t j = 0; j < moved.size(); ++j) moved[j] += step * direction[i][j];
      inputs.push_back(Var(to_tensor(cpu(), moved, operands_[i].shape, Dtype::kF64)));
    }
    const std::vector<Var> outs = c_.run(tape, inputs, rows_, n_);
    double total = 0;
    for (size_t i = 0; i < outs.size(); ++i) {
      const Values y = to_host<double>(outs[i].value()), dy = cotangent(outs[i].value().numel(), i);
      for (size_t j = 0; j < y.size(); ++j) total += y[j] * dy[j];
    }
    return total;
  }

  const std::vector<Operand>& operands() const { return operands_; }
  Rows rows() const { return rows_; }
  std::vector<int64_t> groups() const {
    if (c_.groups) return c_.groups(n_);
    std::vector<int64_t> bounds;
    for (int64_t t = 0; t <= rows_.end; ++t) bounds.push_back(t);
    return bounds;
  }

 private:
  Tensor output_gradient(Backend& backend, const Var& out, size_t i, Rows rows) const {
    const int64_t first = out.shape()[0];
    if (first != rows.count()) return to_tensor(backend, cotangent(out.value().numel(), i), out.shape(), out.dtype());
    Shape whole{rows_.end};
    for (int d = 1; d < out.shape().rank(); ++d) whole.push_back(out.shape()[d]);
    return to_tensor(backend, cotangent(whole.numel(), i), whole, out.dtype()).slice(rows.begin, rows.end);
  }

  const OpCase& c_;
  int64_t n_;
  std::vector<Operand> operands_;
  Rows rows_;
  std::vector<Values> values_;
};

class Ops : public testing::TestWithParam<OpCase> {};

constexpr Dtype kTypes[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};

TEST_P(Ops, GradientAgreesWithCentralDifferenceInFp64) {
  for (int64_t n : GetParam().sizes) {
    Problem problem(GetParam(), n);
    std::vector<Values> grads;
    for (const Tensor& g : problem.run(cpu(), Dtype::kF64).grads) {
      ASSERT_TRUE(g.defined());
      grads.push_back(to_host<double>(g));
    }
    std::vector<Values> zero;
    for (const Values& g : grads) zero.push_back(Values(g.size(), 0.0));
    const auto compare = [&](const std::vector<Values>& direction, const std::string& what) {
      constexpr double kStep = 1e-5;
      const double difference =
          (problem.objective(direction, kStep) - problem.objective(direction, -kStep)) / (2 * kStep);
      double slope = 0, size = 0;
      for (size_t i = 0; i < grads.size(); ++i)
        for (size_t j = 0; j < grads[i].size(); ++j) {
          slope += grads[i][j] * direction[i][j];
          size += std::abs(grads[i][j] * direction[i][j]);
        }
      EXPECT_NEAR(slope, difference, 1e-6 + 1e-7 * size) << "n = " << n << ", " << what;
    };
    for (size_t i = 0; i < grads.size(); ++i) {
      // Some entries one by one, then all at once along a random direction.
      const size_t stride = std::max<size_t>(1, grads[i].size() / 7);
      for (size_t j = 0; j < grads[i].size(); j += stride) {
        std::vector<Values> direction = zero;
        direction[i][j] = 1;
        compare(direction, str("operand ", i, ", entry ", j));
      }
      std::vector<Values> direction = zero;
      direction[i] = uniform(grads[i].size(), -1, 1, 2000 + i);
      compare(direction, str("operand ", i, ", random direction"));
    }
  }
}

void expect_close(const Tensor& got, const Tensor& reference, Dtype compute, const OpCase& c, double inner,
                  const std::string& what) {
  ASSERT_EQ(got.shape(), reference.shape()) << what;
  const Values y = to_values(got), exact = to_host<double>(reference);
  double largest = 0;
  for (double v : exact) largest = std::max(largest, std::abs(v));
  const double u = unit_roundoff(got.dtype());
  double floor = (c.accumulate * 0x1p-24 + inner * unit_roundoff(compute)) * largest;
  if (got.dtype() == Dtype::kF16) floor += 0x1p-25;  // half of the smallest subnormal
  for (size_t i = 0; i < y.size(); ++i)
    ASSERT_LE(std::abs(y[i] - exact[i]), 1.01 * u * std::abs(exact[i]) + floor)
        << what << ", element " << i << ": got " << y[i] << ", exact " << exact[i];
}

/// The same table on each backend: case and backend's name.
class OpsOn : public testing::TestWithParam<std::tuple<OpCase, const char*>> {
 protected:
  void SetUp() override {
    if (!on_cpu() && !no_cuda_because().empty()) GTEST_SKIP() << no_cuda_because();
  }
  const OpCase& op() const { return std::get<0>(GetParam()); }
  bool on_cpu() const { return std::string(std::get<1>(GetParam())) == "cpu"; }
  Backend& backend() const { return find_backend(std::get<1>(GetParam())); }
};

TEST_P(OpsOn, EachTypeAgreesWithFp64) {
  const OpCase& c = op();
  for (int64_t n : c.sizes)
    for (Dtype dtype : kTypes) {
      Problem problem(c, n);
      problem.round(dtype);
      const Result reference = problem.run(cpu(), Dtype::kF64), got = problem.run(backend(), dtype);
      const std::string what = str(name_of(dtype), " n = ", n);
      for (size_t i = 0; i < got.outputs.size(); ++i)
        expect_close(got.outputs[i], reference.outputs[i], dtype, c,
                     std::max(c.inner_forward, on_cpu() ? 0.0 : c.inner_forward_elsewhere), str(what, " output ", i));
      for (size_t i = 0; i < got.grads.size(); ++i) {
        EXPECT_EQ(got.grads[i].dtype(), problem.dtype(i, dtype));
        expect_close(got.grads[i], reference.grads[i], dtype, c, c.inner_backward, str(what, " gradient ", i));
      }
    }
}

TEST_P(OpsOn, RowsAloneGiveTheBitsTheyGiveInABatch) {
  const OpCase& c = op();
  if (Problem(c, 1).groups().empty()) GTEST_SKIP() << "not an op by rows";
  if (c.products && !on_cpu())
    GTEST_SKIP()
        << "under fast a product's bits depend on its number of rows; CudaExact.RowsOfProductsAloneAreRowsInABatch holds exact";
  for (int64_t n : c.sizes)
    for (Dtype dtype : kTypes) {
      const Problem problem(c, n);
      const Result batch = problem.run(backend(), dtype);
      const std::vector<int64_t> bounds = problem.groups();
      const size_t stride = std::max<size_t>(1, (bounds.size() - 1) / 5);
      for (size_t g = 0; g + 1 < bounds.size(); g += stride) {
        const Rows rows{bounds[g], bounds[g + 1]};
        const Result alone = problem.run(backend(), dtype, rows);
        const auto same = [&](const Tensor& one, const Tensor& all) {
          return to_bytes(one) == to_bytes(all.slice(rows.begin, rows.end));
        };
        const std::string what = str(name_of(dtype), " n = ", n, " rows from ", rows.begin);
        for (size_t i = 0; i < alone.outputs.size(); ++i)
          ASSERT_TRUE(same(alone.outputs[i], batch.outputs[i])) << what << ", output " << i;
        for (size_t i = 0; i < alone.grads.size(); ++i)
          ASSERT_TRUE(!problem.operands()[i].rows || same(alone.grads[i], batch.grads[i]))
              << what << ", gradient " << i;
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Table, Ops, testing::ValuesIn(op_cases()), [](const auto& info) { return info.param.name; });
const auto name_of_op = [](const auto& info) { return std::get<0>(info.param).name; };
INSTANTIATE_TEST_SUITE_P(Cpu, OpsOn, testing::Combine(testing::ValuesIn(op_cases()), testing::Values("cpu")),
                         name_of_op);
INSTANTIATE_TEST_SUITE_P(Cuda, OpsOn, testing::Combine(testing::ValuesIn(op_cases()), testing::Values("cuda")),
                         name_of_op);

}  // namespace
}  // namespace mantissa
