#include "rl/text/jinja/expressions.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"
#include "rl/text/jinja/python_text.h"

namespace mantissa::jinja {

namespace {

// Trees are walked by recursion: how deep they may be is what the stack holds.
constexpr int kMaxDepth = 200;

const std::set<std::string, std::less<>> kConstants = {"true", "false", "none", "True", "False", "None"};

std::vector<ExpressionPtr> several(ExpressionPtr a, ExpressionPtr b = nullptr) {
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(a));
  if (b) parts.push_back(std::move(b));
  return parts;
}

}  // namespace

ExpressionPtr ExpressionParser::make(Expression::Kind kind, int line) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExpressionPtr ExpressionParser::join(Expression::Kind kind, int line, std::string text,
                                     std::vector<ExpressionPtr> parts) const {
  ExpressionPtr node = make(kind, line);
  node->text = std::move(text);
  node->parts = std::move(parts);
  for (const ExpressionPtr& part : node->parts)
    if (part) node->depth = std::max(node->depth, part->depth + 1);
  for (const Argument& argument : node->arguments) node->depth = std::max(node->depth, argument.value->depth + 1);
  if (node->depth > kMaxDepth) fail("line ", line, ": ", "expressions nest at most ", kMaxDepth, " deep");
  return node;
}

ExpressionPtr ExpressionParser::expression(bool conditional) {
  if (++nesting_ > kMaxDepth) error("expressions nest at most ", kMaxDepth, " deep");
  ExpressionPtr node = disjunction();
  while (conditional && is_name("if")) {
    const int line = take().line;
    std::vector<ExpressionPtr> parts = several(disjunction(), std::move(node));
    parts.push_back(skip_name("else") ? expression() : nullptr);
    node = join(Expression::Kind::kConditional, line, {}, std::move(parts));
  }
  --nesting_;
  return node;
}

ExpressionPtr ExpressionParser::disjunction() {
  ExpressionPtr left = conjunction();
  while (is_name("or")) {
    const int line = take().line;
    left = join(Expression::Kind::kOr, line, {}, several(std::move(left), conjunction()));
  }
  return left;
}

ExpressionPtr ExpressionParser::conjunction() {
  ExpressionPtr left = negation();
  while (is_name("and")) {
    const int line = take().line;
    left = join(Expression::Kind::kAnd, line, {}, several(std::move(left), negation()));
  }
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  if (!is_name("not")) return comparison();
  if (++nesting_ > kMaxDepth) error("expressions nest at most ", kMaxDepth, " deep");
  const int line = take().line;
  ExpressionPtr node = join(Expression::Kind::kNot, line, {}, several(negation()));
  --nesting_;
  return node;
}

