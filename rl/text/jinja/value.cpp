// Kinds of values, their equality, order, text and JSON.
#include "rl/text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "rl/text/jinja/python_text.h"

namespace mantissa::jinja {

namespace {

constexpr int kMaxNesting = 100;
constexpr size_t kMaxItems = 1 << 20;

int depth_of(const Value& v) {
  return v.sequence() ? v.sequence()->depth : v.dict() ? v.dict()->depth : 0;
}

int nested(int depth) {
  check(depth < kMaxNesting, "values nest at most ", kMaxNesting, " deep");
  return depth + 1;
}

void spend_on(const std::string& text) {
  Work::spend(1 + text.size() / 64);
}

/// Python compares 1, 1.0 and True as equal; an int64 and a double exactly.
int compare_numbers(const Value& a, const Value& b) {
  const auto order = [](auto x, auto y) { return x < y ? -1 : x > y ? 1 : 0; };
  const auto whole = [](const Value& v) { return v.boolean() ? int64_t(*v.boolean()) : *v.integer(); };
  if (!a.real() && !b.real()) return order(whole(a), whole(b));
  if (a.real() && b.real()) return order(*a.real(), *b.real());
  const double real = a.real() ? *a.real() : *b.real();
  const int64_t number = whole(a.real() ? b : a);
  int result;  // of number against real
  if (real >= 9223372036854775808.0)
    result = -1;
  else if (real < -9223372036854775808.0)
    result = 1;
  else if (const int64_t cut = int64_t(real); cut != number)
    result = order(number, cut);
  else
    result = order(0.0, real - double(cut));
  return a.real() ? -result : result;
}

bool is_nan(const Value& v) {
  return v.real() && std::isnan(*v.real());
}

bool ordered_kind(const Sequence& s) {
  return s.kind == Sequence::Kind::kList || s.kind == Sequence::Kind::kTuple;
}

std::string joined(const List& items, const char* open, const char* close) {
  std::string out = open;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    out += repr(items[i]);
  }
  return out + close;
}

std::string repr_of(const Sequence& s) {
  switch (s.kind) {
    case Sequence::Kind::kList:
      return joined(s.items, "[", "]");
    case Sequence::Kind::kTuple:
      return joined(s.items, "(", s.items.size() == 1 ? ",)" : ")");
    default:
      fail("the text of a ", Value::sequence(s.kind, {}).type(), " is not supported: use the filter list");
  }
}

}  // namespace

thread_local int64_t Work::left_ = Work::kLimit;

void Work::spend(size_t steps) {
  left_ -= int64_t(std::min<size_t>(steps, size_t(kLimit)));
  check(left_ >= 0, "the template does more than ", kLimit, " steps of work");
}

Value::Value(std::string text) {
  spend_on(text);
  data = std::make_shared<const std::string>(std::move(text));
}

Value::Value(Dict dict) {
  for (const auto& [key, value] : dict.items) dict.depth = std::max({dict.depth, nested(depth_of(value))});
  data = std::make_shared<Dict>(std::move(dict));
}

Value Value::sequence(Sequence::Kind kind, List items) {
  check(items.size() <= kMaxItems, "a list has at most ", kMaxItems, " items: got ", items.size());
  Work::spend(1 + items.size() / 8);
  auto s = std::make_shared<Sequence>();
  for (const Value& item : items) s->depth = std::max(s->depth, nested(depth_of(item)));
  s->kind = kind;
  s->items = std::move(items);
  Value v;
  v.data = std::move(s);
  return v;
}

Value Value::markup(std::string text) {
  const Value plain(std::move(text));
  Value v;
  v.data = Markup{std::get<Text>(plain.data)};
  return v;
}

const std::string* Value::markup() const {
  const Markup* m = std::get_if<Markup>(&data);
  return m ? m->text.get() : nullptr;
}
const std::string* Value::text() const {
  const Text* t = std::get_if<Text>(&data);
  return t ? t->get() : nullptr;
}
Sequence* Value::sequence() const {
  const auto* s = std::get_if<std::shared_ptr<Sequence>>(&data);
  return s ? s->get() : nullptr;
}
const Dict* Value::dict() const {
  const auto* d = std::get_if<std::shared_ptr<Dict>>(&data);
  return d ? d->get() : nullptr;
}
Object* Value::object() const {
  Object* const* o = std::get_if<Object*>(&data);
  return o ? *o : nullptr;
}

std::string Value::type() const {
  if (const Object* o = object()) return o->type();
  if (const Sequence* s = sequence()) {
    constexpr const char* kNames[] = {"list", "tuple", "dict view", "range", "generator"};
    return kNames[int(s->kind)];
  }
  constexpr const char* kNames[] = {"undefined value",    "None", "bool", "int", "float", "str", "", "dict", "",
                                    "text marked as safe"};
  return kNames[data.index()];
}

