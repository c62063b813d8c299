// The loose levels of the grammar: lists, relations, sums, terms; see parser.h.
#include "rl/reward/math/parser.h"

namespace mantissa {

void MathParser::run() {
  skip_label();
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
  if (op == Op::kAdd || op == Op::kMul || op == Op::kDiv || op == Op::kRatio) check_units(args);
  MathNode node{op, std::move(name), {}, -1, 0, std::move(args)};
  return expr_.add(std::move(node));
}

void MathParser::check_units(const std::vector<int>& args) const {
  std::string_view unit;
  for (int arg : args) {
    while (node(arg).op == Op::kNeg || node(arg).op == Op::kPlusMinus) arg = node(arg).args[0];
    if (node(arg).op != Op::kUnit || node(arg).name.starts_with('#')) continue;
    if (!units_agree(unit, node(arg).name)) throw MathSyntaxError("a calculation with several units");
    unit = node(arg).name;
  }
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
  std::vector<size_t> groups{0};  // where they begin
  bool commas = false;
  for (;;) {
    while (is(",") || is(";") || is("and")) {
      if (is(";") && out.size() > groups.back()) groups.push_back(out.size());
      commas = commas || (is(",") && !out.empty() && out.size() > groups.back());
      ++i_;
    }
    if (at_end()) break;
    out.push_back(relation());
    if (!is(",") && !is(";") && !is("and")) break;
  }
  if (groups.size() == 1 || !commas) return out;
  groups.push_back(out.size());
  std::vector<int> grouped;
  for (size_t k = 0; k + 1 < groups.size(); ++k) {
    std::vector<int> group(out.begin() + long(groups[k]), out.begin() + long(groups[k + 1]));
    if (group.empty()) continue;
    grouped.push_back(group.size() == 1 ? group[0] : add(Op::kTuple, group, "()"));
    if (group.size() > 1) expr_.nodes[size_t(grouped.back())].base = 1;
  }
  return grouped;
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
  if (is("~") || is("=")) ++i_;  // "\approx 3"
  args.push_back(ratio());
  while (char op = relation_op()) {
    ++i_;
    if (op == 'e' && at_end()) {  // "5 in"
      args.back() = add(Op::kUnit, {args.back()}, "inch");
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
    } else if (is("mod")) {  // "-3 \bmod 5" is 2
      if (args.size() > 1) throw MathSyntaxError("a sum before mod");
      ++i_;
      args[0] = add(Op::kCall, {args[0], signed_factor()}, "mod");
    } else {
      break;
    }
  }
  const int above = args.size() == 1 ? args[0] : add(Op::kAdd, std::move(args));
  return take("over") ? add(Op::kDiv, {above, sum()}) : above;
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

int MathParser::close(std::vector<int>& product, bool explicit_sign) {
  if (product.size() > 1) product = {add(Op::kMul, std::move(product), explicit_sign ? "*" : "")};
  return product[0];
}

void MathParser::join_number_and_group(std::vector<int>& product) {
  const int whole = product[product.size() - 2], inside = product.back();
  if (node(inside).op == Op::kNumber) throw MathSyntaxError("a number beside a number in braces");
  if (node(inside).op != Op::kDiv || !is_plain_integer(node(whole))) return;
  const MathNode &p = node(node(inside).args[0]), &q = node(node(inside).args[1]);
  if (!is_plain_integer(p) || !is_plain_integer(q) || p.number <= 0 || p.number >= q.number) return;
  product.pop_back();
  product.back() = add(Op::kAdd, {whole, inside});
}

bool MathParser::extend(std::vector<int>& product, bool& explicit_sign) {
  const auto call = [&](std::string name, int right) {
    const int left = close(product, explicit_sign);
    product = {add(name == "/" ? Op::kDiv : Op::kCall, {left, right}, name == "/" ? "" : name)};
  };
  if (take("*")) {
    product.push_back(signed_factor());
    explicit_sign = true;
  } else if (take("/")) {
    const auto differential = [&](size_t at) {  // the d of "dy"
      return at + 1 < tokens_.size() && tokens_[at].kind == Kind::kName && tokens_[at].text == "d" &&
             tokens_[at + 1].kind == Kind::kName;
    };
    if (i_ > 2 && differential(i_ - 3) && differential(i_)) throw MathSyntaxError("a derivative");
    call("/", signed_factor());
  } else if (take("choose")) {
    call("binom", signed_factor());
  } else if (take("pmod")) {  // a remainder class is no number
    call("@pmod", is("{") ? group() : tight_argument());
  } else if (is("(") && is("mod", 1)) {
    i_ += 2;
    call("@pmod", sum());
    expect(")");
  } else if (starts_factor()) {
    const bool literal = tokens_[i_ - 1].kind == Kind::kNumber, slash = i_ > 1 && tokens_[i_ - 2].text == "/";
    const bool behind_number = node(product.back()).op == Op::kNumber && literal;
    if ((behind_number || (literal && slash)) && peek().kind == Kind::kNumber) unexpected();  // "1 2", "1/2 3"
    const bool braces = is("{");
    product.push_back(factor());
    if (behind_number && braces) join_number_and_group(product);
  } else {
    return false;
  }
  return true;
}

int MathParser::term() {
  Unit unit;
  if (const std::string_view sign = currency(); !sign.empty()) {
    unit.multiply(sign, 1);
    ++i_;
  }
  std::vector<int> product{signed_factor()};
  if (node(product[0]).op == Op::kNumber)
    if (int mixed = mixed_fraction(product[0]); mixed >= 0) {
      product[0] = mixed;
      const bool degree = is("deg") || (is("^") && (is("deg", 1) || is("deg", 2)));
      if (is("%") || degree) product[0] = postfix(mixed);
    }
  bool explicit_sign = false;
  do {
    const size_t before = i_;
    while (starts_suffix(product)) suffix(product, unit);
    // "5 feet 6 inches" is no product
    if (i_ > before && starts_factor()) throw MathSyntaxError("a value behind words or a unit");
  } while (extend(product, explicit_sign));
  const int value = close(product, explicit_sign);
  return unit.empty() ? value : add(Op::kUnit, {value}, unit.text());
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
