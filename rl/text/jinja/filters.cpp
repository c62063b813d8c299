#include "rl/text/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "core/error.h"
#include "rl/text/jinja/methods.h"
#include "rl/text/jinja/numbers.h"
#include "rl/text/jinja/operations.h"
#include "rl/text/jinja/predicates.h"
#include "rl/text/jinja/python_text.h"
#include "rl/text/unicode.h"

namespace mantissa::jinja {

namespace {

using Filter = std::function<Value(const Value& input, const Arguments&)>;
using Filters = std::map<std::string, Filter, std::less<>>;

bool flag(const Value& v, bool otherwise) {
  return v.is_undefined() ? otherwise : truth(v);
}
int64_t number(const Value& v, int64_t otherwise, const char* what) {
  return v.is_undefined() ? otherwise : integer_of(v, what);
}

// ---- attributes, as the option attribute="a.b.0" of many filters names them --------------------------------------

Value attribute_path(Value item, const Value& path, const Value& otherwise = {}) {
  if (path.integer()) return item_of(item, path);
  for (const std::string& part : split(text_of(path, "an attribute"), ".", -1, false)) {
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    item = digits && part.size() < 10 ? item_of(item, int64_t(std::stoll(part))) : item_of(item, part);
    if (item.is_undefined() && !otherwise.is_undefined() && !otherwise.is_none()) item = otherwise;
  }
  return item;
}

/// What an item counts as in an order: its attribute, without case unless it matters.
Value order_key(const Value& item, const Value& attribute, bool case_matters) {
  const Value key = attribute.is_undefined() || attribute.is_none() ? item : attribute_path(item, attribute);
  return key.text() && !case_matters ? Value(lower(*key.text())) : key;
}

// ---- text ---------------------------------------------------------------------------------------------------------

Value replace_filter(const Value& input, const Arguments& arguments) {
  List bound = arguments.bind("replace", {"old?", "new?", "count"}, 2);
  Arguments call{{to_text(bound[0]), to_text(bound[1])}, {}};
  if (!bound[2].is_undefined() && !bound[2].is_none()) call.positional.push_back(bound[2]);
  return call_method(to_text(input), "replace", call);
}

/// Every word begins with a capital; words are cut by blanks, hyphens and opening brackets.
Value title_filter(const Value& input, const Arguments& arguments) {
  arguments.bind("title", {});
  std::string out, word;
  const auto flush = [&] {
    const size_t first = word.empty() ? 0 : utf8_length(static_cast<unsigned char>(word[0]));
    out += upper(word.substr(0, first)) + lower(word.substr(first));
    word.clear();
  };
  for (const std::string& c : characters_of(to_text(input))) {
    const bool cuts = std::string_view("-({[<").find(c) != std::string_view::npos || is_space(first_codepoint(c));
    if (cuts) flush();
    (cuts ? out : word) += c;
  }
  flush();
  return out;
}

Value indent_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("indent", {"width", "first?", "blank?"});
  const std::string by = bound[0].text()
                             ? *bound[0].text()
                             : std::string(size_t(std::clamp<int64_t>(number(bound[0], 4, "width"), 0, 1024)), ' ');
  const bool blank = flag(bound[2], false);
  const std::vector<std::string> lines = split_lines(text_of(input, "the input of indent") + "\n", false);
  std::string out = flag(bound[1], false) ? by : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += by;
    out += lines[i];
  }
  return out;
}

Value truncate_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("truncate", {"length", "killwords?", "end", "leeway"});
  const std::string text = text_of(input, "the input of truncate");
  const std::string end = bound[2].is_undefined() ? "..." : text_of(bound[2], "end");
  const int64_t length = number(bound[0], 255, "length"),
                leeway = bound[3].is_none() ? 5 : number(bound[3], 5, "leeway");
  check(length >= count_characters(end) && leeway >= 0, "truncate: length must not be below that of end");
  if (count_characters(std::string_view(text)) <= length + leeway) return text;
  const std::string cut = *slice_of(text, int64_t(0), length - count_characters(end), None()).text();
  return (flag(bound[1], false) ? cut : split(cut, " ", 1, true)[0]) + end;
}

