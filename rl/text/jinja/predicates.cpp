#include "rl/text/jinja/predicates.h"

#include <functional>
#include <map>

#include "core/error.h"
#include "rl/text/jinja/operations.h"
#include "rl/text/jinja/python_text.h"

namespace mantissa::jinja {

namespace {

using Unary = std::function<bool(const Value&)>;
using Binary = std::function<bool(const Value&, const Value&)>;

bool is_whole(const Value& v, int64_t divisor, int64_t rest) {
  const Value found = arithmetic("%", v, divisor);
  return equal(found, rest);
}

bool same(const Value& a, const Value& b) {
  check((a.is_none() || a.boolean() || a.object()) && (b.is_none() || b.boolean() || b.object()),
        "the test sameas is supported for none, true and false only");
  return a.data.index() == b.data.index() && equal(a, b);
}

const std::map<std::string, Unary, std::less<>>& unary_tests() {
  static const std::map<std::string, Unary, std::less<>> tests = {
      {"defined", [](const Value& v) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v) { return v.is_undefined(); }},
      {"none", [](const Value& v) { return v.is_none(); }},
      {"boolean", [](const Value& v) { return v.boolean() != nullptr; }},
      {"true", [](const Value& v) { return v.boolean() && *v.boolean(); }},
      {"false", [](const Value& v) { return v.boolean() && !*v.boolean(); }},
      {"integer", [](const Value& v) { return v.integer() != nullptr; }},
      {"float", [](const Value& v) { return v.real() != nullptr; }},
      {"number", [](const Value& v) { return v.is_number(); }},
      {"string", [](const Value& v) { return v.text_or_markup() != nullptr; }},
      {"mapping", [](const Value& v) { return v.dict() != nullptr; }},
      {"iterable", [](const Value& v) { return v.is_undefined() || v.text_or_markup() || v.dict() || v.sequence(); }},
      {"sequence",
       [](const Value& v) {
         const Sequence* s = v.sequence();
         return v.is_undefined() || v.text_or_markup() || v.dict() ||
                (s && s->kind != Sequence::Kind::kView && s->kind != Sequence::Kind::kGenerator);
       }},
      {"callable", [](const Value& v) { return v.is_undefined() || (v.object() && v.object()->callable()); }},
      {"even", [](const Value& v) { return is_whole(v, 2, 0); }},
      {"odd", [](const Value& v) { return is_whole(v, 2, 1); }},
      {"lower", [](const Value& v) { return is_all(to_text(v), Class::kLower); }},
      {"upper", [](const Value& v) { return is_all(to_text(v), Class::kUpper); }},
  };
  return tests;
}

const std::map<std::string, Binary, std::less<>>& binary_tests() {
  static const Binary is_equal = [](const Value& a, const Value& b) { return equal(a, b); },
                      differs = [](const Value& a, const Value& b) { return !equal(a, b); },
                      less = [](const Value& a, const Value& b) { return compare(a, b) < 0; },
                      greater = [](const Value& a, const Value& b) { return compare(a, b) > 0; },
                      at_most = [](const Value& a, const Value& b) { return compare(a, b) <= 0; },
                      at_least = [](const Value& a, const Value& b) { return compare(a, b) >= 0; };
  static const std::map<std::string, Binary, std::less<>> tests = {
      {"eq", is_equal},
      {"equalto", is_equal},
      {"==", is_equal},
      {"ne", differs},
      {"!=", differs},
      {"lt", less},
      {"lessthan", less},
      {"<", less},
      {"gt", greater},
      {"greaterthan", greater},
      {">", greater},
      {"le", at_most},
      {"<=", at_most},
      {"ge", at_least},
      {">=", at_least},
      {"in", [](const Value& a, const Value& b) { return contains(b, a); }},
      {"sameas", same},
      {"divisibleby", [](const Value& a, const Value& b) { return equal(arithmetic("%", a, b), int64_t(0)); }},
  };
  return tests;
}

}  // namespace

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments) {
  if (const auto found = unary_tests().find(name); found != unary_tests().end()) {
    arguments.bind("the test " + name, {});
    return found->second(value);
  }
  const auto found = binary_tests().find(name);
  check(found != binary_tests().end(), "the test \"", name, "\" is not supported");
  return found->second(value, arguments.bind("the test " + name, {"other?"}, 1)[0]);
}

}  // namespace mantissa::jinja
