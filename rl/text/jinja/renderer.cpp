#include "rl/text/jinja/renderer.h"

#include <map>

#include "core/error.h"
#include "rl/text/jinja/filters.h"
#include "rl/text/jinja/globals.h"
#include "rl/text/jinja/methods.h"
#include "rl/text/jinja/objects.h"
#include "rl/text/jinja/operations.h"
#include "rl/text/jinja/predicates.h"

namespace mantissa::jinja {

namespace {

constexpr int kMaxCalls = 60;
constexpr size_t kMaxOutput = size_t(1) << 24;

/// Names of a block. Macros keep the scopes around them; the interpreter owns all.
struct Scope {
  Scope* parent = nullptr;
  std::map<std::string, Value, std::less<>> names;
  bool kept = false;  // a macro was made in it
};

class Interpreter;

class Macro final : public Object {
 public:
  Macro(Interpreter& interpreter, const Statement& definition, Scope* scope)
      : interpreter_(interpreter), definition_(definition), scope_(scope) {}
  std::string type() const override { return "macro " + definition_.text; }
  bool callable() const override { return true; }
  Value call(const Arguments& arguments) override;
  Value attribute(std::string_view name) const override {
    if (name == "name") return definition_.kind == Statement::Kind::kCall ? Value(None()) : Value(definition_.text);
    for (const char* other : {"arguments", "catch_kwargs", "catch_varargs", "caller", "explicit_caller"})
      check(name != other, "the attribute \"", name, "\" of a macro is not supported");
    return Object::attribute(name);
  }

 private:
  Interpreter& interpreter_;
  const Statement& definition_;
  Scope* scope_;
};

class Interpreter {
 public:
  Interpreter(const Dict& variables, std::time_t now) : variables_(variables), globals_(objects_, now) {}

  std::string run(const Body& body) {
    std::string out;
    try {
      Scope root;
      scope_ = &root;
      out_ = &out;
      execute(body);
    } catch (const Error& e) {
      fail("line ", line_, ": ", e.what());
    }
    return out;
  }

  /// The text that the body of a macro writes.
  Value call_macro(const Statement& macro, Scope* scope, const Arguments& arguments) {
    check(++calls_ <= kMaxCalls, "macros call each other at most ", kMaxCalls, " deep");
    Scope* const caller = std::exchange(scope_, scope);
    Value text;
    in_scope([&] {
      bind(macro, arguments);
      text = captured(macro.body);
    });
    scope_ = caller;
    --calls_;
    return text;
  }

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // ---- scopes
  template <class F>
  void in_scope(const F& f) {
    auto scope = std::make_unique<Scope>();
    scope->parent = scope_;
    scope_ = scope.get();
    f();
    scope_ = scope->parent;
    if (scope->kept) scopes_.push_back(std::move(scope));
  }

  Value look_up(const std::string& name) {
    for (const Scope* s = scope_; s != nullptr; s = s->parent)
      if (const auto found = s->names.find(name); found != s->names.end()) return found->second;
    if (const Value* given = variables_.find(std::string_view(name))) return *given;
    return globals_.look_up(name);
  }

  void assign(const Expression& target, const Value& value) {
    if (target.kind == Expression::Kind::kName) {
      scope_->names[target.text] = value;
    } else if (target.kind == Expression::Kind::kTarget) {
      auto* object = dynamic_cast<Namespace*>(look_up(target.text).object());
      check(object != nullptr, "cannot set an attribute of \"", target.text, "\": it is no namespace");
      object->members[target.operators[0]] = value;
    } else {
      const List items = items_of(value);
      check(items.size() == target.parts.size(), "cannot unpack ", items.size(), " values into ", target.parts.size(),
            " names");
      for (size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i]);
    }
  }

  // ---- statements
  Flow execute(const Body& body) {
    for (const Statement& statement : body)
      if (const Flow flow = execute(statement); flow != Flow::kNext) return flow;
    return Flow::kNext;
  }

  void write(const std::string& text) {
    Work::spend(1 + text.size() / 64);
    check(out_->size() + text.size() <= kMaxOutput, "the text becomes longer than ", kMaxOutput, " bytes");
    *out_ += text;
  }

  Value captured(const Body& body) {
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    execute(body);
    out_ = outer;
    return text;
  }