Value word_count(const Value& input, const Arguments& arguments) {
  arguments.bind("wordcount", {});
  int64_t words = 0;
  bool inside = false;
  for (const std::string& c : characters_of(to_text(input))) {
    const bool word = c == "_" || is_all(c, Class::kAlnum);  // Python's \w
    words += word && !inside;
    inside = word;
  }
  return words;
}

Value escape_filter(const Value& input, const Arguments& arguments) {
  arguments.bind("escape", {});
  if (input.markup()) return input;
  std::string out;
  for (const char c : to_text(input)) {
    const size_t at = std::string_view("&<>'\"").find(c);
    constexpr const char* kEntities[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    at == std::string_view::npos ? out += c : out += kEntities[at];
  }
  return Value::markup(std::move(out));
}

Value json_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("tojson", {"ensure_ascii?", "indent", "separators", "sort_keys?"});
  JsonForm form;
  form.ascii = flag(bound[0], false);
  if (!bound[1].is_undefined() && !bound[1].is_none()) {
    form.indent = std::clamp<int64_t>(integer_of(bound[1], "the indent of tojson"), 0, 64);
    form.item_separator = ",";
  }
  if (!bound[2].is_undefined() && !bound[2].is_none()) {
    const List separators = items_of(bound[2]);
    check(separators.size() == 2, "the separators of tojson are two texts");
    form.item_separator = text_of(separators[0], "a separator");
    form.key_separator = text_of(separators[1], "a separator");
  }
  form.sort_keys = flag(bound[3], false);
  return to_json(input, form);
}

// ---- items --------------------------------------------------------------------------------------------------------

Value first_filter(const Value& input, const Arguments& arguments) {
  arguments.bind("first", {});
  Sequence* s = input.sequence();
  if (s && s->kind == Sequence::Kind::kGenerator)
    return s->taken < s->items.size() ? s->items[s->taken++] : Value::undefined("the first of no items");
  const List items = items_of(input);
  return items.empty() ? Value::undefined("the first of no items") : items[0];
}

Value last_filter(const Value& input, const Arguments& arguments) {
  arguments.bind("last", {});
  check(!(input.sequence() && input.sequence()->kind == Sequence::Kind::kGenerator), "last of a generator");
  const List items = items_of(input);
  return items.empty() ? Value::undefined("the last of no items") : items.back();
}

Value join_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("join", {"d?", "attribute"});
  const std::string by = to_text(bound[0]);
  List texts;
  for (const Value& item : items_of(input))
    texts.emplace_back(to_text(bound[1].is_undefined() || bound[1].is_none() ? item : attribute_path(item, bound[1])));
  return call_method(by, "join", {{Value::list(std::move(texts))}, {}});
}

Value reverse_filter(const Value& input, const Arguments& arguments) {
  arguments.bind("reverse", {});
  if (input.text()) return slice_of(input, None(), None(), int64_t(-1));
  List items = items_of(input);
  std::reverse(items.begin(), items.end());
  return Value::generator(std::move(items));
}

Value sort_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("sort", {"reverse", "case_sensitive?", "attribute"});
  check(!bound[2].text() || bound[2].text()->find(',') == std::string::npos,
        "sort by several attributes is not supported");
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items_of(input)) keyed.emplace_back(order_key(item, bound[2], flag(bound[1], false)), item);
  const bool down = flag(bound[0], false);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return down ? compare(b.first, a.first) < 0 : compare(a.first, b.first) < 0;
  });
  List items;
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return Value::list(std::move(items));
}

Value dict_sort(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("dictsort", {"case_sensitive?", "by", "reverse"});
  const std::string by = bound[1].is_undefined() ? "key" : text_of(bound[1], "by");
  check(by == "key" || by == "value", "dictsort: by must be key or value: got ", by);
  check(input.dict() != nullptr, "dictsort needs a dict: got a ", input.type());
  Arguments sort{{flag(bound[2], false), flag(bound[0], false), int64_t(by == "value")}, {}};
  return sort_filter(call_method(input, "items", {}), sort);
}

