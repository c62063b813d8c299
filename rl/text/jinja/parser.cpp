#include "rl/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "core/error.h"
#include "rl/text/jinja/expressions.h"

namespace mantissa::jinja {

namespace {

constexpr int kMaxNesting = 100;

class Parser {
 public:
  explicit Parser(std::string_view source) : in_(tokenize(source)) {}

  Body run() { return body_until({}, "template"); }

 private:
  bool at_one_of(std::initializer_list<const char*> names) const {
    return std::any_of(names.begin(), names.end(), [&](const char* name) { return in_.is_name(name); });
  }

  /// Statements up to the tag that begins with one of `ends`; its name is the current token then.
  Body body_until(std::initializer_list<const char*> ends, const char* what) {
    if (++nesting_ > kMaxNesting) in_.error("blocks nest at most ", kMaxNesting, " deep");
    Body body;
    for (;;) {
      const Token token = in_.take();
      switch (token.kind) {
        case Token::Kind::kText:
          body.push_back(make(Statement::Kind::kText, token.line));
          body.back().text = token.text;
          break;
        case Token::Kind::kVariableBegin:
          body.push_back(make(Statement::Kind::kOutput, token.line));
          body.back().value = in_.tuple();
          if (in_.current().kind != Token::Kind::kVariableEnd) in_.error("expected the end of the output");
          in_.take();
          break;
        case Token::Kind::kBlockBegin:
          if (at_one_of(ends)) {
            --nesting_;
            return body;
          }
          body.push_back(statement());
          break;
        default:
          if (ends.size() > 0) in_.error("the ", what, " has no ", *(ends.end() - 1));
          --nesting_;
          return body;
      }
    }
  }

  static Statement make(Statement::Kind kind, int line) {
    Statement s{};
    s.kind = kind;
    s.line = line;
    return s;
  }

  void end_block() {
    if (in_.current().kind != Token::Kind::kBlockEnd) in_.error("expected the end of the block");
    in_.take();
  }

  /// The body of a block and its end tag.
  Body whole_body(const char* end, const char* what) {
    end_block();
    Body body = body_until({end}, what);
    in_.take();
    end_block();
    return body;
  }

  Statement statement() {
    const int line = in_.current().line;
    const std::string name = in_.expect_any_name("the name of a tag");
    if (name == "if") return if_statement(line);
    if (name == "for") return for_statement(line);
    if (name == "set") return set_statement(line);
    if (name == "macro") return macro_statement(line);
    if (name == "call") return call_statement(line);
    if (name == "with") return with_statement(line);
    if (name == "filter") {
      Statement s = make(Statement::Kind::kFilter, line);
      s.value = in_.filters_of_block(true);
      s.body = whole_body("endfilter", "filter");
      return s;
    }
    if (name == "generation") {
      Statement s = make(Statement::Kind::kScope, line);
      s.body = whole_body("endgeneration", "generation");
      return s;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) in_.error(name, " stands outside a loop");
      Statement s = make(name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue, line);
      end_block();
      return s;
    }
    if (name == "print") {
      Statement s = make(Statement::Kind::kOutput, line);
      s.value = in_.tuple();
      end_block();
      return s;
    }
    fail("line ", line, ": the tag \"", name, "\" is not supported");
  }

  Statement if_statement(int line) {
    Statement s = make(Statement::Kind::kIf, line);
    for (;;) {
      ExpressionPtr condition = in_.tuple(false);
      end_block();
      s.branches.emplace_back(std::move(condition), body_until({"elif", "else", "endif"}, "if"));
      if (in_.skip_name("elif")) continue;
      if (in_.skip_name("else")) {
        s.otherwise = whole_body("endif", "if");
      } else {
        in_.take();
        end_block();
      }
      return s;
    }
  }

  Statement for_statement(int line) {
    Statement s = make(Statement::Kind::kFor, line);
    s.target = in_.target(false, "in");
    in_.expect_name("in");
    s.value = in_.tuple(false, "recursive");
    if (in_.skip_name("if")) s.condition = in_.expression();
    if (in_.is_name("recursive")) in_.error("recursive loops are not supported");
    end_block();
    ++loops_;
    s.body = body_until({"else", "endfor"}, "for");
    --loops_;
    if (in_.skip_name("else")) {
      s.otherwise = whole_body("endfor", "for");
    } else {
      in_.take();
      end_block();
    }
    return s;
  }

  Statement set_statement(int line) {
    Statement s = make(Statement::Kind::kSet, line);
    s.target = in_.target(true);
    if (in_.skip_operator("=")) {
      s.value = in_.tuple();
      end_block();
      return s;
    }
    s.kind = Statement::Kind::kSetBlock;
    s.value = in_.filters_of_block(false);
    s.body = outside_loops([&] { return whole_body("endset", "set"); });
    return s;
  }

  /// Bodies that are functions of their own: break and continue do not reach out of them.
  template <class F>
  Body outside_loops(const F& read) {
    const int loops = std::exchange(loops_, 0);
    Body body = read();
    loops_ = loops;
    return body;
  }

  void signature(Statement& s) {
    in_.expect_operator("(");
    while (!in_.skip_operator(")")) {
      if (!s.parameters.empty()) in_.expect_operator(",");
      Parameter p{in_.expect_any_name("a parameter"), nullptr};
      if (in_.skip_operator("="))
        p.otherwise = in_.expression();
      else if (!s.parameters.empty() && s.parameters.back().otherwise)
        in_.error("a parameter without a default after one with a default");
      s.parameters.push_back(std::move(p));
    }
  }

  /// The body of a macro or call, with the special names that it reads.
  void function_body(Statement& s, const char* end, const char* what) {
    const size_t before = in_.names.size();
    s.body = outside_loops([&] { return whole_body(end, what); });
    const auto reads = [&](const char* name) {
      return std::find(in_.names.begin() + int64_t(before), in_.names.end(), name) != in_.names.end();
    };
    s.uses_varargs = reads("varargs");
    s.uses_kwargs = reads("kwargs");
    s.uses_caller = reads("caller");
  }

  Statement macro_statement(int line) {
    Statement s = make(Statement::Kind::kMacro, line);
    s.text = in_.expect_any_name("the name of the macro");
    signature(s);
    function_body(s, "endmacro", "macro");
    return s;
  }

  Statement call_statement(int line) {
    Statement s = make(Statement::Kind::kCall, line);
    s.text = "caller";
    if (in_.is_operator("(")) signature(s);
    s.value = in_.expression();
    if (s.value->kind != Expression::Kind::kCall) fail("line ", line, ": call needs a call");
    function_body(s, "endcall", "call");
    return s;
  }

  Statement with_statement(int line) {
    Statement s = make(Statement::Kind::kWith, line);
    while (in_.current().kind != Token::Kind::kBlockEnd) {
      if (!s.targets.empty()) in_.expect_operator(",");
      s.targets.push_back(in_.target(false, {}));
      in_.expect_operator("=");
      s.values.push_back(in_.expression());
    }
    s.body = whole_body("endwith", "with");
    return s;
  }

  ExpressionParser in_;
  int nesting_ = 0, loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) {
  return Parser(source).run();
}

}  // namespace mantissa::jinja
