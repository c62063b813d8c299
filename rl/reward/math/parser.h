// Expressions from LaTeX or plain text by recursive descent, in two sources. From loose to tight:
//
//   answer    list
//   list      relation (, ; "and") ...
//   relation  union (= < in ...) ...
//   union     sum (cup) ...
//   sum       term (+ - pm) ...
//   term      factor (* / or nothing) ...
//   factor    primary with ^ _ ! ' % deg behind it
//
// parse.cpp holds the levels down to factors, primary.cpp what is below.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "rl/reward/math/expr.h"
#include "rl/reward/math/lexer.h"
#include "rl/reward/math/units.h"

namespace mantissa {

class MathParser {
 public:
  using Op = MathNode::Op;
  using Kind = MathToken::Kind;

  MathParser(std::vector<MathToken> tokens, MathExpr& expr) : tokens_(std::move(tokens)), expr_(expr) {}
  void run();

 private:
  const MathToken& peek(size_t ahead = 0) const { return tokens_[std::min(i_ + ahead, tokens_.size() - 1)]; }
  bool is(std::string_view op, size_t ahead = 0) const {
    return peek(ahead).kind == Kind::kOp && peek(ahead).text == op;
  }
  bool take(std::string_view op) { return is(op) ? (++i_, true) : false; }
  void expect(std::string_view op) {
    if (!take(op)) throw MathSyntaxError(str("expected ", op, " at byte ", peek().at));
  }
  [[noreturn]] void unexpected() const;
  int add(Op op, std::vector<int> args = {}, std::string name = {});
  int integer(long value);
  const MathNode& node(int i) const { return expr_[i]; }

  /// Counts a level of nesting while it lives.
  struct Depth {
    explicit Depth(int& depth) : depth(depth) {
      if (++depth > MathExpr::kMaxDepth) {
        --depth;
        throw MathSyntaxError(str("nested more than ", MathExpr::kMaxDepth, " deep"));
      }
    }
    ~Depth() { --depth; }
    int& depth;
  };

  bool at_end() const;
  /// Elements split by commas, semicolons and "and"; "19, 46, and 82" has one separator in ", and".
  std::vector<int> elements();
  int list();
  char relation_op() const;
  int relation();
  int ratio();
  int unions();
  int sum();
  bool starts_factor() const;
  static bool is_plain_integer(const MathNode& n) {
    return n.op == Op::kNumber && n.decimals < 0 && n.base == 0 && n.number.get_den() == 1;
  }
  /// "1\frac45", "1 1/2", "-3 \frac12": a whole number and a fraction of whole numbers, a sum where that is below
  /// one. -1: no such fraction follows.
  int mixed_fraction(int whole);
  int term();
  static bool known_unit(std::string_view words) { return !unit_of_word(words.substr(0, words.find(' '))).empty(); }
  /// Words behind these factors are a unit: there is a value, and it is no word itself.
  bool has_value(const std::vector<int>& product) const;
  /// "cm^2", "miles/hour", "\text{degrees}": read, kept aside.
  void units();
  int signed_factor();
  int factor();
  bool degree_exponent();
  /// What stands behind ^: a group, or one signed number or name.
  int exponent();
  int postfix(int base);
  int prime(int base);
  /// The written content of a subscript, as part of a name.
  std::string subscript_text();
  int subscript(int base);
  /// 204_5: the digits of the literal read in another base.
  int based_number(int literal, const std::string& text);
  static bool is_function_letter(std::string_view name) { return name == "f" || name == "g" || name == "h"; }
  /// "(a, b)" behind a function.
  std::vector<int> arguments();
  /// Braces: TeX's only group, "{1, 2}" typed without backslashes is a list.
  int group();
  /// An argument of \frac and its like: a group, or one digit or letter.
  int tight_argument();
  int number(const std::string& text);
  int name(const std::string& text);
  int primary();
  int brackets();
  int environment(const std::string& kind);
  int function(const std::string& name);
  bool inverse(int power) const;
  /// "(x)" or "{x}" alone; else the factors up to the next function or operator: \sin 2x \cos x is a product.
  int function_argument();

  std::vector<MathToken> tokens_;
  MathExpr& expr_;
  size_t i_ = 0;
  int depth_ = 0;
  int bars_ = 0;         // open |
  bool in_set_ = false;  // where ':' separates members from their condition
};

/// True and fills `expr`, or false and says in `error` what could not be read and where.
bool parse_math(std::string_view text, MathExpr& expr, std::string& error);

}  // namespace mantissa