Value extreme(const Value& input, const Arguments& arguments, bool largest) {
  const List bound = arguments.bind(largest ? "max" : "min", {"case_sensitive?", "attribute"});
  const List items = items_of(input);
  if (items.empty()) return Value::undefined("the extreme of no items");
  List keys;
  for (const Value& item : items) keys.push_back(order_key(item, bound[1], flag(bound[0], false)));
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i)
    if (const int order = compare(keys[i], keys[best]); largest ? order > 0 : order < 0) best = i;
  return items[best];
}

Value unique_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("unique", {"case_sensitive?", "attribute"});
  List items, keys;
  for (const Value& item : items_of(input)) {
    const Value key = order_key(item, bound[1], flag(bound[0], false));
    check(hashable(key), "unique: a ", key.type(), " cannot be compared");
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& seen) { return equal(seen, key); })) continue;
    keys.push_back(key);
    items.push_back(item);
  }
  return Value::generator(std::move(items));
}

Value sum_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("sum", {"attribute", "start?"});
  Value total = bound[1].not_given() ? Value(int64_t(0)) : bound[1];
  check(!total.text(), "sum does not add up texts: use the filter join");
  for (const Value& item : items_of(input))
    total =
        arithmetic("+", total, bound[0].is_undefined() || bound[0].is_none() ? item : attribute_path(item, bound[0]));
  return total;
}

Value batch_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("batch", {"linecount", "fill_with?"}, 1);
  const int64_t size = integer_of(bound[0], "linecount");
  check(size > 0 && size <= 1 << 16, "batch: linecount must be from 1 to 65536: got ", size);
  List lines, line;
  for (const Value& item : items_of(input)) {
    line.push_back(item);
    if (int64_t(line.size()) == size) lines.push_back(Value::list(std::exchange(line, {})));
  }
  if (!line.empty()) {
    if (!bound[1].not_given() && !bound[1].is_none()) line.resize(size_t(size), bound[1]);
    lines.push_back(Value::list(std::move(line)));
  }
  return Value::generator(std::move(lines));
}

/// map(filter, arguments...) or map(attribute=..., default=...).
/// What map and select go through: nothing in anything that is false.
List items_to_go_through(const Value& v) {
  return truth(v) ? items_of(v) : List();
}

Value map_filter(const Value& input, const Arguments& arguments) {
  List items;
  if (arguments.positional.empty()) {
    const List bound = arguments.bind("map", {"attribute", "default?"}, 1);
    for (const Value& item : items_to_go_through(input)) items.push_back(attribute_path(item, bound[0], bound[1]));
  } else {
    const std::string name = text_of(arguments.positional[0], "the filter of map");
    const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
    for (const Value& item : items_to_go_through(input)) items.push_back(apply_filter(name, item, rest));
  }
  return Value::generator(std::move(items));
}

/// select, reject, selectattr, rejectattr: a test and its arguments, none: what counts is whether the value is true.
Value select_filter(const Value& input, const Arguments& arguments, bool wanted, bool by_attribute) {
  List rest = arguments.positional;
  Value attribute;
  if (by_attribute) {
    check(!rest.empty(), "selectattr and rejectattr need an attribute");
    attribute = rest[0];
    rest.erase(rest.begin());
  }
  std::string test;
  if (!rest.empty()) {
    test = text_of(rest[0], "the test of select");
    rest.erase(rest.begin());
  }
  List items;
  for (const Value& item : items_to_go_through(input)) {
    const Value value = by_attribute ? attribute_path(item, attribute) : item;
    if ((test.empty() ? truth(value) : apply_test(test, value, {rest, arguments.named})) == wanted)
      items.push_back(item);
  }
  return Value::generator(std::move(items));
}

Value items_filter(const Value& input, const Arguments& arguments) {
  arguments.bind("items", {});
  if (input.is_undefined()) return Value::generator({});
  check(input.dict() != nullptr, "items needs a dict: got a ", input.type());
  return Value::generator(items_of(call_method(input, "items", {})));
}