ExpressionPtr ExpressionParser::comparison() {
  const int line = current().line;
  std::vector<ExpressionPtr> parts = several(sum());
  std::vector<std::string> operators;
  for (;;) {
    if (current().kind == Token::Kind::kOperator &&
        std::set<std::string>{"==", "!=", "<", "<=", ">", ">="}.contains(current().text)) {
      operators.push_back(take().text);
    } else if (skip_name("in")) {
      operators.push_back("in");
    } else if (is_name("not") && ahead().kind == Token::Kind::kName && ahead().text == "in") {
      take();
      take();
      operators.push_back("not in");
    } else {
      break;
    }
    parts.push_back(sum());
  }
  if (operators.empty()) return std::move(parts[0]);
  ExpressionPtr node = join(Expression::Kind::kCompare, line, {}, std::move(parts));
  node->operators = std::move(operators);
  return node;
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (is_operator("+") || is_operator("-")) {
    Token op = take();
    left = join(Expression::Kind::kArithmetic, op.line, op.text, several(std::move(left), concatenation()));
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  const int line = current().line;
  std::vector<ExpressionPtr> parts = several(product());
  while (skip_operator("~")) parts.push_back(product());
  return parts.size() == 1 ? std::move(parts[0]) : join(Expression::Kind::kConcat, line, {}, std::move(parts));
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    Token op = take();
    left = join(Expression::Kind::kArithmetic, op.line, op.text, several(std::move(left), power()));
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary(true);
  while (is_operator("**")) {
    const int line = take().line;
    left = join(Expression::Kind::kArithmetic, line, "**", several(std::move(left), unary(true)));
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  if (++nesting_ > kMaxDepth) error("expressions nest at most ", kMaxDepth, " deep");
  const int line = current().line;
  ExpressionPtr node;
  if (skip_operator("-"))
    node = join(Expression::Kind::kNegative, line, {}, several(unary(false)));
  else if (skip_operator("+"))
    node = join(Expression::Kind::kPositive, line, {}, several(unary(false)));
  else
    node = primary();
  node = postfix(std::move(node));
  if (with_filters) node = filters_and_tests(std::move(node));
  --nesting_;
  return node;
}

ExpressionPtr ExpressionParser::primary() {
  const Token token = take();
  ExpressionPtr node = make(Expression::Kind::kConstant, token.line);
  switch (token.kind) {
    case Token::Kind::kName:
      if (kConstants.contains(token.text)) {
        const char first = char(token.text[0] | 0x20);
        node->constant = first == 'n' ? Value(None()) : Value(first == 't');
        return node;
      }
      node->kind = Expression::Kind::kName;
      node->text = token.text;
      names.push_back(token.text);
      return node;
    case Token::Kind::kString: {
      std::string text = token.text;
      while (current().kind == Token::Kind::kString) text += take().text;
      node->constant = std::move(text);
      return node;
    }
    case Token::Kind::kInteger: {
      int64_t value = 0;
      const auto read = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (read.ec != std::errc())
        fail("line ", token.line, ": ", "integers beyond 64 bits are not supported: got " + token.text);
      node->constant = value;
      return node;
    }
    case Token::Kind::kFloat: {
      double value = 0;
      const auto read = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (read.ec != std::errc()) fail("line ", token.line, ": ", "a float out of range: " + token.text);
      node->constant = value;
      return node;
    }
    case Token::Kind::kOperator:
      if (token.text == "(") {
        node = tuple(true, {}, true);
        expect_operator(")");
        return node;
      }
      if (token.text == "[") return list();
      if (token.text == "{") return dict();
      break;
    default:
      break;
  }
  fail("line ", token.line, ": ", "expected an expression, got " + shown(token));
}

ExpressionPtr ExpressionParser::list() {
  const int line = current().line;
  std::vector<ExpressionPtr> parts;
  while (!skip_operator("]")) {
    if (!parts.empty()) expect_operator(",");
    if (skip_operator("]")) break;
    parts.push_back(expression());
  }
  return join(Expression::Kind::kList, line, {}, std::move(parts));
}

ExpressionPtr ExpressionParser::dict() {
  const int line = current().line;
  std::vector<ExpressionPtr> parts;
  while (!skip_operator("}")) {
    if (!parts.empty()) expect_operator(",");
    if (skip_operator("}")) break;
    parts.push_back(expression());
    expect_operator(":");
    parts.push_back(expression());
  }
  return join(Expression::Kind::kDict, line, {}, std::move(parts));
}

bool ExpressionParser::ends_tuple(std::string_view end) const {
  return current().kind == Token::Kind::kBlockEnd || current().kind == Token::Kind::kVariableEnd || is_operator(")") ||
         (!end.empty() && is_name(end));
}

ExpressionPtr ExpressionParser::tuple(bool conditional, std::string_view end, bool may_be_empty) {
  const int line = current().line;
  std::vector<ExpressionPtr> parts;
  bool is_tuple = false;
  while (!ends_tuple(end)) {
    parts.push_back(expression(conditional));
    if (!is_operator(",")) break;
    take();
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts[0]);
  if (!is_tuple && !may_be_empty) error("expected an expression, got ", shown(current()));
  return join(Expression::Kind::kTuple, line, {}, std::move(parts));
}

ExpressionPtr ExpressionParser::target(bool attributes, std::string_view end) {
  const int line = current().line;
  const bool bracketed = skip_operator("(");
  std::vector<ExpressionPtr> parts;
  bool is_tuple = false;
  while (!ends_tuple(end) && !is_operator("=")) {
    if (is_operator("(")) error("targets in targets are not supported");
    ExpressionPtr node = make(Expression::Kind::kName, current().line);
    node->text = expect_any_name("a name to assign to");
    if (kConstants.contains(node->text) || (node->text == "loop" && !end.empty()))
      error("\"", node->text, "\" cannot be assigned to");
    if (attributes && skip_operator(".")) {
      node->kind = Expression::Kind::kTarget;
      node->operators.push_back(expect_any_name("an attribute"));
    }
    parts.push_back(std::move(node));
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (bracketed) expect_operator(")");
  if (parts.empty()) error("expected a name to assign to, got ", shown(current()));
  return is_tuple ? join(Expression::Kind::kTuple, line, {}, std::move(parts)) : std::move(parts[0]);
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr node) {
  for (;;) {
    const int line = current().line;
    if (skip_operator(".")) {
      const Token token = take();
      if (token.kind == Token::Kind::kName) {
        node = join(Expression::Kind::kAttribute, line, token.text, several(std::move(node)));
      } else {
        if (token.kind != Token::Kind::kInteger) fail("line ", line, ": ", "expected a name or number after '.'");
        ExpressionPtr index = make(Expression::Kind::kConstant, line);
        int64_t value = 0;
        std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
        index->constant = value;
        node = join(Expression::Kind::kItem, line, {}, several(std::move(node), std::move(index)));
      }
    } else if (skip_operator("[")) {
      node = subscript(std::move(node));
    } else if (is_operator("(")) {
      ExpressionPtr call = make(Expression::Kind::kCall, line);
      call_arguments(*call);
      std::vector<Argument> arguments = std::move(call->arguments);
      node = join(Expression::Kind::kCall, line, {}, several(std::move(node)));
      for (const Argument& a : arguments) node->depth = std::max(node->depth, a.value->depth + 1);
      node->arguments = std::move(arguments);
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr node) {
  const int line = current().line;
  ExpressionPtr bounds[3];
  size_t colons = 0;
  while (!is_operator("]")) {
    if (is_operator(":")) {
      if (++colons > 2) error("a slice has at most two colons");
      take();
    } else {
      if (bounds[colons]) error("expected ']', got ", shown(current()));
      bounds[colons] = expression();
    }
  }
  take();
  std::vector<ExpressionPtr> parts = several(std::move(node));
  if (colons == 0) {
    if (!bounds[0]) fail("line ", line, ": ", "expected an expression in brackets");
    parts.push_back(std::move(bounds[0]));
    return join(Expression::Kind::kItem, line, {}, std::move(parts));
  }
  for (ExpressionPtr& bound : bounds) parts.push_back(std::move(bound));
  return join(Expression::Kind::kSlice, line, {}, std::move(parts));
}

void ExpressionParser::call_arguments(Expression& node) {
  expect_operator("(");
  bool first = true;
  while (!skip_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (skip_operator(")")) break;
    }
    first = false;
    Argument argument{Argument::Kind::kPositional, {}, nullptr};
    if (skip_operator("*")) {
      argument.kind = Argument::Kind::kList;
    } else if (skip_operator("**")) {
      argument.kind = Argument::Kind::kDict;
    } else if (current().kind == Token::Kind::kName && ahead().kind == Token::Kind::kOperator && ahead().text == "=") {
      argument.kind = Argument::Kind::kNamed;
      argument.name = take().text;
      take();
    } else if (!node.arguments.empty() && node.arguments.back().kind != Argument::Kind::kPositional) {
      error("a positional argument after a named one");
    }
    argument.value = expression();
    node.depth = std::max(node.depth, argument.value->depth + 1);
    node.arguments.push_back(std::move(argument));
  }
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr node) {
  for (;;) {
    if (is_operator("|"))
      node = filter(std::move(node), false);
    else if (is_name("is"))
      node = test(std::move(node));
    else if (is_operator("("))
      node = postfix(std::move(node));
    else
      return node;
  }
}

ExpressionPtr ExpressionParser::filter(ExpressionPtr node, bool inline_start) {
  while (inline_start || skip_operator("|")) {
    inline_start = false;
    ExpressionPtr next = make(Expression::Kind::kFilter, current().line);
    next->text = expect_any_name("a filter");
    while (skip_operator(".")) next->text += "." + expect_any_name("a filter");
    if (is_operator("(")) call_arguments(*next);
    next->depth = std::max(next->depth, node ? node->depth + 1 : 1);
    if (next->depth > kMaxDepth) error("expressions nest at most ", kMaxDepth, " deep");
    next->parts.push_back(std::move(node));
    node = std::move(next);
  }
  return node;
}

ExpressionPtr ExpressionParser::filters_of_block(bool inline_start) {
  return filter(nullptr, inline_start);
}

ExpressionPtr ExpressionParser::test(ExpressionPtr node) {
  const int line = take().line;  // is
  const bool negated = skip_name("not");
  ExpressionPtr next = make(Expression::Kind::kTest, line);
  next->text = expect_any_name("a test");
  while (skip_operator(".")) next->text += "." + expect_any_name("a test");
  const Token::Kind kind = current().kind;
  const bool value = kind == Token::Kind::kString || kind == Token::Kind::kInteger || kind == Token::Kind::kFloat ||
                     is_operator("[") || is_operator("{") ||
                     (kind == Token::Kind::kName && !is_name("else") && !is_name("or") && !is_name("and"));
  if (is_operator("(")) {
    call_arguments(*next);
  } else if (value) {
    if (is_name("is")) error("tests cannot be chained with is");
    next->arguments.push_back({Argument::Kind::kPositional, {}, postfix(primary())});
  }
  next->depth = node->depth + 1;
  for (const Argument& a : next->arguments) next->depth = std::max(next->depth, a.value->depth + 1);
  if (next->depth > kMaxDepth) error("expressions nest at most ", kMaxDepth, " deep");
  next->parts.push_back(std::move(node));
  return negated ? join(Expression::Kind::kNot, line, {}, several(std::move(next))) : std::move(next);
}

}  // namespace mantissa::jinja