Value Object::attribute(std::string_view name) const {
  return Value::undefined(std::string(name));
}
Value Object::call(const Arguments&) {
  fail("a ", type(), " cannot be called");
}
Value Object::call_method(std::string_view name, const Arguments& arguments) {
  const Value member = attribute(name);
  check(member.object() != nullptr, "a ", type(), " has no method \"", name, '"');
  return member.object()->call(arguments);
}

const Value* Dict::find(const Value& key) const {
  Work::spend(items.size() / 16);
  for (const auto& [k, v] : items)
    if (equal(k, key)) return &v;
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [k, v] : items)
    if (k.text_or_markup() && *k.text_or_markup() == key) return &v;
  return nullptr;
}

void Dict::set(const Value& key, Value value) {
  check(hashable(key), "a key of a dict cannot be a ", key.type());
  depth = std::max(depth, nested(depth_of(value)));
  Work::spend(1 + items.size() / 16);
  for (auto& [k, v] : items)
    if (equal(k, key)) {
      v = std::move(value);
      return;
    }
  items.emplace_back(key, std::move(value));
}

List Arguments::bind(std::string_view what, std::initializer_list<const char*> parameters, size_t required) const {
  check(positional.size() <= parameters.size(), what, " takes at most ", parameters.size(), " arguments: got ",
        positional.size());
  const auto spelt = [](std::string_view p) { return p.substr(0, p.find('?')); };
  List values(positional);
  values.resize(parameters.size());
  std::vector<bool> given(parameters.size());
  std::fill(given.begin(), given.begin() + int64_t(positional.size()), true);
  for (const auto& argument : named) {
    const auto& [name, value] = argument;
    const auto found =
        std::find_if(parameters.begin(), parameters.end(), [&](const char* p) { return argument.first == spelt(p); });
    check(found != parameters.end(), what, " has no parameter \"", name, '"');
    const size_t i = size_t(found - parameters.begin());
    check(!given[i], what, ": the parameter \"", name, "\" is given twice");
    values[i] = value;
    given[i] = true;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const std::string_view parameter = parameters.begin()[i];
    check(given[i] || i >= required, what, " needs the argument \"", spelt(parameter), '"');
    if (!given[i] || !values[i].is_undefined()) continue;
    const std::string& name = std::get<Undefined>(values[i].data).name;
    check(parameter.ends_with('?'), what, ": \"", name, "\" is undefined: it cannot be the ", parameter);
    if (name.empty()) values[i] = Value::undefined("an argument");
  }
  return values;
}

bool truth(const Value& v) {
  if (const bool* b = v.boolean()) return *b;
  if (const int64_t* i = v.integer()) return *i != 0;
  if (const double* d = v.real()) return *d != 0;
  if (const std::string* t = v.text_or_markup()) return !t->empty();
  if (const Sequence* s = v.sequence()) return s->kind == Sequence::Kind::kGenerator || !s->items.empty();
  if (const Dict* d = v.dict()) return !d->items.empty();
  return v.object() != nullptr;
}

std::string repr(const Value& v) {
  std::string out;
  if (v.is_undefined()) {
    out = "Undefined";
  } else if (v.is_none()) {
    out = "None";
  } else if (const bool* b = v.boolean()) {
    out = *b ? "True" : "False";
  } else if (const int64_t* i = v.integer()) {
    out = std::to_string(*i);
  } else if (const double* d = v.real()) {
    out = repr(*d);
  } else if (const std::string* t = v.text()) {
    out = repr(std::string_view(*t));
  } else if (const std::string* m = v.markup()) {
    out = "Markup(" + repr(std::string_view(*m)) + ")";
  } else if (const Sequence* s = v.sequence()) {
    out = repr_of(*s);
  } else if (const Dict* d = v.dict()) {
    out = "{";
    for (const auto& [key, value] : d->items) out += (out.size() > 1 ? ", " : "") + repr(key) + ": " + repr(value);
    out += '}';
  } else {
    fail("the text of a ", v.type(), " is not supported");
  }
  spend_on(out);
  return out;
}

std::string to_text(const Value& v) {
  if (v.is_undefined()) return {};
  return v.text_or_markup() ? *v.text_or_markup() : repr(v);
}

