#include "rl/reward/math/eval.h"

#include <algorithm>

#include "core/hash.h"

namespace mantissa {
namespace {

using Op = MathNode::Op;
using Kind = MathValue::Kind;

constexpr size_t kMaxDeterminant = 5;  // rows; expanded by minors

uint64_t salted_hash(const std::string& name, size_t salt) {
  return hash64(name + '#' + char('a' + salt % 26));
}
class Evaluator {
 public:
  Evaluator(const MathExpr& expr, const MathScope& scope, MathBudget& budget)
      : expr_(expr), scope_(scope), budget_(budget) {}

  MathValue eval(int i) {
    const MathNode& n = expr_[i];
    budget_.spend(1);
    switch (n.op) {
      case Op::kNumber:
        return MathValue::rational(n.number);
      case Op::kSymbol:
        return variable(n.name);
      case Op::kPi:
        return MathValue::numeric({quad_pi(), 0});
      case Op::kE:
        return MathValue::numeric(complex_exp({1, 0}));
      case Op::kI:
        return MathValue::numeric({0, 1});
      case Op::kInfinity:
        return MathValue::infinite(1);
      case Op::kPercent:
        return scope_.percent_is_one ? MathValue::rational(1) : MathValue::rational(mpq_class(1, 100));
      case Op::kDegree:
        return scope_.degree_is_one ? MathValue::rational(1) : MathValue::numeric({quad_pi() / 180, 0});
      case Op::kNeg:
        return arithmetic_.negate(eval(n.args[0]));
      case Op::kPlusMinus:
        return plus_minus(i, n);
      case Op::kAdd:
        return sum(n);
      case Op::kMul: {
        MathValue v = eval(n.args[0]);
        for (size_t k = 1; k < n.args.size(); ++k) v = arithmetic_.multiply(v, eval(n.args[k]));
        return v;
      }
      case Op::kDiv:
        return arithmetic_.divide(eval(n.args[0]), eval(n.args[1]));
      case Op::kPow:
        return arithmetic_.power(eval(n.args[0]), eval(n.args[1]));
      case Op::kUnit:
        return eval(n.args[0]);
      case Op::kRatio:
        return n.args.size() == 2 ? arithmetic_.divide(eval(n.args[0]), eval(n.args[1])) : MathValue{};
      case Op::kCall:
        return call(n);
      default:
        return {};
    }
  }

 private:
  MathValue variable(const std::string& name) {
    uint64_t h = salted_hash(name, size_t(scope_.point));
    long above = long(1 + h % 211), below = long(7 + (h >> 20) % 89);
    bool negative = scope_.point >= MathScope::kPositivePoints && (h >> 40) % 2 == 1;
    mpq_class q(negative ? -above : above, below);
    q.canonicalize();
    return MathValue::rational(std::move(q));
  }

  MathValue plus_minus(int i, const MathNode& n) {
    bool negative = n.name == "-";
    if (scope_.plus_minus) {
      auto it = std::find(scope_.plus_minus->begin(), scope_.plus_minus->end(), i);
      size_t bit = std::min<size_t>(size_t(it - scope_.plus_minus->begin()), 31);
      negative = negative != ((scope_.negative >> bit & 1) != 0);
    }
    MathValue v = eval(n.args[0]);
    return negative ? arithmetic_.negate(std::move(v)) : v;
  }

  MathValue sum(const MathNode& n) {
    MathValue v = eval(n.args[0]);
    for (size_t k = 1; k < n.args.size(); ++k) v = arithmetic_.add(v, eval(n.args[k]));
    return v;
  }

  MathValue minor_sum(const MathNode& m, size_t rows, size_t row, uint32_t used) {
    if (row == rows) return MathValue::rational(1);
    MathValue total = MathValue::rational(0);
    bool negative = false;
    for (size_t column = 0; column < rows; ++column) {
      if (used >> column & 1) continue;
      MathValue v =
          arithmetic_.multiply(eval(m.args[row * rows + column]), minor_sum(m, rows, row + 1, used | 1u << column));
      total = arithmetic_.add(total, negative ? arithmetic_.negate(v) : v);
      negative = !negative;
    }
    return total;
  }

  /// A function of no known meaning: some fixed analytic function that depends on its name.
  MathValue unknown(const std::string& name, const std::vector<MathValue>& args) {
    QuadComplex z{0, 0};
    for (size_t k = 0; k < args.size(); ++k) {
      uint64_t h = salted_hash(name, k);
      QuadComplex a{Quad(1 + h % 97) / 59, 0}, b{Quad(1 + (h >> 16) % 97) / 31, 0}, s;
      complex_function("sin", a * args[k].complex() + b, s);
      z = z + s + a * b * args[k].complex();
    }
    return MathValue::numeric(z);
  }

  MathValue determinant(const MathNode& m) {
    size_t rows = m.op == Op::kMatrix ? size_t(m.base) : 0;
    if (rows == 0 || rows > kMaxDeterminant || m.args.size() != rows * rows) return {};
    return minor_sum(m, rows, 0, 0);
  }

  MathValue call(const MathNode& n) {
    budget_.spend(10);
    const std::string& name = n.name;
    if (name == "det") return determinant(expr_[n.args[0]]);
    std::vector<MathValue> args;
    for (int arg : n.args) {
      args.push_back(eval(arg));
      if (!args.back().is_number()) return {};
    }
    if (name == "@cap" || name == "@setminus") return {};
    if (name[0] == '@') return unknown(name, args);
    const MathValue& x = args[0];
    if (name == "factorial") return arithmetic_.factorial(x);
    if (name == "binom") return arithmetic_.binomial(x, args[1]);
    if (name == "sqrt") return arithmetic_.power(x, MathValue::rational(mpq_class(1, 2)));
    if (name == "root") return arithmetic_.root(x, args[1]);
    if (name == "max" || name == "min") return arithmetic_.extreme(name, args);
    if (name == "mod") return arithmetic_.modulo(x, args[1]);
    if (name == "gcd" || name == "lcm") return arithmetic_.common_divisor(name, args);
    if (name == "floor" || name == "ceil") return arithmetic_.round(name, x);
    if (name == "abs")
      return x.kind == Kind::kExact ? MathValue::rational(abs(x.exact))
                                    : MathValue::numeric({magnitude(x.complex()), 0});
    if (name == "log" && args.size() == 2)
      return MathValue::numeric(complex_log(args[1].complex()) / complex_log(x.complex()));
    return arithmetic_.function(name, x);
  }

  const MathExpr& expr_;
  const MathScope& scope_;
  MathBudget& budget_;
  MathArithmetic arithmetic_{budget_};
};

}  // namespace

MathValue evaluate_math(const MathExpr& expr, int node, const MathScope& scope, MathBudget& budget) {
  return Evaluator(expr, scope, budget).eval(node);
}

}  // namespace mantissa
