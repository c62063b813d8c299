// Expressions from LaTeX or plain text by recursive descent, in two sources. From loose to tight:
//
//   answer    list
//   list      relation (, ; "and") ...
//   relation  union (= < in ...) ...
//   union     sum (cup) ...
//   sum       term (+ - pm mod) ...
//   term      factor (* / or nothing) ...
//   factor    primary with ^ _ ! ' % deg behind it
//
// parse.cpp holds the levels down to factors, primary.cpp what is below, quantity.cpp the words around values.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "rl/reward/math/expr.h"
#include "rl/reward/math/lexer.h"
#include "rl/reward/math/text.h"
#include "rl/reward/math/units.h"

namespace mantissa {

class MathParser {
 public:
  using Op = MathNode::Op;
  using Kind = MathToken::Kind;

  MathParser(MathTokens tokens, MathExpr& expr) : tokens_(std::move(tokens.tokens)), expr_(expr) {
    expr_.unknown = std::move(tokens.unknown);
    expr_.connective = std::move(tokens.connective);
  }
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
  /// "5 m + 3 cm" is neither 8 nor computed: throws.
  void check_units(const std::vector<int>& args) const;
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
  /// Elements split by commas, semicolons and "and"; "19, 46, and 82" has one separator in ", and". Where commas and
  /// semicolons both do, what stands between semicolons is one element, a tuple.
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
  /// "1\frac45", "1 1/2", "-3 \frac12": a whole number and a fraction of whole numbers, a sum where that is below one.
  /// -1: no such fraction follows.
  int mixed_fraction(int whole);
  int term();
  /// Reads one more factor, or * / and their right side, into the product; false where none follows.
  bool extend(std::vector<int>& product, bool& explicit_sign);
  int close(std::vector<int>& product, bool explicit_sign);
  /// "2{3}" is typeset as 23, "2{1\over3}" as a mixed fraction.
  void join_number_and_group(std::vector<int>& product);

  /// Words before the answer that only say that it comes: "Answer:", "The answer is", "approximately".
  void skip_label();
  /// A sign of currency at i_ + ahead, "" for none.
  std::string_view currency(size_t ahead = 0) const;
  /// Whether words, units or a remark in parentheses stand behind the product, which has a value.
  bool starts_suffix(const std::vector<int>& product) const;
  /// Words behind these factors are a unit: there is a value, and it is no word itself.
  bool has_value(const std::vector<int>& product) const;
  /// "cm^2", "miles/hour", "\text{ million dollars}", "apples": scales go into the product, units and nouns into
  /// `unit`, other words to the expression's remarks.
  void suffix(std::vector<int>& product, Unit& unit);
  bool suffix_in_parentheses(std::vector<int>& product, Unit& unit);
  /// ^{-2} behind a unit; 0 where it is no whole number.
  int unit_power();
  /// The number that the token's first words spell; -1 where they spell none.
  int number_in_words();
  /// 90^\circ; 25^\circ C is a temperature.
  int degrees(int base);

  int signed_factor();
  int factor();
  bool degree_exponent();
  /// What stands behind ^: a group, or one signed number or name.
  int exponent();
  int postfix(int base);
  /// `value` ends in % or degrees: a number or name behind it would be no factor ("17 % 5", "f \circ g"), and throws.
  int closed(int value) const;
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
  int function(const MathToken& token);
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