bool equal(const Value& a, const Value& b) {
  Work::spend(1);
  if (a.is_number() && b.is_number()) return !is_nan(a) && !is_nan(b) && compare_numbers(a, b) == 0;
  if (const std::string *x = a.text_or_markup(), *y = b.text_or_markup(); x && y) {
    spend_on(*x);
    return *x == *y;
  }
  if (a.data.index() != b.data.index()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  if (const Sequence *x = a.sequence(), *y = b.sequence(); x) {
    if (x == y) return true;
    check(x->kind == y->kind || (ordered_kind(*x) && ordered_kind(*y)), "comparing a ", a.type(), " with a ", b.type(),
          " is not supported");
    check(x->kind != Sequence::Kind::kView, "comparing dict views is not supported: use the filter list");
    return x->kind == y->kind && x->kind != Sequence::Kind::kGenerator &&
           std::equal(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(), equal);
  }
  if (const Dict *x = a.dict(), *y = b.dict(); x) {
    if (x == y) return true;
    return x->items.size() == y->items.size() && std::all_of(x->items.begin(), x->items.end(), [&](const auto& item) {
             const Value* other = y->find(item.first);
             return other != nullptr && equal(item.second, *other);
           });
  }
  return a.object() == b.object();
}

bool hashable(const Value& v) {
  if (v.dict()) return false;
  const Sequence* s = v.sequence();
  return !s || s->kind == Sequence::Kind::kRange || s->kind == Sequence::Kind::kGenerator ||
         (s->kind == Sequence::Kind::kTuple && std::all_of(s->items.begin(), s->items.end(), hashable));
}

int compare(const Value& a, const Value& b) {
  Work::spend(1);
  if (a.is_number() && b.is_number()) {
    check(!is_nan(a) && !is_nan(b), "ordering nan is not supported");
    return compare_numbers(a, b);
  }
  if (a.text() && b.text()) {
    const int order = a.text()->compare(*b.text());  // UTF-8 has the order of its code points
    return order < 0 ? -1 : order > 0;
  }
  const Sequence *x = a.sequence(), *y = b.sequence();
  if (x && y && x->kind == y->kind && ordered_kind(*x)) {
    for (size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i)
      if (!equal(x->items[i], y->items[i])) return compare(x->items[i], y->items[i]);
    return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size();
  }
  fail("a ", a.type(), " and a ", b.type(), " have no order");
}

namespace {

std::string json_key(const Value& key, const JsonForm& form) {
  if (const std::string* t = key.text_or_markup()) return json_text(*t, form.ascii);
  check(key.is_number() || key.is_none(), "tojson: a key cannot be a ", key.type());
  return '"' + to_json(key, form) + '"';
}

std::string json_items(std::vector<std::string> items, const char* brackets, const JsonForm& form, int64_t level) {
  std::string out(1, brackets[0]);
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += form.item_separator;
    if (form.indent >= 0) out += '\n' + std::string(size_t(form.indent * (level + 1)), ' ');
    out += items[i];
  }
  if (form.indent >= 0 && !items.empty()) out += '\n' + std::string(size_t(form.indent * level), ' ');
  return out + brackets[1];
}

std::string to_json(const Value& v, const JsonForm& form, int64_t level) {
  std::string out;
  if (v.is_none()) {
    out = "null";
  } else if (const bool* b = v.boolean()) {
    out = *b ? "true" : "false";
  } else if (const double* d = v.real()) {
    out = std::isnan(*d) ? "NaN" : std::isinf(*d) ? (*d < 0 ? "-Infinity" : "Infinity") : repr(*d);
  } else if (v.integer()) {
    out = repr(v);
  } else if (const std::string* t = v.text_or_markup()) {
    out = json_text(*t, form.ascii);
  } else if (const Sequence* s = v.sequence(); s && ordered_kind(*s)) {
    std::vector<std::string> items;
    for (const Value& item : s->items) items.push_back(to_json(item, form, level + 1));
    out = json_items(std::move(items), "[]", form, level);
  } else if (const Dict* dict = v.dict()) {
    auto pairs = dict->items;
    if (form.sort_keys)
      std::stable_sort(pairs.begin(), pairs.end(),
                       [](const auto& x, const auto& y) { return compare(x.first, y.first) < 0; });
    std::vector<std::string> items;
    for (const auto& [key, value] : pairs)
      items.push_back(json_key(key, form) + form.key_separator + to_json(value, form, level + 1));
    out = json_items(std::move(items), "{}", form, level);
  } else {
    fail("tojson: a ", v.type(), " is no JSON");
  }
  spend_on(out);
  return out;
}

}  // namespace

std::string to_json(const Value& v, const JsonForm& form) {
  return to_json(v, form, 0);
}

int64_t integer_of(const Value& v, std::string_view what) {
  if (const bool* b = v.boolean()) return *b;
  check(v.integer() != nullptr, what, " must be an int: got a ", v.type());
  return *v.integer();
}

const std::string& text_of(const Value& v, std::string_view what) {
  check(v.text() != nullptr, what, " must be a str: got a ", v.type());
  return *v.text();
}

}  // namespace mantissa::jinja
