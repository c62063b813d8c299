#include "rl/text/jinja/methods.h"

#include <algorithm>
#include <functional>
#include <map>

#include "core/error.h"
#include "rl/text/jinja/operations.h"
#include "rl/text/jinja/python_text.h"

namespace mantissa::jinja {

namespace {

using TextMethod = std::function<Value(const std::string& self, const std::string& name, const Arguments&)>;

Value texts(std::vector<std::string> parts) {
  List items;
  for (std::string& part : parts) items.emplace_back(std::move(part));
  return Value::list(std::move(items));
}

bool given(const Value& v) {
  return !v.is_undefined() && !v.is_none();
}

Value strip_method(const std::string& self, const std::string& name, const Arguments& arguments) {
  const Value characters = arguments.bind(name, {"chars"})[0];
  const Side side = name == "strip" ? Side::kBoth : name == "lstrip" ? Side::kLeft : Side::kRight;
  if (!given(characters)) return strip(self, side);
  return strip(self, side, std::string_view(text_of(characters, "the characters to strip")));
}

Value split_method(const std::string& self, const std::string& name, const Arguments& arguments) {
  const List bound = arguments.bind(name, {"sep", "maxsplit"});
  const int64_t limit = bound[1].is_undefined() ? -1 : integer_of(bound[1], "maxsplit");
  const bool from_right = name == "rsplit";
  if (!given(bound[0])) return texts(split_at_space(self, limit, from_right));
  return texts(split(self, text_of(bound[0], "the separator"), limit, from_right));
}

/// The part of self that the optional bounds of find, count, startswith cut out, and its offset.
std::string_view part_of(const std::string& self, const Value& start, const Value& stop, size_t& offset) {
  offset = 0;
  if (!given(start) && !given(stop)) return self;
  const std::vector<size_t> offsets = offsets_of(self);
  const int64_t size = int64_t(offsets.size()) - 1;
  const auto bound = [&](const Value& v, int64_t otherwise) {
    if (!given(v)) return otherwise;
    const int64_t at = integer_of(v, "a bound");
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  check(!given(start) || integer_of(start, "a bound") <= size, "a bound beyond the end of the text is not supported");
  const int64_t begin = bound(start, 0), end = std::max(begin, bound(stop, size));
  offset = offsets[size_t(begin)];
  return std::string_view(self).substr(offset, offsets[size_t(end)] - offset);
}

Value starts_or_ends(const std::string& self, const std::string& name, const Arguments& arguments) {
  const List bound = arguments.bind(name, {"prefix", "start", "end"}, 1);
  size_t offset = 0;
  const std::string_view part = part_of(self, bound[1], bound[2], offset);
  const auto fits = [&](const Value& v) {
    const std::string& affix = text_of(v, "what startswith and endswith look for");
    return name == "startswith" ? part.starts_with(affix) : part.ends_with(affix);
  };
  const Sequence* tuple = bound[0].sequence();
  if (tuple && tuple->kind == Sequence::Kind::kTuple)
    return std::any_of(tuple->items.begin(), tuple->items.end(), fits);
  return fits(bound[0]);
}

Value find_method(const std::string& self, const std::string& name, const Arguments& arguments) {
  const List bound = arguments.bind(name, {"sub", "start", "end"}, 1);
  size_t offset = 0;
  const std::string_view part = part_of(self, bound[1], bound[2], offset);
  const std::string& wanted = text_of(bound[0], "what to look for");
  if (name == "count") {
    if (wanted.empty()) return count_characters(part) + 1;
    int64_t count = 0;
    for (size_t at = part.find(wanted); at != std::string_view::npos; at = part.find(wanted, at + wanted.size()))
      ++count;
    return count;
  }
  const bool last = name[0] == 'r';
  const size_t at = last ? part.rfind(wanted) : part.find(wanted);
  check(at != std::string_view::npos || name.ends_with("find"), name, ": ", repr(std::string_view(wanted)),
        " is not in the text");
  if (at == std::string_view::npos) return int64_t(-1);
  return count_characters(std::string_view(self).substr(0, offset + at));
}

Value replace_method(const std::string& self, const std::string& name, const Arguments& arguments) {
  const List bound = arguments.bind(name, {"old", "new", "count"}, 2);
  const std::string &from = text_of(bound[0], "what replace looks for"), &to = text_of(bound[1], "the replacement");
  const size_t places = from.empty() ? self.size() + 1 : self.size() / from.size();
  check(places * to.size() < size_t(1) << 26, "replace: the text becomes too long");
  return replace(self, from, to, bound[2].is_undefined() ? -1 : integer_of(bound[2], "the count of replace"));
}

Value pad(const std::string& self, const std::string& name, const Arguments& arguments) {
  const List bound = arguments.bind(name, {"width", "fillchar"}, 1);
  const std::string fill = bound[1].is_undefined() ? " " : text_of(bound[1], "fillchar");
  check(count_characters(fill) == 1, "fillchar must be one character");
  const int64_t width = integer_of(bound[0], "width"), size = count_characters(self),
                missing = std::max<int64_t>(width - size, 0);
  check(missing < 1 << 20, "a width is at most 2^20");
  int64_t left = name == "rjust" ? missing : 0;
  if (name == "center") left = missing / 2 + (missing & width & 1);  // as CPython rounds
  std::string out;
  for (int64_t i = 0; i < missing; ++i) {
    if (i == left) out += self;
    out += fill;
  }
  return left == missing ? out + self : missing == 0 ? self : out;
}

Value zero_fill(const std::string& self, const std::string& name, const Arguments& arguments) {
  const int64_t missing = integer_of(arguments.bind(name, {"width"}, 1)[0], "width") - count_characters(self);
  check(missing < 1 << 20, "a width is at most 2^20");
  if (missing <= 0) return self;
  const size_t sign = !self.empty() && (self[0] == '-' || self[0] == '+');
  return self.substr(0, sign) + std::string(size_t(missing), '0') + self.substr(sign);
}

Value partition(const std::string& self, const std::string& name, const Arguments& arguments) {
  const std::string separator = text_of(arguments.bind(name, {"sep"}, 1)[0], "the separator");
  check(!separator.empty(), name, ": the separator must not be empty");
  const bool last = name == "rpartition";
  const size_t at = last ? self.rfind(separator) : self.find(separator);
  if (at == std::string::npos) return last ? Value::tuple({"", "", self}) : Value::tuple({self, "", ""});
  return Value::tuple({self.substr(0, at), separator, self.substr(at + separator.size())});
}

Value remove_affix(const std::string& self, const std::string& name, const Arguments& arguments) {
  const std::string affix = text_of(arguments.bind(name, {"affix"}, 1)[0], "what to remove");
  if (name == "removeprefix") return self.starts_with(affix) ? self.substr(affix.size()) : self;
  return self.ends_with(affix) ? self.substr(0, self.size() - affix.size()) : self;
}

Value join_method(const std::string& self, const std::string& name, const Arguments& arguments) {
  std::string out;
  bool first = true;
  for (const Value& item : items_of(arguments.bind(name, {"iterable"}, 1)[0])) {
    if (!first) out += self;
    first = false;
    out += text_of(item, "an item to join");
    check(out.size() < size_t(1) << 26, "join: the text becomes too long");
  }
  return out;
}

/// "{} {0} {name}".format(...) without conversions and format specifications.
Value format_method(const std::string& self, const std::string&, const Arguments& arguments) {
  std::string out;
  size_t next = 0;
  bool numbered = false;
  for (size_t i = 0; i < self.size(); ++i) {
    const char c = self[i];
    if ((c == '{' || c == '}') && i + 1 < self.size() && self[i + 1] == c) {
      out += c;
      ++i;
      continue;
    }
    check(c != '}', "format: a single '}'");
    if (c != '{') {
      out += c;
      continue;
    }
    const size_t end = self.find('}', i);
    check(end != std::string::npos, "format: a single '{'");
    const std::string field = self.substr(i + 1, end - i - 1);
    check(field.find_first_of("!:.[{") == std::string::npos, "format: the field {", field, "} is not supported");
    const bool number = !field.empty() && field.find_first_not_of("0123456789") == std::string::npos;
    if (field.empty() || number) {
      check(field.size() < 6, "format: there is no argument ", field);
      numbered = numbered || number;
      check(!numbered || (number && next == 0), "format: numbered and automatic fields do not mix");
      const size_t at = number ? std::stoul(field) : next++;
      check(at < arguments.positional.size(), "format: there is no argument ", at);
      out += to_text(arguments.positional[at]);
    } else {
      const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                      [&](const auto& argument) { return argument.first == field; });
      check(found != arguments.named.end(), "format: there is no argument \"", field, '"');
      out += to_text(found->second);
    }
    i = end;
  }
  return out;
}

const std::map<std::string, TextMethod, std::less<>>& text_methods() {
  const auto plain = [](std::string (*f)(std::string_view)) -> TextMethod {
    return [f](const std::string& self, const std::string& name, const Arguments& arguments) {
      arguments.bind(name, {});
      return Value(f(self));
    };
  };
  const auto all = [](Class wanted) -> TextMethod {
    return [wanted](const std::string& self, const std::string& name, const Arguments& arguments) {
      arguments.bind(name, {});
      return Value(is_all(self, wanted));
    };
  };
  static const std::map<std::string, TextMethod, std::less<>> methods = {
      {"strip", strip_method},
      {"lstrip", strip_method},
      {"rstrip", strip_method},
      {"split", split_method},
      {"rsplit", split_method},
      {"splitlines",
       [](const std::string& self, const std::string& name, const Arguments& arguments) {
         const Value keep = arguments.bind(name, {"keepends"})[0];
         return texts(split_lines(self, !keep.not_given() && integer_of(keep, "keepends") != 0));
       }},
      {"startswith", starts_or_ends},
      {"endswith", starts_or_ends},
      {"find", find_method},
      {"rfind", find_method},
      {"index", find_method},
      {"rindex", find_method},
      {"count", find_method},
      {"replace", replace_method},
      {"ljust", pad},
      {"rjust", pad},
      {"center", pad},
      {"zfill", zero_fill},
      {"partition", partition},
      {"rpartition", partition},
      {"removeprefix", remove_affix},
      {"removesuffix", remove_affix},
      {"join", join_method},
      {"format", format_method},
      {"upper", plain(upper)},
      {"lower", plain(lower)},
      {"capitalize", plain(capitalize)},
      {"title", plain(title)},
      {"swapcase", plain(swap_case)},
      {"isalpha", all(Class::kAlpha)},
      {"isdigit", all(Class::kDigit)},
      {"isalnum", all(Class::kAlnum)},
      {"isspace", all(Class::kSpace)},
      {"isupper", all(Class::kUpper)},
      {"islower", all(Class::kLower)},
  };
  return methods;
}

Value dict_method(const Dict& self, const std::string& name, const Arguments& arguments) {
  if (name == "get") {
    check(arguments.named.empty(), "get takes no named arguments");
    const List bound = arguments.bind(name, {"key?", "default?"}, 1);
    if (const Value* found = self.find(bound[0])) return *found;
    return arguments.positional.size() > 1 ? bound[1] : Value(None());
  }
  arguments.bind(name, {});
  if (name == "copy") return self;
  List items;
  for (const auto& [key, value] : self.items)
    items.push_back(name == "keys" ? key : name == "values" ? value : Value::tuple({key, value}));
  return Value::sequence(Sequence::Kind::kView, std::move(items));
}

Value sequence_method(const Value& v, const std::string& name, const Arguments& arguments) {
  const Sequence& self = *v.sequence();
  if (name == "copy") {
    arguments.bind(name, {});
    return v;
  }
  const Value wanted = arguments.bind(name, {"value?"}, 1)[0];
  if (name == "count")
    return int64_t(
        std::count_if(self.items.begin(), self.items.end(), [&](const Value& item) { return equal(item, wanted); }));
  for (size_t i = 0; i < self.items.size(); ++i)
    if (equal(self.items[i], wanted)) return int64_t(i);
  fail("index: ", repr(wanted), " is not in the ", v.type());
}

}  // namespace

Value call_method(const Value& v, const std::string& name, const Arguments& arguments) {
  if (const std::string* text = v.text()) {
    Work::spend(text->size() / 16);
    if (const auto found = text_methods().find(name); found != text_methods().end())
      return found->second(*text, name, arguments);
  } else if (const Dict* dict = v.dict()) {
    if (name == "get" || name == "items" || name == "keys" || name == "values" || name == "copy")
      return dict_method(*dict, name, arguments);
  } else if (const Sequence* s = v.sequence()) {
    const bool list = s->kind == Sequence::Kind::kList || s->kind == Sequence::Kind::kTuple;
    const bool copies = name == "copy" && s->kind == Sequence::Kind::kList;
    if (list && (name == "index" || name == "count" || copies)) return sequence_method(v, name, arguments);
  }
  fail("the method \"", name, "\" of a ", v.type(), " is not supported");
}

}  // namespace mantissa::jinja
