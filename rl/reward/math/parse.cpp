// The loose levels of the grammar: lists, relations, sums, terms; see parser.h.
#include "rl/reward/math/parser.h"

namespace mantissa {

void MathParser::run() {
  expr_.root = list();
  if (peek().kind != Kind::kEnd) unexpected();
}

void MathParser::unexpected() const {
  if (peek().kind == Kind::kEnd) throw MathSyntaxError("ends too early");
  throw MathSyntaxError(str("unexpected \"", peek().text, "\" at byte ", peek().at));
}

int MathParser::add(Op op, std::vector<int> args, std::string name) {
  if (int(expr_.nodes.size()) >= MathExpr::kMaxNodes)
    throw MathSyntaxError(str("more than ", MathExpr::kMaxNodes, " nodes"));
  MathNode node{op, std::move(name), {}, -1, 0, std::move(args)};
  return expr_.add(std::move(node));
}

int MathParser::integer(long value) {
  int node = add(Op::kNumber);
  expr_.nodes[size_t(node)].number = value;
  return node;
}

bool MathParser::at_end() const {
  return peek().kind == Kind::kEnd || is(",") || is(";") || is("and") || is(")") || is("]") || is("}") || is("\\}") ||
         is("&") || is("\\\\") || is("end");
}

std::vector<int> MathParser::elements() {
  std::vector<int> out;
  for (;;) {
    while (take(",") || take(";") || take("and")) {
    }
    if (at_end()) break;
    out.push_back(relation());
    if (!is(",") && !is(";") && !is("and")) break;
  }
  return out;
}

int MathParser::list() {
  Depth guard(depth_);
  std::vector<int> all = elements();
  if (all.empty()) unexpected();
  return all.size() == 1 ? all[0] : add(Op::kList, std::move(all));
}

char MathParser::relation_op() const {
  if (peek().kind != Kind::kOp) return '\0';
  static constexpr std::pair<std::string_view, char> kOps[] = {{"=", '='},  {"<", '<'},  {">", '>'}, {"<=", 'l'},
                                                               {">=", 'g'}, {"!=", 'n'}, {"~", '~'}, {"in", 'e'}};
  for (auto [text, op] : kOps)
    if (peek().text == text) return op;
  return '\0';
}

int MathParser::relation() {
  Depth guard(depth_);
  std::string ops;
  std::vector<int> args;
  if (is("~")) ++i_;  // "\approx 3"
  args.push_back(ratio());
  while (char op = relation_op()) {
    ++i_;
    if (op == 'e' && at_end()) {  // "5 in"
      expr_.unit = "inch";
      break;
    }
    ops += op;
    args.push_back(ratio());
  }
  return ops.empty() ? args[0] : add(Op::kRelation, std::move(args), ops);
}

int MathParser::ratio() {
  std::vector<int> args{unions()};
  while (!in_set_ && take(":")) args.push_back(unions());
  return args.size() == 1 ? args[0] : add(Op::kRatio, std::move(args));
}

int MathParser::unions() {
  int first = sum();
  std::vector<int> args{first};
  while (take("cup")) args.push_back(sum());
  int left = args.size() == 1 ? first : add(Op::kUnion, std::move(args));
  while (is("cap") || is("setminus")) {
    std::string name = "@" + peek().text;
    ++i_;
    left = add(Op::kCall, {left, sum()}, name);
  }
  return left;
}

int MathParser::sum() {
  Depth guard(depth_);
  std::vector<int> args;
  for (;;) {
    if (take("+")) {
      args.push_back(term());
    } else if (take("-")) {
      args.push_back(add(Op::kNeg, {term()}));
    } else if (is("pm") || is("mp")) {
      std::string sign = is("pm") ? "+" : "-";
      ++i_;
      args.push_back(add(Op::kPlusMinus, {term()}, sign));
    } else if (args.empty()) {
      args.push_back(term());
    } else {
      break;
    }
  }
  return args.size() == 1 ? args[0] : add(Op::kAdd, std::move(args));
}

int MathParser::mixed_fraction(int whole) {
  if (!is_plain_integer(node(whole))) return -1;
  int above = -1, below = -1;
  if (peek().kind == Kind::kFunction && peek().text == "frac") {
    size_t k = 1;
    for (int argument = 0; argument < 2; ++argument) {
      bool braces = is("{", k);
      if (peek(k + braces).kind != Kind::kNumber || (braces && !is("}", k + 2))) return -1;
      if (!braces && argument == 0 && peek(k).text.size() > 1) break;  // \frac12 is one token
      k += braces ? 3 : 1;
    }
    ++i_;
    above = tight_argument();
    below = tight_argument();
  } else if (peek().kind == Kind::kNumber && peek().spaced && is("/", 1) && peek(2).kind == Kind::kNumber) {
    above = primary();
    ++i_;
    below = primary();
  } else {
    return -1;
  }
  int fraction = add(Op::kDiv, {above, below});
  const mpq_class &p = node(above).number, &q = node(below).number;
  bool proper = is_plain_integer(node(above)) && is_plain_integer(node(below)) && p > 0 && p < q;
  return add(proper ? Op::kAdd : Op::kMul, {whole, fraction});
}

int MathParser::term() {
  int left = signed_factor();
  bool bare_number = node(left).op == Op::kNumber;
  if (bare_number)
    if (int mixed = mixed_fraction(left); mixed >= 0) left = mixed, bare_number = false;
  std::vector<int> product{left};
  auto close = [&] {
    if (product.size() > 1) product = {add(Op::kMul, std::move(product))};
    return product[0];
  };
  for (;;) {
    if (take("*")) {
      product.push_back(signed_factor());
      bare_number = node(product.back()).op == Op::kNumber;
    } else if (is("/")) {
      if (peek(1).kind == Kind::kText && has_value(product)) {
        units();
        continue;
      }
      ++i_;
      int above = close();
      product = {add(Op::kDiv, {above, signed_factor()})};
      bare_number = false;
    } else if (is("choose")) {
      ++i_;
      int above = close();
      product = {add(Op::kCall, {above, signed_factor()}, "binom")};
    } else if (peek().kind == Kind::kText && has_value(product) && (peek().spaced || known_unit(peek().text))) {
      units();
    } else if (starts_factor()) {
      if (bare_number && peek().kind == Kind::kNumber) unexpected();  // "1 2"
      product.push_back(factor());
      bare_number = node(product.back()).op == Op::kNumber;
    } else {
      break;
    }
  }
  return close();
}

bool MathParser::has_value(const std::vector<int>& product) const {
  for (int i : product)
    if (node(i).op == Op::kSymbol && node(i).name.starts_with('\'')) return false;
  return true;
}

void MathParser::units() {
  for (;;) {
    const bool joined = is("/") || is("*");
    const MathToken& word = peek(joined);
    const bool letter = is("/") && word.kind == Kind::kName;  // km/h
    if (word.kind != Kind::kText && !letter) break;
    i_ += joined ? 2 : 1;
    (expr_.unit += expr_.unit.empty() ? "" : " ") += word.text;
    if (take("^")) exponent();
  }
}

int MathParser::signed_factor() {
  Depth guard(depth_);
  if (take("-")) return add(Op::kNeg, {signed_factor()});
  if (take("+")) return signed_factor();
  if (is("pm") || is("mp")) {
    std::string sign = is("pm") ? "+" : "-";
    ++i_;
    return add(Op::kPlusMinus, {signed_factor()}, sign);
  }
  return factor();
}

int MathParser::factor() {
  Depth guard(depth_);
  return postfix(primary());
}

bool MathParser::degree_exponent() {
  if (is("deg")) return ++i_, true;
  if (is("{") && is("deg", 1) && is("}", 2)) return i_ += 3, true;
  return false;
}

bool parse_math(std::string_view text, MathExpr& expr, std::string& error) {
  constexpr size_t kMaxText = 4000;
  if (text.size() > kMaxText) {
    error = str("longer than ", kMaxText, " bytes");
    return false;
  }
  try {
    MathParser(lex_math(text), expr).run();
    return true;
  } catch (const MathSyntaxError& e) {
    error = e.what();
    return false;
  }
}

}  // namespace mantissa