  Flow execute(const Statement& s) {
    Work::spend(1);
    line_ = s.line;
    Flow flow = Flow::kNext;
    switch (s.kind) {
      case Statement::Kind::kText:
        write(s.text);
        break;
      case Statement::Kind::kOutput:
        write(to_text(evaluate(*s.value)));
        break;
      case Statement::Kind::kIf:
        for (const auto& [condition, body] : s.branches)
          if (truth(evaluate(*condition))) return execute(body);
        return execute(s.otherwise);
      case Statement::Kind::kFor:
        execute_for(s);
        break;
      case Statement::Kind::kSet:
        assign(*s.target, evaluate(*s.value));
        break;
      case Statement::Kind::kSetBlock:
        assign(*s.target, block_text(s));
        break;
      case Statement::Kind::kFilter:
        write(filter_block(s));
        break;
      case Statement::Kind::kMacro:
        scope_->names[s.text] = make_macro(s);
        break;
      case Statement::Kind::kCall:
        call_with_body(s);
        break;
      case Statement::Kind::kWith: {
        List values;
        for (const ExpressionPtr& value : s.values) values.push_back(evaluate(*value));
        in_scope([&] {
          for (size_t i = 0; i < values.size(); ++i) assign(*s.targets[i], values[i]);
          flow = execute(s.body);
        });
        break;
      }
      case Statement::Kind::kScope:
        in_scope([&] { flow = execute(s.body); });
        break;
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return flow;
  }

  void execute_for(const Statement& s) {
    List items = items_of(evaluate(*s.value));
    if (s.condition) {
      List chosen;
      for (const Value& item : items)
        in_scope([&] {
          assign(*s.target, item);
          if (truth(evaluate(*s.condition))) chosen.push_back(item);
        });
      items = std::move(chosen);
    }
    Loop* const loop = objects_.own<Loop>(std::move(items));
    bool finished = false;
    for (Flow flow = Flow::kNext; flow != Flow::kBreak && loop->next(); finished |= flow == Flow::kNext)
      in_scope([&] {
        Work::spend(1);
        scope_->names["loop"] = loop;
        assign(*s.target, loop->item());
        flow = execute(s.body);
      });
    // Jinja's else is for a loop of which no round came to its end, be it by continue or break.
    if (!finished) in_scope([&] { execute(s.otherwise); });
  }

  Value block_text(const Statement& s) {
    Value text;
    in_scope([&] { text = captured(s.body); });
    return s.value ? filtered(*s.value, &text) : text;
  }

  std::string filter_block(const Statement& s) {
    const Value made = block_text(s);
    check(made.text_or_markup() != nullptr, "a filter block must give a text: got a ", made.type());
    return to_text(made);
  }

  Value make_macro(const Statement& s) {
    for (Scope* scope = scope_; scope != nullptr && !scope->kept; scope = scope->parent) scope->kept = true;
    return objects_.own<Macro>(*this, s, scope_);
  }

  void call_with_body(const Statement& s) {
    const Value caller = make_macro(s);
    write(to_text(call(*s.value, &caller)));
  }

  void bind(const Statement& macro, const Arguments& arguments) {
    List extra;
    Dict named;
    for (const auto& [name, value] : arguments.named) named.set(name, value);
    const auto take = [&](const std::string& name, Value& value) {
      for (auto it = named.items.begin(); it != named.items.end(); ++it)
        if (*it->first.text() == name) {
          value = it->second;
          named.items.erase(it);
          return true;
        }
      return false;
    };
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const Parameter& p = macro.parameters[i];
      Value value = Value::undefined(p.name);
      if (i < arguments.positional.size())
        value = arguments.positional[i];
      else if (!take(p.name, value) && p.otherwise)
        value = evaluate(*p.otherwise);
      scope_->names[p.name] = value;
    }
    for (size_t i = macro.parameters.size(); i < arguments.positional.size(); ++i)
      extra.push_back(arguments.positional[i]);
    Value caller = Value::undefined("caller");
    if (macro.uses_caller) {
      take("caller", caller);
      scope_->names["caller"] = caller;
    }
    check(extra.empty() || macro.uses_varargs, "macro ", macro.text, " takes ", macro.parameters.size(),
          " arguments: got ", arguments.positional.size());
    check(named.items.empty() || macro.uses_kwargs, "macro ", macro.text, " has no parameter ",
          named.items.empty() ? "" : repr(named.items[0].first));
    if (macro.uses_varargs) scope_->names["varargs"] = Value::tuple(std::move(extra));
    if (macro.uses_kwargs) scope_->names["kwargs"] = std::move(named);
  }

