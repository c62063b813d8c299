// The tight levels of the grammar: literals, names, brackets, environments, functions; see parser.h.
#include "rl/reward/math/parser.h"
#include "rl/reward/math/words.h"

namespace mantissa {
namespace {

constexpr int kMaxExponent = 1000;  // of a literal "1e-3"

}  // namespace

bool MathParser::starts_factor() const {
  switch (peek().kind) {
    case Kind::kNumber:
    case Kind::kName:
    case Kind::kFunction:
      return true;
    case Kind::kText:
      return true;
    case Kind::kEnd:
      return false;
    case Kind::kOp:
      break;
  }
  return is("(") || is("[") || is("{") || is("\\{") || is("lfloor") || is("lceil") || (is("|") && bars_ == 0) ||
         peek().text.starts_with("begin:");
}

int MathParser::exponent() {
  Depth guard(depth_);
  if (take("-")) return add(Op::kNeg, {exponent()});
  if (take("+")) return exponent();
  int base = primary();
  if (take("^")) return add(Op::kPow, {base, exponent()});  // 2^3^4
  return base;
}

int MathParser::postfix(int base) {
  for (;;) {
    if (take("^")) {
      if (degree_exponent()) {
        base = degrees(base);
        if (peek().kind == Kind::kNumber) closed(base);  // but "180^\circ n"
      } else if (is("'") || (is("{") && is("'", 1))) {
        bool braces = take("{");
        while (take("'")) base = prime(base);
        if (braces) expect("}");
      } else {
        base = add(Op::kPow, {base, exponent()});
      }
    } else if (is("_")) {
      base = subscript(base);
    } else if (take("!")) {
      if (is("!") && !peek().spaced) throw MathSyntaxError("a double factorial");
      base = add(Op::kCall, {base}, "factorial");
    } else if (take("'")) {
      base = prime(base);
      if (is("(") && node(base).op == Op::kSymbol) base = add(Op::kCall, arguments(), "@" + node(base).name);
    } else if (take("%")) {
      base = closed(add(Op::kMul, {base, add(Op::kPercent)}));
    } else if (take("deg")) {
      base = closed(degrees(base));
    } else {
      return base;
    }
  }
}

int MathParser::closed(int value) const {
  if (peek().kind == Kind::kNumber || peek().kind == Kind::kName)
    throw MathSyntaxError(str("\"", peek().text, "\" behind % or degrees"));
  return value;
}

int MathParser::prime(int base) {
  if (node(base).op != Op::kSymbol) throw MathSyntaxError("a prime behind what is no name");
  return add(Op::kSymbol, {}, node(base).name + "'");
}

std::string MathParser::subscript_text() {
  std::string out;
  if (!take("{")) {
    if (peek().kind == Kind::kEnd) unexpected();
    return tokens_[i_++].text;
  }
  for (int depth = 1; depth > 0; ++i_) {
    if (peek().kind == Kind::kEnd) unexpected();
    if (is("{")) ++depth;
    if (is("}") && --depth == 0) continue;
    out += peek().text;
  }
  return out;
}

int MathParser::subscript(int base) {
  ++i_;
  std::string text = subscript_text();
  if (node(base).op == Op::kNumber) return based_number(base, text);
  if (node(base).op == Op::kPow && node(node(base).args[0]).op == Op::kSymbol) {  // x^2_1
    int symbol = add(Op::kSymbol, {}, node(node(base).args[0]).name + "_" + text);
    return add(Op::kPow, {symbol, node(base).args[1]});
  }
  if (node(base).op != Op::kSymbol) throw MathSyntaxError("a subscript behind what is no name");
  int symbol = add(Op::kSymbol, {}, node(base).name + "_" + text);
  // a_3(x) is rare, a_n(b+c) a product; f_1(x) a function.
  if (is("(") && is_function_letter(node(base).name)) return add(Op::kCall, arguments(), "@" + node(symbol).name);
  return symbol;
}

int MathParser::based_number(int literal, const std::string& text) {
  int base = 0;
  static constexpr std::pair<std::string_view, int> kWords[] = {
      {"two", 2},   {"three", 3}, {"four", 4}, {"five", 5},    {"six", 6},     {"seven", 7},
      {"eight", 8}, {"nine", 9},  {"ten", 10}, {"twelve", 12}, {"sixteen", 16}};
  for (auto [word, value] : kWords)
    if (text == word) base = value;
  if (base == 0 && !text.empty() && text.size() <= 2 && text.find_first_not_of("0123456789") == std::string::npos)
    base = std::stoi(text);
  const MathNode& n = node(literal);
  if (base < 2 || base > 36 || !is_plain_integer(n)) throw MathSyntaxError(str("no base: ", text));
  std::string digits = n.number.get_str();
  mpz_class value;
  if (value.set_str(digits, base) != 0) throw MathSyntaxError(str("digits of ", digits, " do not fit base ", base));
  int out = add(Op::kNumber);
  expr_.nodes[size_t(out)].number = value;
  expr_.nodes[size_t(out)].base = base == 10 ? 0 : base;
  return out;
}

std::vector<int> MathParser::arguments() {
  expect("(");
  int bars = std::exchange(bars_, 0);
  std::vector<int> args = elements();
  bars_ = bars;
  if (args.empty()) unexpected();
  expect(")");
  return args;
}

int MathParser::group() {
  expect("{");
  int bars = std::exchange(bars_, 0);
  int inside = list();
  bars_ = bars;
  expect("}");
  return inside;
}

int MathParser::tight_argument() {
  if (is("{")) return group();
  MathToken& token = tokens_[i_];
  if (token.kind == Kind::kNumber && token.text.size() > 1 &&
      token.text.find_first_not_of("0123456789") == std::string::npos) {
    int digit = integer(token.text[0] - '0');
    token.text.erase(0, 1);
    return digit;
  }
  if (take("-")) return add(Op::kNeg, {tight_argument()});
  return primary();
}

int MathParser::number(const std::string& text) {
  if (text.size() > MathExpr::kMaxDigits)
    throw MathSyntaxError(str("a number of more than ", MathExpr::kMaxDigits, " digits"));
  std::string digits, repeating;
  int decimals = -1;
  long exponent = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '.') {
      decimals = 0;
    } else if (text[i] == '(') {
      size_t end = text.find(')', i);
      repeating = text.substr(i + 1, end - i - 1);
      i = end;
    } else if (text[i] == 'e') {
      std::string written = text.substr(i + 1);
      if (written.size() > 5 || std::abs(exponent = std::stol(written)) > kMaxExponent)
        throw MathSyntaxError(str("exponent beyond ", kMaxExponent, ": ", written));
      break;
    } else {
      digits += text[i];
      if (decimals >= 0) ++decimals;
    }
  }
  int out = add(Op::kNumber);
  MathNode& n = expr_.nodes[size_t(out)];
  mpz_class scale;
  mpz_ui_pow_ui(scale.get_mpz_t(), 10, static_cast<unsigned long>(std::max(decimals, 0)));
  n.number = mpq_class(mpz_class(digits.empty() ? "0" : digits, 10), scale);
  if (!repeating.empty()) {
    mpz_class nines;
    mpz_ui_pow_ui(nines.get_mpz_t(), 10, static_cast<unsigned long>(repeating.size()));
    n.number += mpq_class(mpz_class(repeating, 10), (nines - 1) * scale);
    decimals = -1;
  }
  if (exponent != 0) {
    mpz_ui_pow_ui(scale.get_mpz_t(), 10, static_cast<unsigned long>(std::abs(exponent)));
    n.number = exponent > 0 ? mpq_class(n.number * scale) : mpq_class(n.number / scale);
    if (decimals >= 0 || exponent < 0) decimals = std::max(decimals, 0) - int(exponent);
    if (decimals <= 0) decimals = -1;
  }
  n.number.canonicalize();
  n.decimals = decimals;
  return out;
}

