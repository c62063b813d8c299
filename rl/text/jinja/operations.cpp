#include "rl/text/jinja/operations.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "rl/text/jinja/python_text.h"

namespace mantissa::jinja {

namespace {

constexpr size_t kMaxText = 1 << 24;
constexpr int64_t kMaxRange = 100'000;  // jinja2.sandbox.MAX_RANGE

/// Attributes that Python's types have: they hide a dict's keys of the same name.
bool is_python_attribute(const Value& v, const std::string& name) {
  static const std::set<std::string, std::less<>> kText = {
      "capitalize", "casefold",     "center",       "count",   "encode",     "endswith",    "expandtabs",
      "find",       "format",       "format_map",   "index",   "isalnum",    "isalpha",     "isascii",
      "isdecimal",  "isdigit",      "isidentifier", "islower", "isnumeric",  "isprintable", "isspace",
      "istitle",    "isupper",      "join",         "ljust",   "lower",      "lstrip",      "maketrans",
      "partition",  "removeprefix", "removesuffix", "replace", "rfind",      "rindex",      "rjust",
      "rpartition", "rsplit",       "rstrip",       "split",   "splitlines", "startswith",  "strip",
      "swapcase",   "title",        "translate",    "upper",   "zfill"};
  static const std::set<std::string, std::less<>> kList = {"append", "clear", "copy",   "count",   "extend", "index",
                                                           "insert", "pop",   "remove", "reverse", "sort"};
  static const std::set<std::string, std::less<>> kDict = {"clear", "copy",    "fromkeys",   "get",    "items", "keys",
                                                           "pop",   "popitem", "setdefault", "update", "values"};
  static const std::set<std::string, std::less<>> kNumber = {
      "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator", "from_bytes", "fromhex", "hex", "imag",
      "is_integer",       "numerator", "real",       "to_bytes"};
  if (name.starts_with("__") && name.ends_with("__")) return true;
  if (v.text()) return kText.contains(name);
  if (v.dict()) return kDict.contains(name);
  if (v.is_number()) return kNumber.contains(name);
  const Sequence* s = v.sequence();
  if (s == nullptr) return false;
  return s->kind == Sequence::Kind::kList ? kList.contains(name) : name == "count" || name == "index";
}

/// An index from the start, or -1 when there is no such item.
int64_t place(int64_t index, size_t size) {
  if (index < 0) index += int64_t(size);
  return index >= 0 && index < int64_t(size) ? index : -1;
}

bool has_index(const Sequence& s) {
  return s.kind != Sequence::Kind::kView && s.kind != Sequence::Kind::kGenerator;
}

const Value* find_item(const Value& v, const Value& key, Value& made) {
  if (const Dict* d = v.dict()) {
    return hashable(key) ? d->find(key) : nullptr;
  }
  const bool whole = key.integer() || key.boolean();
  if (const Sequence* s = v.sequence(); s && whole && has_index(*s)) {
    const int64_t at = place(integer_of(key, "an index"), s->items.size());
    return at < 0 ? nullptr : &s->items[size_t(at)];
  }
  if (v.text() && whole) {
    const std::vector<size_t> offsets = offsets_of(*v.text());
    Work::spend(offsets.size() / 64);
    const int64_t at = place(integer_of(key, "an index"), offsets.size() - 1);
    if (at < 0) return nullptr;
    made = v.text()->substr(offsets[size_t(at)], offsets[size_t(at) + 1] - offsets[size_t(at)]);
    return &made;
  }
  return nullptr;
}

double real_of(const Value& v) {
  return v.real() ? *v.real() : double(integer_of(v, "a number"));
}

int64_t exact(bool overflow, int64_t result) {
  check(!overflow, "integers beyond 64 bits are not supported");
  return result;
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  bool overflow = false;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) overflow = overflow || __builtin_mul_overflow(result, base, &result);
    if (exponent > 1) overflow = overflow || __builtin_mul_overflow(base, base, &base);
    if (overflow) break;
  }
  return exact(overflow, result);
}

double floor_mod(double a, double b) {
  const double rest = std::fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest != 0 ? rest : std::copysign(0.0, b);
}

Value real_arithmetic(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") {
    const double result = std::pow(a, b);
    check(!std::isnan(result) || std::isnan(a) || std::isnan(b), "complex numbers are not supported");
    check(!std::isinf(result) || std::isinf(a) || std::isinf(b), "a power is out of range");
    check(a != 0 || b >= 0, "0 cannot be raised to a negative power");
    return result;
  }
  check(b != 0, "division by zero");
  if (op == "/") return a / b;
  if (op == "%") return floor_mod(a, b);
  const double rest = std::fmod(a, b), quotient = (a - rest) / b - (rest != 0 && (rest < 0) != (b < 0));
  return quotient == 0 ? std::copysign(0.0, a / b) : std::floor(quotient) + (quotient - std::floor(quotient) > 0.5);
}