  // ---- expressions
  Value evaluate(const Expression& e) {
    Work::spend(1);
    line_ = e.line;
    const auto part = [&](size_t i) { return evaluate(*e.parts[i]); };
    const auto here = [&] { line_ = e.line; };  // parts may stand on other lines
    switch (e.kind) {
      case Expression::Kind::kConstant:
        return e.constant;
      case Expression::Kind::kName:
        return look_up(e.text);
      case Expression::Kind::kList:
      case Expression::Kind::kTuple: {
        List items;
        for (size_t i = 0; i < e.parts.size(); ++i) items.push_back(part(i));
        return e.kind == Expression::Kind::kList ? Value::list(std::move(items)) : Value::tuple(std::move(items));
      }
      case Expression::Kind::kDict: {
        Dict dict;
        for (size_t i = 0; i < e.parts.size(); i += 2) {
          const Value key = part(i);
          dict.set(key, part(i + 1));
        }
        return dict;
      }
      case Expression::Kind::kNot:
        return !truth(part(0));
      case Expression::Kind::kNegative:
        return negative(part(0));
      case Expression::Kind::kPositive:
        return positive(part(0));
      case Expression::Kind::kAnd: {
        Value left = part(0);
        return truth(left) ? part(1) : left;
      }
      case Expression::Kind::kOr: {
        Value left = part(0);
        return truth(left) ? left : part(1);
      }
      case Expression::Kind::kArithmetic: {
        const Value left = part(0), right = part(1);
        here();
        return arithmetic(e.text, left, right);
      }
      case Expression::Kind::kConcat: {
        std::string text;
        for (size_t i = 0; i < e.parts.size(); ++i) text += to_text(part(i));
        return text;
      }
      case Expression::Kind::kCompare:
        return compared(e);
      case Expression::Kind::kConditional:
        if (truth(part(0))) return part(1);
        return e.parts[2] ? part(2) : Value::undefined("an expression without else");
      case Expression::Kind::kAttribute: {
        const Value of = part(0);
        here();
        return attribute_of(of, e.text);
      }
      case Expression::Kind::kItem: {
        const Value of = part(0), key = part(1);
        here();
        return item_of(of, key);
      }
      case Expression::Kind::kSlice: {
        const Value of = part(0);
        Value bounds[3];
        for (size_t i = 0; i < 3; ++i) bounds[i] = e.parts[i + 1] ? part(i + 1) : Value(None());
        here();
        return slice_of(of, bounds[0], bounds[1], bounds[2]);
      }
      case Expression::Kind::kCall:
        return call(e, nullptr);
      case Expression::Kind::kFilter:
        return filtered(e, nullptr);
      case Expression::Kind::kTest: {
        const Value value = part(0);
        const Arguments arguments = arguments_of(e);
        here();
        return apply_test(e.text, value, arguments);
      }
      case Expression::Kind::kTarget:
        break;
    }
    fail("an expression that has no value");
  }

  Value compared(const Expression& e) {
    Value left = evaluate(*e.parts[0]);
    for (size_t i = 0; i < e.operators.size(); ++i) {
      Value right = evaluate(*e.parts[i + 1]);
      line_ = e.line;
      const std::string& op = e.operators[i];
      const bool holds = op == "=="       ? equal(left, right)
                         : op == "!="     ? !equal(left, right)
                         : op == "in"     ? contains(right, left)
                         : op == "not in" ? !contains(right, left)
                         : op == "<"      ? compare(left, right) < 0
                         : op == "<="     ? compare(left, right) <= 0
                         : op == ">"      ? compare(left, right) > 0
                                          : compare(left, right) >= 0;
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  Arguments arguments_of(const Expression& e) {
    Arguments arguments;
    for (const Argument& a : e.arguments) {
      const Value value = evaluate(*a.value);
      if (a.kind == Argument::Kind::kPositional) {
        arguments.positional.push_back(value);
      } else if (a.kind == Argument::Kind::kNamed) {
        arguments.named.emplace_back(a.name, value);
      } else if (a.kind == Argument::Kind::kList) {
        for (const Value& item : items_of(value)) arguments.positional.push_back(item);
      } else {
        check(value.dict() != nullptr, "** needs a dict: got a ", value.type());
        for (const auto& [key, item] : value.dict()->items)
          arguments.named.emplace_back(text_of(key, "a key after **"), item);
      }
    }
    return arguments;
  }

  /// The filters of `e`, innermost first; a filter block has its text as the innermost input.
  Value filtered(const Expression& e, const Value* block) {
    const Expression* inner = e.parts[0].get();
    const Value input = inner == nullptr                                               ? *block
                        : block != nullptr && inner->kind == Expression::Kind::kFilter ? filtered(*inner, block)
                                                                                       : evaluate(*inner);
    const Arguments arguments = arguments_of(e);
    line_ = e.line;
    return apply_filter(e.text, input, arguments);
  }

  Value call(const Expression& e, const Value* caller) {
    const Expression& callee = *e.parts[0];
    const bool method = callee.kind == Expression::Kind::kAttribute ||
                        (callee.kind == Expression::Kind::kItem && callee.parts[1]->constant.text() != nullptr);
    const Value of = method ? evaluate(*callee.parts[0]) : evaluate(callee);
    Arguments arguments = arguments_of(e);
    if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
    line_ = e.line;
    check(!of.is_undefined(), '"', of.is_undefined() ? std::get<Undefined>(of.data).name : "",
          "\" is undefined: it cannot be called");
    if (method) {
      const std::string& name =
          callee.kind == Expression::Kind::kAttribute ? callee.text : *callee.parts[1]->constant.text();
      return of.object() ? of.object()->call_method(name, arguments) : call_method(of, name, arguments);
    }
    check(of.object() != nullptr, "a ", of.type(), " cannot be called");
    return of.object()->call(arguments);
  }

  const Dict& variables_;
  int line_ = 1, calls_ = 0;
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  Objects objects_;
  std::vector<std::unique_ptr<Scope>> scopes_;
  Globals globals_;
};

Value Macro::call(const Arguments& arguments) {
  return interpreter_.call_macro(definition_, scope_, arguments);
}

}  // namespace

std::string render(const Body& body, const Dict& variables, std::time_t now) {
  const Work limit;
  return Interpreter(variables, now).run(body);
}

}  // namespace mantissa::jinja
