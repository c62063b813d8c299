// Objects that templates meet: namespaces, functions, the variable loop; and their owner.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rl/text/jinja/value.h"

namespace mantissa::jinja {

/// Owns all objects of a rendering: values point to them, and they may point to each other in circles.
class Objects {
 public:
  template <class T, class... Parts>
  T* own(Parts&&... parts) {
    Work::spend(4);
    auto object = std::make_unique<T>(std::forward<Parts>(parts)...);
    T* const made = object.get();
    objects_.push_back(std::move(object));
    return made;
  }

 private:
  std::vector<std::unique_ptr<Object>> objects_;
};

class Namespace final : public Object {
 public:
  std::map<std::string, Value, std::less<>> members;
  std::string type() const override { return "namespace"; }
  Value attribute(std::string_view name) const override;
};

class Function final : public Object {
 public:
  using Body = std::function<Value(const Arguments&)>;
  Function(std::string name, Body body) : name_(std::move(name)), body_(std::move(body)) {}
  std::string type() const override { return "function " + name_; }
  bool callable() const override { return true; }
  Value call(const Arguments& arguments) override { return body_(arguments); }

 private:
  std::string name_;
  Body body_;
};

/// The variable `loop` of a for: index, first, last, cycle(...) ...
class Loop final : public Object {
 public:
  explicit Loop(List items) : items_(std::move(items)) {}
  const Value& item() const { return items_[size_t(at_)]; }
  /// Goes to the next item; false when there is none.
  bool next() { return ++at_ < size(); }

  std::string type() const override { return "loop"; }
  Value attribute(std::string_view name) const override;
  Value call_method(std::string_view name, const Arguments& arguments) override;

 private:
  int64_t size() const { return int64_t(items_.size()); }
  List items_;
  int64_t at_ = -1;
  bool seen_ = false;  // loop.changed was called, with last_
  Value last_;
};

}  // namespace mantissa::jinja