Value integer_arithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+" || op == "-" || op == "*") {
    const bool overflow = op == "+"   ? __builtin_add_overflow(a, b, &result)
                          : op == "-" ? __builtin_sub_overflow(a, b, &result)
                                      : __builtin_mul_overflow(a, b, &result);
    return exact(overflow, result);
  }
  if (op == "**") return b < 0 ? real_arithmetic(op, double(a), double(b)) : Value(power(a, b));
  check(b != 0, "division by zero");
  if (op == "/") {
    check(std::abs(double(a)) < 9007199254740992.0 && std::abs(double(b)) < 9007199254740992.0,
          "the quotient of integers beyond 2^53 is not supported");
    return double(a) / double(b);
  }
  check(a != INT64_MIN || b != -1, "integers beyond 64 bits are not supported");
  const int64_t quotient = a / b, rest = a % b;
  const bool below = rest != 0 && (rest < 0) != (b < 0);
  return op == "//" ? quotient - below : rest + (below ? b : 0);
}

Value repeat(const Value& v, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (const std::string* t = v.text()) {
    check(t->empty() || size_t(times) <= kMaxText / t->size(), "a text has at most ", kMaxText, " bytes");
    std::string out;
    for (int64_t i = 0; i < (t->empty() ? 0 : times); ++i) out += *t;
    return out;
  }
  const Sequence& s = *v.sequence();
  check(s.items.empty() || size_t(times) <= (size_t(1) << 20) / s.items.size(), "a list has at most 2^20 items");
  List items;
  for (int64_t i = 0; i < (s.items.empty() ? 0 : times); ++i) items.insert(items.end(), s.items.begin(), s.items.end());
  return Value::sequence(s.kind, std::move(items));
}

bool is_list_or_tuple(const Value& v) {
  const Sequence* s = v.sequence();
  return s && (s->kind == Sequence::Kind::kList || s->kind == Sequence::Kind::kTuple);
}

/// text % values, for the conversions s, r, d, i and % without flags.
std::string percent(const std::string& form, const Value& values) {
  const bool tuple = values.sequence() && values.sequence()->kind == Sequence::Kind::kTuple;
  const List list = tuple ? values.sequence()->items : List{values};
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '%') {
      out += form[i];
      continue;
    }
    const char kind = ++i < form.size() ? form[i] : '\0';
    if (kind == '%') {
      out += '%';
      continue;
    }
    check(kind == 's' || kind == 'r' || kind == 'd' || kind == 'i', "the conversion %", std::string(1, kind),
          " is not supported");
    check(next < list.size(), "not enough values for the format \"", form, '"');
    const Value& v = list[next++];
    out += kind == 's' ? to_text(v) : kind == 'r' ? repr(v) : std::to_string(integer_of(v, "the value of %d"));
  }
  check(next == list.size() || (!tuple && values.dict()), "too many values for the format \"", form, '"');
  return out;
}

}  // namespace

bool contains(const Value& container, const Value& item) {
  if (container.is_undefined()) return false;
  if (const std::string* t = container.text()) {
    Work::spend(t->size() / 64);
    return t->find(text_of(item, "the left side of in")) != std::string::npos;
  }
  if (const Dict* d = container.dict()) {
    check(hashable(item), "a dict holds no ", item.type());
    return d->find(item) != nullptr;
  }
  Sequence* s = container.sequence();
  check(s != nullptr, "a ", container.type(), " has no items to look in");
  const bool generator = s->kind == Sequence::Kind::kGenerator;
  for (size_t i = generator ? s->taken : 0; i < s->items.size(); ++i) {
    if (generator) s->taken = i + 1;
    if (equal(s->items[i], item)) return true;
  }
  return false;
}

int64_t length_of(const Value& v) {
  if (v.is_undefined()) return 0;
  if (v.text_or_markup()) return count_characters(*v.text_or_markup());
  if (v.dict()) return int64_t(v.dict()->items.size());
  const Sequence* s = v.sequence();
  check(s && s->kind != Sequence::Kind::kGenerator, "a ", v.type(), " has no length");
  return int64_t(s->items.size());
}

List items_of(const Value& v) {
  List items;
  if (v.is_undefined()) return items;
  if (const std::string* t = v.text()) {
    for (std::string& c : characters_of(*t)) items.emplace_back(std::move(c));
    return items;
  }
  if (const Dict* d = v.dict()) {
    for (const auto& [key, value] : d->items) items.push_back(key);
    return items;
  }
  Sequence* s = v.sequence();
  check(s != nullptr, "a ", v.type(), " cannot be iterated");
  Work::spend(s->items.size() / 8);
  if (s->kind != Sequence::Kind::kGenerator) return s->items;
  items.assign(s->items.begin() + int64_t(s->taken), s->items.end());
  s->taken = s->items.size();
  return items;
}

Value attribute_of(const Value& v, const std::string& name) {
  check(!v.is_undefined(), '"', std::get_if<Undefined>(&v.data) ? std::get<Undefined>(v.data).name : "",
        "\" is undefined: it has no attribute \"", name, '"');
  check(!v.markup(), "an attribute of a ", v.type(), " is not supported");
  if (v.object()) return v.object()->attribute(name);
  check(!is_python_attribute(v, name), "the method \"", name, "\" of a ", v.type(),
        " used as a value is not supported");
  if (const Dict* d = v.dict())
    if (const Value* item = d->find(std::string_view(name))) return *item;
  return Value::undefined(name);
}

