#include "tests/support/op_cases.h"

#include <cmath>
#include <numeric>

namespace mantissa {
namespace {

const std::vector<int64_t> kSizes = {1, 31, 32, 33, 257};

Tensor ints(Tape& tape, const std::vector<int32_t>& values) {
  return tensor_from<int32_t>(tape.exec().backend(), values, {int64_t(values.size())});
}

/// Integers in [0, limit) that depend on the absolute row alone.
Tensor ids(Tape& tape, Rows rows, int64_t limit) {
  std::vector<int32_t> values;
  for (int64_t t = rows.begin; t < rows.end; ++t) values.push_back(int32_t((t * 7919 + 13) % limit));
  return ints(tape, values);
}

constexpr int64_t kPositions = 64;

Tensor rope_table(Tape& tape, int head_size) {
  std::vector<float> values;
  for (int64_t p = 0; p < kPositions; ++p)
    for (int i = 0; i < head_size / 2; ++i) {
      const double angle = double(p) * std::pow(100.0, -2.0 * i / head_size);
      values.push_back(float(std::cos(angle)));
      values.push_back(float(std::sin(angle)));
    }
  return tensor_from<float>(tape.exec().backend(), values, {kPositions, head_size / 2, 2});
}

auto fixed(int64_t count) {
  return [count](int64_t) { return count; };
}
int64_t same(int64_t n) {
  return n;
}

/// Sequences of n, 1 and 3 rows: attention's groups.
int64_t sequence_rows(int64_t n) {
  return n + 4;
}
std::vector<int64_t> sequences(int64_t n) {
  return {0, n, n + 1, n + 4};
}
/// The bounds of the sequences inside `rows`, from 0.
Tensor sequence_offsets(Tape& tape, Rows rows, int64_t n) {
  std::vector<int32_t> offsets;
  for (int64_t bound : sequences(n))
    if (rows.begin <= bound && bound <= rows.end) offsets.push_back(int32_t(bound - rows.begin));
  return ints(tape, offsets);
}
std::vector<int64_t> one_group(int64_t) {
  return {};
}

using Vars = std::span<const Var>;

/// Ops on [n] elements, every element a row of its own.
OpCase unary_case(std::string name, double low, double high, std::function<Var(Tape&, const Var&)> op) {
  return {std::move(name), kSizes, same, [=](int64_t n) { return std::vector<Operand>{{{n}, true, low, high}}; },
          [op](Tape& tape, Vars v, Rows, int64_t) { return std::vector{op(tape, v[0])}; }};
}

OpCase binary_case(std::string name, bool wide, Var (*op)(Tape&, const Var&, const Var&)) {
  return {std::move(name), kSizes, same,
          [=](int64_t n) { return std::vector<Operand>{{{n}, true, -1.0, 1.0, wide}, {{n}, true}}; },
          [op](Tape& tape, Vars v, Rows, int64_t) { return std::vector{op(tape, v[0], v[1])}; }};
}

/// x[T,K] . w[N,K]^T with one of the three running over the sizes.
OpCase linear_case(std::string name, bool bias, std::function<std::array<int64_t, 3>(int64_t)> tkn) {
  OpCase c{std::move(name), kSizes, [tkn](int64_t n) { return tkn(n)[0]; },
           [=](int64_t n) {
             const auto [t, k, out] = tkn(n);
             std::vector<Operand> operands = {{{t, k}, true}, {{out, k}}};
             if (bias) operands.push_back({{out}});
             return operands;
           },
           [bias](Tape& tape, Vars v, Rows, int64_t) {
             return std::vector{ops::linear(tape, v[0], v[1], bias ? v[2] : Var())};
           }};
  c.products = true;
  return c;
}

/// The same with an update of rank 3 of some of 9 outputs; K runs over the sizes.
OpCase low_rank_case(std::string name, std::vector<ColumnRange> parts, bool bias, bool own_input) {
  int64_t outputs = 0;
  for (const ColumnRange& part : parts) outputs += part.size();
  OpCase c{std::move(name), kSizes, fixed(4),
           [=, count = int64_t(parts.size())](int64_t n) {
             std::vector<Operand> operands = {{{4, n}, true}, {{9, n}}, {{3 * count, n}}, {{outputs, 3}}};
             if (bias) operands.push_back({{9}});
             if (own_input) operands.push_back({{4, n}, true});
             return operands;
           },
           [=](Tape& tape, Vars v, Rows, int64_t) {
             const Var input = own_input ? v[bias ? 5 : 4] : Var();
             return std::vector{
                 ops::linear_low_rank(tape, v[0], v[1], bias ? v[4] : Var(), {v[2], v[3], parts, 0.5, input})};
           }};
  c.products = true;
  c.inner_forward = 2;   // u is rounded,
  c.inner_backward = 4;  // and so is its gradient
  return c;
}

OpCase norm_case(std::string name, bool wide) {
  return {std::move(name), kSizes, fixed(5),
          [=](int64_t n) { return std::vector<Operand>{{{5, n}, true, -2.0, 2.0, wide}, {{n}, false, 0.5, 1.5}}; },
          [](Tape& tape, Vars v, Rows, int64_t) { return std::vector{ops::rms_norm(tape, v[0], v[1], 1e-2)}; }};
}

OpCase add_norm_case(std::string name, bool wide) {
  OpCase c{std::move(name), kSizes, fixed(5),
           [=](int64_t n) {
             return std::vector<Operand>{{{5, n}, true, -2.0, 2.0, wide}, {{5, n}, true}, {{n}, false, 0.5, 1.5}};
           },
           [](Tape& tape, Vars v, Rows, int64_t) {
             const auto [sum, normed] = ops::add_rms_norm(tape, v[0], v[1], v[2], 1e-2, "");
             return std::vector{sum, normed};
           }};
  c.inner_forward = 2;   // the norm reads the rounded sum
  c.inner_backward = 4;  // and its gradient is rounded before it meets the sum's
  return c;
}

OpCase attention_case(std::string name, Heads heads) {
  OpCase c{std::move(name),
           {1, 31, 63, 64, 65, 130},
           sequence_rows,
           [=](int64_t n) { return std::vector<Operand>{{{n + 4, heads.row()}, true, -2.0, 2.0}}; },
           [=](Tape& tape, Vars v, Rows rows, int64_t n) {
             return std::vector{ops::attention(tape, v[0], sequence_offsets(tape, rows, n), heads)};
           }};
  c.groups = sequences;
  c.inner_backward = 2;  // the gradient reads the rounded output
  // Tensor cores take probabilities in the compute type: off by a unit of the largest value, which the
  // largest output may be half of.
  c.inner_forward_elsewhere = 2;
  return c;
}

OpCase scores_case(std::string name, double temperature) {
  OpCase c{std::move(name),
           {1, 31, 32, 33, 257, 1000},
           fixed(5),
           [](int64_t n) { return std::vector<Operand>{{{5, 17}, true}, {{n, 17}}}; },
           [=](Tape& tape, Vars v, Rows rows, int64_t n) {
             ops::HeadOptions options;
             options.temperature = temperature;
             options.dtype = v[0].dtype();
             options.chunk = 2;
             const ops::TokenLogprobs s = ops::token_logprobs(tape, v[0], v[1], ids(tape, rows, n), options);
             return std::vector{s.logprobs, s.entropy};
           }};
  c.inner_backward = 2;  // d(logits) are rounded
  c.products = true;
  return c;
}

/// A mixture of 5 linear experts from 8 inputs to 16 outputs, two a row.
OpCase experts_case(std::string name, bool normalise) {
  OpCase c{std::move(name),
           {1, 2, 33, 257},
           same,
           [](int64_t n) { return std::vector<Operand>{{{n, 8}, true}, {{5, 8}}, {{5 * 16, 8}}}; },
           [=](Tape& tape, Vars v, Rows, int64_t) {
             const ops::Routing to = ops::route(tape, v[0], v[1], 2, normalise);
             const Var out = ops::grouped_linear(tape, ops::group_rows(tape, v[0], to.routes), v[2], to.routes);
             return std::vector{ops::combine(tape, out, to.weights, to.routes)};
           }};
  c.products = true;
  c.inner_forward = 2;   // the experts' outputs are rounded,
  c.inner_backward = 6;  // and so are their gradients
  return c;
}

/// The gradient reads the rounded output.
OpCase reads_output(OpCase c) {
  c.inner_backward = 1;
  return c;
}

OpCase with_groups(OpCase c, std::vector<int64_t> (*groups)(int64_t)) {
  c.groups = groups;
  return c;
}

constexpr Heads kQk{3, 1, 8};
constexpr Heads kRope{2, 1, 16};

OpCase gather_case() {
  return {"gather_rows",
          {1, 3, 33},
          same,
          [](int64_t n) { return std::vector<Operand>{{{2 * n + 1, 5}}}; },
          [](Tape& tape, Vars v, Rows rows, int64_t n) {
            std::vector<int32_t> chosen;  // every second row, from the last
            for (int64_t t = rows.begin; t < rows.end; ++t) chosen.push_back(int32_t(2 * (n - t)));
            return std::vector{ops::gather_rows(tape, v[0], ints(tape, chosen))};
          }};
}

}  // namespace

const std::vector<OpCase>& op_cases() {
  using std::vector;
  static const vector<OpCase> cases = {
      // matmul
      linear_case("linear_tokens", false, [](int64_t n) { return std::array<int64_t, 3>{n, 7, 5}; }),
      linear_case("linear_inputs", false, [](int64_t n) { return std::array<int64_t, 3>{3, n, 33}; }),
      linear_case("linear_outputs", true, [](int64_t n) { return std::array<int64_t, 3>{3, 31, n}; }),
      low_rank_case("low_rank", {{0, 9}}, true, false),
      low_rank_case("low_rank_parts", {{1, 4}, {4, 7}}, true, false),
      low_rank_case("low_rank_of_another_input", {{0, 2}, {5, 9}}, false, true),
      // experts
      experts_case("experts", false),
      experts_case("experts_normalised", true),
      // norm
      norm_case("rms_norm", false),
      norm_case("rms_norm_wide", true),
      add_norm_case("add_rms_norm", false),
      add_norm_case("add_rms_norm_wide", true),
      {"qk_norm",
       {1, 3, 33},
       same,
       [](int64_t n) {
         return vector<Operand>{{{n, kQk.row()}, true}, {{8}, false, 0.5, 1.5}, {{8}, false, 0.5, 1.5}};
       },
       [](Tape& tape, Vars v, Rows, int64_t) { return vector{ops::qk_norm(tape, v[0], v[1], v[2], kQk, 1e-2)}; }},
      // attention
      {"rope",
       {1, 3, 33},
       same,
       [](int64_t n) { return vector<Operand>{{{n, kRope.row()}, true}}; },
       [](Tape& tape, Vars v, Rows rows, int64_t) {
         return vector{ops::rope(tape, v[0], rope_table(tape, kRope.size), ids(tape, rows, kPositions), kRope)};
       }},
      attention_case("attention_grouped", {4, 2, 8}),
      attention_case("attention_multi_head", {2, 2, 16}),
      attention_case("attention_odd_head_size", {3, 1, 24}),
      // elementwise
      binary_case("add", false, ops::add),
      binary_case("add_wide", true, ops::add),
      binary_case("sub", false, ops::sub),
      binary_case("mul", false, ops::mul),
      binary_case("mul_wide", true, ops::mul),
      binary_case("minimum", false, ops::minimum),
      binary_case("maximum", false, ops::maximum),
      unary_case("affine", -1, 1, [](Tape& t, const Var& x) { return ops::affine(t, x, 0.75, -0.5); }),
      reads_output(unary_case("exp", -3, 3, [](Tape& t, const Var& x) { return ops::exp(t, x); })),
      unary_case("clamp", -1, 1, [](Tape& t, const Var& x) { return ops::clamp(t, x, -0.5, 0.25); }),
      unary_case(
          "cast", -1, 1,
          [](Tape& t, const Var& x) { return ops::cast(t, x, x.dtype() == Dtype::kF64 ? Dtype::kF64 : Dtype::kF32); }),
      {"swiglu", kSizes, fixed(3), [](int64_t n) { return vector<Operand>{{{3, 2 * n}, true, -4.0, 4.0}}; },
       [](Tape& tape, Vars v, Rows, int64_t) { return vector{ops::swiglu(tape, v[0])}; }},
      {"dropout", kSizes, fixed(5), [](int64_t n) { return vector<Operand>{{{5, n}, true}}; },
       [](Tape& tape, Vars v, Rows rows, int64_t) {
         vector<int32_t> keys;
         for (int64_t t = rows.begin; t < rows.end; ++t) keys.insert(keys.end(), {int32_t(7 * t), int32_t(t)});
         const Tensor of_rows = tensor_from<int32_t>(tape.exec().backend(), keys, {rows.count(), 2});
         return vector{ops::dropout(tape, v[0], {0.3, of_rows, key_tensor(tape.exec().backend(), {5, 1})}, 2)};
       }},
      with_groups({"sum",
                   {1, 31, 257, 5000},
                   same,
                   [](int64_t n) { return vector<Operand>{{{n}, true}}; },
                   [](Tape& tape, Vars v, Rows, int64_t) { return vector{ops::sum(tape, v[0])}; }},
                  one_group),
      with_groups({"segment_sum", kSizes, sequence_rows, [](int64_t n) { return vector<Operand>{{{n + 4}, true}}; },
                   [](Tape& tape, Vars v, Rows rows, int64_t n) {
                     return vector{ops::segment_sum(tape, v[0], sequence_offsets(tape, rows, n))};
                   }},
                  one_group),
      with_groups({"segment_expand", kSizes, sequence_rows, [](int64_t) { return vector<Operand>{{{3}}}; },
                   [](Tape& tape, Vars v, Rows rows, int64_t n) {
                     return vector{ops::segment_expand(tape, v[0], sequence_offsets(tape, rows, n), rows.count())};
                   }},
                  one_group),
      // vocab
      {"embedding", kSizes, same, [](int64_t) { return vector<Operand>{{{11, 6}}}; },
       [](Tape& tape, Vars v, Rows rows, int64_t) { return vector{ops::embedding(tape, v[0], ids(tape, rows, 11))}; }},
      gather_case(),
      scores_case("token_logprobs", 1.0),
      scores_case("token_scores_temperature", 0.7),
  };
  return cases;
}

}  // namespace mantissa
