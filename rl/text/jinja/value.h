// Values of the template language: Python's, as far as templates meet them. Values do not change once made, but for
// generators, which are consumed, and objects.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace mantissa::jinja {

class Value;
using List = std::vector<Value>;

/// What a name or key without value gives: empty text, no items, false; anything else done with it is an error.
struct Undefined {
  std::string name;  // for messages
};
struct None {};

struct Sequence {
  enum class Kind {
    kList,
    kTuple,
    kView,       // of a dict: keys(), values(), items()
    kRange,      //
    kGenerator,  // of a filter: items leave it as they are taken, it has no length and no index, and is always true
  };
  Kind kind = Kind::kList;
  List items;
  size_t taken = 0;  // kGenerator
  int depth = 1;     // of nesting
};

/// Keys in the order of their insertion.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int depth = 1;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  /// Error for a key that cannot be hashed.
  void set(const Value& key, Value value);
};

/// Arguments of a call, a filter or a test.
struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
  /// As a Python function with these parameters takes them, all optional: Undefined without a name stands for one not
  /// given (not_given). Error on more than these, on unknown names, and on an undefined value, but for a parameter that
  /// may be undefined: its name ends in "?". `what` names the function.
  List bind(std::string_view what, std::initializer_list<const char*> parameters, size_t required = 0) const;
};

/// Whatever has behaviour: namespaces, macros, loops, functions. The interpreter owns them.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string type() const = 0;  // for messages
  /// Undefined when there is none.
  virtual Value attribute(std::string_view name) const;
  virtual bool callable() const { return false; }
  virtual Value call(const Arguments& arguments);
  virtual Value call_method(std::string_view name, const Arguments& arguments);
};

/// Text that a filter has marked as safe or escaped. Python's Markup escapes whatever is added to it, among other
/// things. Here it can be written, joined by ~, compared and tested; anything else done with it is an error.
struct Markup {
  std::shared_ptr<const std::string> text;
};

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using Data = std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<Sequence>,
                            std::shared_ptr<Dict>, Object*, Markup>;

  Value() = default;  // Undefined
  Value(None) : data(None()) {}
  Value(bool flag) : data(flag) {}
  Value(int64_t number) : data(number) {}
  Value(int) = delete;
  Value(double number) : data(number) {}
  Value(std::string text);
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Object* object) : data(object) {}
  Value(Dict dict);
  static Value undefined(std::string name) {
    Value v;
    v.data = Undefined{std::move(name)};
    return v;
  }
  static Value markup(std::string text);
  /// Error where values nest deeper than any template needs.
  static Value sequence(Sequence::Kind kind, List items);
  static Value list(List items) { return sequence(Sequence::Kind::kList, std::move(items)); }
  static Value tuple(List items) { return sequence(Sequence::Kind::kTuple, std::move(items)); }
  static Value generator(List items) { return sequence(Sequence::Kind::kGenerator, std::move(items)); }

  bool not_given() const { return is_undefined() && std::get<Undefined>(data).name.empty(); }
  bool is_undefined() const { return std::holds_alternative<Undefined>(data); }
  bool is_none() const { return std::holds_alternative<None>(data); }
  const bool* boolean() const { return std::get_if<bool>(&data); }
  const int64_t* integer() const { return std::get_if<int64_t>(&data); }
  const double* real() const { return std::get_if<double>(&data); }
  const std::string* text() const;
  const std::string* markup() const;
  const std::string* text_or_markup() const { return text() ? text() : markup(); }
  Sequence* sequence() const;
  const Dict* dict() const;
  Object* object() const;
  bool is_number() const { return boolean() || integer() || real(); }
  /// Python's name of the type, for messages.
  std::string type() const;

  Data data;
};

/// Work done by the template being rendered on this thread: values made of values can cost more than the template is
/// long. Rendering sets the limit; spending beyond it is an Error.
class Work {
 public:
  static constexpr int64_t kLimit = 1 << 22;  // steps; a step is a node of the syntax or 64 bytes of text
  Work() : saved_(left_) { left_ = kLimit; }
  ~Work() { left_ = saved_; }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  static void spend(size_t steps);

 private:
  static thread_local int64_t left_;
  int64_t saved_;
};

bool truth(const Value& v);
/// str(v) as Jinja prints it: nothing for Undefined.
std::string to_text(const Value& v);
std::string repr(const Value& v);
bool equal(const Value& a, const Value& b);
/// Whether Python can look it up in a dict or a set.
bool hashable(const Value& v);
/// -1, 0, 1; Error where Python has no order.
int compare(const Value& a, const Value& b);
/// An int (or bool) as a number; Error that names `what` otherwise.
int64_t integer_of(const Value& v, std::string_view what);
const std::string& text_of(const Value& v, std::string_view what);

struct JsonForm {
  int64_t indent = -1;  // -1: one line
  std::string item_separator = ", ", key_separator = ": ";
  bool ascii = false, sort_keys = false;
};
/// json.dumps(v).
std::string to_json(const Value& v, const JsonForm& form);

}  // namespace mantissa::jinja