int MathParser::name(const std::string& text) {
  if (is_join(text)) throw MathSyntaxError("\\" + text);
  if (text == "pi") return add(Op::kPi);
  if (text == "infinity") return add(Op::kInfinity);
  if (text == "e") return add(Op::kE);
  if (text == "i") return add(Op::kI);
  if (text == "mathbbR") {
    int minus = add(Op::kNeg, {add(Op::kInfinity)});
    int plus = add(Op::kInfinity);
    return add(Op::kTuple, {minus, plus}, "()");
  }
  if (is("(") && !peek().spaced && is_function_letter(text)) return add(Op::kCall, arguments(), "@" + text);
  // One quantity: they do not cancel in "\frac{\Delta y}{\Delta x}".
  if ((text == "Delta" || text == "partial") && peek().kind == Kind::kName)
    return add(Op::kSymbol, {}, text + ' ' + tokens_[i_++].text);
  int symbol = add(Op::kSymbol, {}, text);
  if ((text == "angle" || text == "triangle" || text == "arc") && starts_factor()) {  // \angle ABC
    std::string joined = text;
    while (peek().kind == Kind::kName) joined += tokens_[i_++].text;
    symbol = add(Op::kSymbol, {}, joined);
  }
  return symbol;
}

int MathParser::primary() {
  Depth guard(depth_);
  const MathToken token = peek();
  switch (token.kind) {
    case Kind::kNumber:
      ++i_;
      return number(token.text);
    case Kind::kName:
      ++i_;
      return name(token.text);
    case Kind::kText:
      if (const int number = number_in_words(); number >= 0) return number;
      ++i_;
      return add(Op::kSymbol, {}, "'" + token.text);  // the quote marks a word
    case Kind::kFunction:
      ++i_;
      return function(token);
    case Kind::kEnd:
      unexpected();
    case Kind::kOp:
      break;
  }
  if (is("{")) return group();
  if (is("(") || is("[") || is("]")) return brackets();
  if (take("\\{")) {
    bool outer = std::exchange(in_set_, true);
    int bars = std::exchange(bars_, 0);
    std::vector<int> members = elements();
    in_set_ = outer;
    if (take(":")) members = {relation()};  // {x : x > 2}
    bars_ = bars;
    expect("\\}");
    if (members.size() == 1 && node(members[0]).op == Op::kRelation) return members[0];
    return add(Op::kSet, std::move(members));
  }
  if (take("empty")) return add(Op::kSet);
  if (take("|")) {
    while (take("|")) {
    }
    ++bars_;
    int inside = sum();
    --bars_;
    expect("|");
    while (take("|")) {
    }
    return add(Op::kCall, {inside}, "abs");
  }
  for (std::string_view name : {"floor", "ceil"})
    if (take(str("l", name))) {
      int inside = sum();
      expect(str("r", name));
      return add(Op::kCall, {inside}, std::string(name));
    }
  if (token.text.starts_with("begin:")) return environment(token.text.substr(6));
  unexpected();
}

