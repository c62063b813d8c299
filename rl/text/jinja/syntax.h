// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rl/text/jinja/value.h"

namespace mantissa::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Argument {
  enum class Kind { kPositional, kNamed, kList, kDict } kind;  // x, name=x, *x, **x
  std::string name;
  ExpressionPtr value;
};

struct Expression {
  enum class Kind {
    kConstant,     // constant
    kName,         // text
    kList,         // parts
    kTuple,        // parts
    kDict,         // parts: key, value, key, value ...
    kNot,          // parts[0]
    kNegative,     // parts[0]
    kPositive,     // parts[0]
    kArithmetic,   // parts[0] text parts[1]
    kConcat,       // parts, joined as text
    kAnd,          // parts[0], parts[1]
    kOr,           // parts[0], parts[1]
    kCompare,      // parts[0] operators[0] parts[1] operators[1] parts[2] ...
    kConditional,  // parts: condition, then, otherwise (may be null)
    kAttribute,    // parts[0].text
    kItem,         // parts[0][parts[1]]
    kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], each may be null
    kCall,         // parts[0](arguments)
    kFilter,       // parts[0]|text(arguments); parts[0] is null in a filter block
    kTest,         // parts[0] is text(arguments)
    kTarget,       // text.operators[0]: an attribute of a namespace to set
  };
  Kind kind;
  int line;
  int depth = 1;  // of nesting
  std::string text;
  Value constant;
  std::vector<ExpressionPtr> parts;
  std::vector<std::string> operators;
  std::vector<Argument> arguments;
};

struct Parameter {
  std::string name;
  ExpressionPtr otherwise;  // null: none
};

struct Statement;
using Body = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // value
    kIf,        // branches, otherwise
    kFor,       // target in value if condition: body; otherwise when nothing was iterated
    kSet,       // target = value
    kSetBlock,  // target = body, through the filters of value
    kMacro,     // text(parameters): body; uses_...
    kCall,      // value is a call, the body its caller(parameters)
    kFilter,    // body through the filters of value
    kWith,      // targets = values: body
    kScope,     // body in a scope of its own (generation)
    kBreak,
    kContinue,
  };
  Kind kind;
  int line;
  std::string text;
  ExpressionPtr target, value, condition;
  std::vector<ExpressionPtr> targets, values;
  std::vector<Parameter> parameters;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body body, otherwise;
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

}  // namespace mantissa::jinja