Value default_filter(const Value& input, const Arguments& arguments) {
  const List bound = arguments.bind("default", {"default_value?", "boolean?"});
  if (!input.is_undefined() && (!flag(bound[1], false) || truth(input))) return input;
  return bound[0].not_given() ? Value("") : bound[0];
}

Value format_filter(const Value& input, const Arguments& arguments) {
  check(arguments.named.empty(), "format with named arguments is not supported");
  return arithmetic("%", to_text(input), Value::tuple(arguments.positional));
}

Filter of_text(std::string (*f)(std::string_view), const char* name) {
  return [f, name](const Value& input, const Arguments& arguments) {
    arguments.bind(name, {});
    return Value(f(to_text(input)));
  };
}

Filter of_method(const char* name) {
  return
      [name](const Value& input, const Arguments& arguments) { return call_method(to_text(input), name, arguments); };
}

template <class F>
Filter plain(const char* name, F f) {
  return [f, name](const Value& input, const Arguments& arguments) {
    arguments.bind(name, {});
    return Value(f(input));
  };
}

Value absolute(const Value& v) {
  if (v.real()) return std::abs(*v.real());
  const int64_t number = integer_of(v, "the input of abs");
  return number < 0 ? negative(number) : number;
}

Filters all_filters() {
  Filters filters = {
      {"trim", of_method("strip")},
      {"upper", of_text(upper, "upper")},
      {"lower", of_text(lower, "lower")},
      {"capitalize", of_text(capitalize, "capitalize")},
      {"title", title_filter},
      {"replace", replace_filter},
      {"indent", indent_filter},
      {"truncate", truncate_filter},
      {"wordcount", word_count},
      {"tojson", json_filter},
      {"escape", escape_filter},
      {"safe", plain("safe", [](const Value& v) { return Value::markup(to_text(v)); })},
      {"string", plain("string", [](const Value& v) { return v.markup() ? v : Value(to_text(v)); })},
      {"format", format_filter},
      {"center",
       [](const Value& input, const Arguments& a) {
         return call_method(to_text(input), "center", {{number(a.bind("center", {"width"})[0], 80, "width")}, {}});
       }},
      {"int", int_filter},
      {"float", float_filter},
      {"round", round_filter},
      {"abs", plain("abs", absolute)},
      {"length", plain("length", [](const Value& v) { return length_of(v); })},
      {"list", plain("list", [](const Value& v) { return Value::list(items_of(v)); })},
      {"first", first_filter},
      {"last", last_filter},
      {"join", join_filter},
      {"reverse", reverse_filter},
      {"sort", sort_filter},
      {"dictsort", dict_sort},
      {"min", [](const Value& input, const Arguments& a) { return extreme(input, a, false); }},
      {"max", [](const Value& input, const Arguments& a) { return extreme(input, a, true); }},
      {"unique", unique_filter},
      {"sum", sum_filter},
      {"batch", batch_filter},
      {"map", map_filter},
      {"select", [](const Value& input, const Arguments& a) { return select_filter(input, a, true, false); }},
      {"reject", [](const Value& input, const Arguments& a) { return select_filter(input, a, false, false); }},
      {"selectattr", [](const Value& input, const Arguments& a) { return select_filter(input, a, true, true); }},
      {"rejectattr", [](const Value& input, const Arguments& a) { return select_filter(input, a, false, true); }},
      {"items", items_filter},
      {"default", default_filter},
  };
  for (const auto& [name, other] : {std::pair("count", "length"), {"d", "default"}, {"e", "escape"}})
    filters[name] = filters[other];
  return filters;
}

}  // namespace

Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments) {
  static const Filters filters = all_filters();
  const auto found = filters.find(name);
  check(found != filters.end(), "the filter \"", name, "\" is not supported");
  static const std::set<std::string, std::less<>> kOfMarkup = {"safe",   "escape", "e",       "string", "tojson",
                                                               "length", "count",  "default", "d"};
  check(!input.markup() || kOfMarkup.contains(name), "the filter \"", name, "\" of a ", input.type(),
        " is not supported");
  return found->second(input, arguments);
}

}  // namespace mantissa::jinja