int MathParser::brackets() {
  std::string kind = peek().text;
  ++i_;
  int bars = std::exchange(bars_, 0);
  bool in_set = std::exchange(in_set_, false);
  std::vector<int> args = elements();
  bars_ = bars, in_set_ = in_set;
  if (!is(")") && !is("]") && !is("[")) unexpected();
  kind += peek().text;
  ++i_;
  if (args.empty()) throw MathSyntaxError("empty brackets");
  if (args.size() == 1 && (kind == "()" || kind == "[]")) return args[0];
  if (kind == "][") kind = "()";  // open intervals of another school
  if (kind == "]]") kind = "(]";
  if (kind == "[[") kind = "[)";
  bool matrix = kind == "[]";  // [[1, 2], [3, 4]], [1, 2; 3, 4]
  for (int arg : args)
    matrix = matrix && node(arg).op == Op::kTuple && (node(arg).name == "[]" || node(arg).base == 1) &&
             node(arg).args.size() == node(args[0]).args.size();
  if (matrix) {
    std::vector<int> cells;
    for (int arg : args) cells.insert(cells.end(), node(arg).args.begin(), node(arg).args.end());
    int columns = int(node(args[0]).args.size());
    int out = add(Op::kMatrix, std::move(cells));
    expr_.nodes[size_t(out)].base = columns;
    return out;
  }
  return add(Op::kTuple, std::move(args), kind);
}

