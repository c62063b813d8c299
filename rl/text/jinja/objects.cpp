#include "rl/text/jinja/objects.h"

#include "core/error.h"

namespace mantissa::jinja {

Value Namespace::attribute(std::string_view name) const {
  const auto found = members.find(name);
  return found == members.end() ? Object::attribute(name) : found->second;
}

Value Loop::attribute(std::string_view name) const {
  if (name == "index") return at_ + 1;
  if (name == "index0") return at_;
  if (name == "revindex") return size() - at_;
  if (name == "revindex0") return size() - at_ - 1;
  if (name == "first") return at_ == 0;
  if (name == "last") return at_ + 1 == size();
  if (name == "length") return size();
  if (name == "depth") return int64_t(1);  // of recursion
  if (name == "depth0") return int64_t(0);
  if (name == "previtem") return at_ > 0 ? items_[size_t(at_ - 1)] : Value::undefined("loop.previtem");
  if (name == "nextitem") return at_ + 1 < size() ? items_[size_t(at_ + 1)] : Value::undefined("loop.nextitem");
  check(name != "cycle" && name != "changed", "loop.", name, " used as a value is not supported");
  return Object::attribute(name);
}

Value Loop::call_method(std::string_view name, const Arguments& arguments) {
  check(arguments.named.empty(), "loop.", name, " takes no named arguments");
  if (name == "cycle") {
    check(!arguments.positional.empty(), "loop.cycle needs values");
    return arguments.positional[size_t(at_) % arguments.positional.size()];
  }
  check(name == "changed", "loop.", name, " cannot be called");
  const Value now = Value::tuple(arguments.positional);
  const bool changed = !seen_ || !equal(last_, now);
  seen_ = true;
  last_ = now;
  return changed;
}

}  // namespace mantissa::jinja