Value item_of(const Value& v, const Value& key) {
  check(!v.is_undefined(), '"', std::get_if<Undefined>(&v.data) ? std::get<Undefined>(v.data).name : "",
        "\" is undefined: it has no item ", repr(key));
  check(!v.markup(), "an item of a ", v.type(), " is not supported");
  Value made;
  if (const Value* item = find_item(v, key, made)) return *item;
  if (key.text()) {
    if (v.object()) return v.object()->attribute(*key.text());
    check(!is_python_attribute(v, *key.text()), "the method \"", *key.text(), "\" of a ", v.type(),
          " used as a value is not supported");
  }
  return Value::undefined(repr(key));
}

Value slice_of(const Value& v, const Value& start, const Value& stop, const Value& step) {
  const Sequence* s = v.sequence();
  check(v.text() || (s && has_index(*s)), "a ", v.type(), " has no slices");
  const auto given = [](const Value& bound) { return !bound.is_none(); };
  const std::vector<size_t> offsets = v.text() ? offsets_of(*v.text()) : std::vector<size_t>();
  Work::spend(offsets.size() / 64);
  const int64_t size = v.text() ? int64_t(offsets.size()) - 1 : int64_t(s->items.size());
  const int64_t by = given(step) ? integer_of(step, "the step of a slice") : 1;
  check(by != 0, "the step of a slice must not be 0");
  const auto bound = [&](const Value& b, int64_t otherwise) {
    if (!given(b)) return otherwise;
    int64_t at = integer_of(b, "the bound of a slice");
    if (at < 0) at += size;
    return std::clamp<int64_t>(at, by < 0 ? -1 : 0, by < 0 ? size - 1 : size);
  };
  const int64_t first = bound(start, by < 0 ? size - 1 : 0), last = bound(stop, by < 0 ? -1 : size);
  if (v.text() && by == 1)
    return first < last ? v.text()->substr(offsets[size_t(first)], offsets[size_t(last)] - offsets[size_t(first)]) : "";
  List items;
  std::string text;
  for (int64_t at = first; by > 0 ? at < last : at > last;) {
    if (v.text())
      text.append(*v.text(), offsets[size_t(at)], offsets[size_t(at) + 1] - offsets[size_t(at)]);
    else
      items.push_back(s->items[size_t(at)]);
    if (__builtin_add_overflow(at, by, &at)) break;
  }
  return v.text() ? Value(std::move(text)) : Value::sequence(s->kind, std::move(items));
}

List range_of(const List& arguments) {
  check(!arguments.empty() && arguments.size() <= 3, "range takes 1 to 3 arguments: got ", arguments.size());
  const auto number = [&](size_t i) { return integer_of(arguments[i], "an argument of range"); };
  const int64_t start = arguments.size() > 1 ? number(0) : 0, stop = number(arguments.size() > 1 ? 1 : 0);
  const int64_t step = arguments.size() > 2 ? number(2) : 1;
  check(step != 0, "the step of range must not be 0");
  List items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    check(int64_t(items.size()) < kMaxRange, "a range has at most ", kMaxRange, " items");
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return items;
}

Value arithmetic(std::string_view op, const Value& a, const Value& b) {
  const bool form = op == "%" && a.text();
  for (const Value* v : {&a, &b})
    check(!v->is_undefined() || form, '"', v->is_undefined() ? std::get<Undefined>(v->data).name : "",
          "\" is undefined: ", op, " needs a value");
  if (a.is_number() && b.is_number())
    return a.real() || b.real() ? real_arithmetic(op, real_of(a), real_of(b))
                                : integer_arithmetic(op, integer_of(a, ""), integer_of(b, ""));
  if (op == "+" && a.text() && b.text()) {
    check(a.text()->size() + b.text()->size() <= kMaxText, "a text has at most ", kMaxText, " bytes");
    return *a.text() + *b.text();
  }
  if (op == "+" && is_list_or_tuple(a) && is_list_or_tuple(b) && a.sequence()->kind == b.sequence()->kind) {
    List items = a.sequence()->items;
    items.insert(items.end(), b.sequence()->items.begin(), b.sequence()->items.end());
    return Value::sequence(a.sequence()->kind, std::move(items));
  }
  if (form) return percent(*a.text(), b);
  if (op == "*") {
    const bool swapped = a.is_number();
    const Value &many = swapped ? b : a, &times = swapped ? a : b;
    if ((many.text() || is_list_or_tuple(many)) && (times.integer() || times.boolean()))
      return repeat(many, integer_of(times, ""));
  }
  fail("a ", a.type(), ' ', op, " a ", b.type(), " is not possible");
}

Value positive(const Value& v) {
  return v.real() ? v : arithmetic("+", int64_t(0), v);  // not by adding 0 to -0.0
}

Value negative(const Value& v) {
  if (v.real()) return -*v.real();
  check(!v.is_undefined(), "- of an undefined value");
  return integer_arithmetic("-", 0, integer_of(v, "the operand of -"));
}

}  // namespace mantissa::jinja