int MathParser::environment(const std::string& kind) {
  ++i_;
  bool matrix = kind.ends_with("matrix") || kind == "array";
  bool lines = kind == "cases";
  for (std::string_view name : {"align", "equation", "gather", "split", "multline"})
    lines = lines || kind.starts_with(name);
  if (!matrix && !lines) throw MathSyntaxError(str("environment ", kind));
  std::vector<int> cells;
  size_t columns = 0, row = 0;
  for (;;) {
    if (is("end")) break;
    cells.push_back(relation());
    ++row;
    if (take("&")) continue;
    if (matrix && columns != 0 && row != columns) throw MathSyntaxError("rows of unequal length");
    columns = row, row = 0;
    if (!take("\\\\")) take(",");
  }
  expect("end");
  if (cells.empty()) throw MathSyntaxError("empty environment");
  if (!matrix) return cells.size() == 1 ? cells[0] : add(Op::kList, std::move(cells));
  int out = add(Op::kMatrix, std::move(cells));
  expr_.nodes[size_t(out)].base = int(columns);
  return kind == "vmatrix" ? add(Op::kCall, {out}, "det") : out;
}

int MathParser::function(const MathToken& token) {
  const std::string& name = token.text;
  if (name == "frac" || name == "binom") {
    const auto differential = [&] { return is("{") && peek(1).kind == Kind::kName && peek(1).text == "d"; };
    const bool derivative =
        name == "frac" && differential() && (is("}", 2) || is("^", 2) || peek(2).kind == Kind::kName);
    int above = tight_argument();
    if (derivative && differential() && peek(2).kind == Kind::kName) throw MathSyntaxError("a derivative");
    int below = tight_argument();
    return name == "frac" ? add(Op::kDiv, {above, below}) : add(Op::kCall, {above, below}, name);
  }
  if (name == "sqrt") {
    int index = -1;
    if (take("[")) {
      index = sum();
      expect("]");
    }
    if (is("^")) throw MathSyntaxError("a power of \\sqrt without argument");
    int inside = is("{") ? group() : token.command ? tight_argument() : primary();
    return index < 0 ? add(Op::kCall, {inside}, "sqrt") : add(Op::kCall, {index, inside}, "root");
  }
  int base = -1, power = -1;
  for (;;) {
    if (is("_") && base < 0) {
      ++i_;
      base = is("{") ? group() : tight_argument();
    } else if (power < 0 && take("^")) {
      power = exponent();
    } else {
      break;
    }
  }
  std::string called = name;
  if (power >= 0 && inverse(power)) {
    if (!called.starts_with("ar")) called = "arc" + called;
    power = -1;
  }
  std::vector<int> args;
  if (name == "max" || name == "min" || name == "gcd" || name == "lcm" || name == "det") {
    if (is("(")) {
      args = arguments();
    } else if (const int arg = factor(); node(arg).op == Op::kSet) {  // \max\{1, 2\}
      args = node(arg).args;
    } else {
      args = {arg};
    }
  } else {
    args = {function_argument()};
  }
  if (base >= 0 && called == "log") args.insert(args.begin(), base);
  int out = add(Op::kCall, std::move(args), called);
  return power < 0 ? out : add(Op::kPow, {out, power});
}

bool MathParser::inverse(int power) const {
  const MathNode& n = node(power);
  return n.op == Op::kNeg && node(n.args[0]).op == Op::kNumber && node(n.args[0]).number == 1;
}

int MathParser::function_argument() {
  Depth guard(depth_);
  if (is("(")) {
    std::vector<int> args = arguments();
    if (args.size() != 1) throw MathSyntaxError("a function of one argument has several");
    return args[0];
  }
  if (is("{")) return group();
  if (is("-")) {
    ++i_;
    return add(Op::kNeg, {function_argument()});
  }
  std::vector<int> product{factor()};
  while (starts_factor() && !is("(") && !is("[") &&
         (peek().kind != Kind::kFunction || peek().text == "frac" || peek().text == "sqrt") &&
         peek().kind != Kind::kText)
    product.push_back(factor());
  return product.size() == 1 ? product[0] : add(Op::kMul, std::move(product));
}

}  // namespace mantissa
