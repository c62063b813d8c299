#include "rl/text/jinja/globals.h"

#include <set>

#include "core/error.h"
#include "rl/text/jinja/operations.h"

namespace mantissa::jinja {

namespace {

Value range(const Arguments& arguments) {
  check(arguments.named.empty(), "range takes no named arguments");
  return Value::sequence(Sequence::Kind::kRange, range_of(arguments.positional));
}

/// dict(mapping or pairs, name=value ...).
Dict make_dict(const Arguments& arguments, const char* what) {
  Dict out;
  check(arguments.positional.size() <= 1, what, " takes one positional argument");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    check(!from.is_undefined(), what, " of an undefined value");
    if (from.dict()) {
      out = *from.dict();
    } else {
      for (const Value& pair : items_of(from)) {
        const List items = items_of(pair);
        check(items.size() == 2, what, " needs pairs: got ", items.size(), " values");
        out.set(items[0], items[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) out.set(name, value);
  return out;
}

Value make_namespace(Objects& objects, const Arguments& arguments) {
  Namespace* const made = objects.own<Namespace>();
  for (const auto& [key, value] : make_dict(arguments, "namespace").items)
    made->members[text_of(key, "a name of a namespace")] = value;
  return made;
}

Value raise_exception(const Arguments& arguments) {
  fail("the template refuses this conversation: ", to_text(arguments.bind("raise_exception", {"message"}, 1)[0]));
}

Value strftime(std::time_t now, const Arguments& arguments) {
  const std::string form = text_of(arguments.bind("strftime_now", {"format"}, 1)[0], "the format of strftime_now");
  if (form.empty()) return "";
  std::tm local{};
  localtime_r(&now, &local);
  char text[512];
  const size_t length = std::strftime(text, sizeof text, form.c_str(), &local);
  check(length > 0 && form.find('\0') == std::string::npos && form.find("%f") == std::string::npos,
        "strftime_now: the format ", repr(Value(form)), " is not supported");
  return std::string(text, length);
}

}  // namespace

Value Globals::look_up(const std::string& name) {
  static const std::set<std::string, std::less<>> kUnsupported = {"lipsum", "cycler", "joiner", "self", "super"};
  check(!kUnsupported.contains(name), "\"", name, "\" is not supported");
  if (const auto found = made_.find(name); found != made_.end()) return found->second;
  Function::Body body;
  if (name == "range")
    body = range;
  else if (name == "dict")
    body = [](const Arguments& arguments) { return make_dict(arguments, "dict"); };
  else if (name == "namespace")
    body = [this](const Arguments& arguments) { return make_namespace(objects_, arguments); };
  else if (name == "raise_exception")
    body = raise_exception;
  else if (name == "strftime_now")
    body = [this](const Arguments& arguments) { return strftime(now_, arguments); };
  else
    return Value::undefined(name);
  return made_[name] = objects_.own<Function>(name, body);
}

}  // namespace mantissa::jinja
