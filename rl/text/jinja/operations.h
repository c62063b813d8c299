// What expressions do with values: membership, items, attributes, slices, arithmetic. Every error says what Python
// would have refused too, or what is not supported.
#pragma once

#include <string>
#include <string_view>

#include "rl/text/jinja/value.h"

namespace mantissa::jinja {

/// `item in container`.
bool contains(const Value& container, const Value& item);
/// len(v).
int64_t length_of(const Value& v);
/// All items of an iteration: code points of a text, keys of a dict; takes what a generator has left.
List items_of(const Value& v);
/// v.name: Undefined when there is none; Error for what Jinja has there and this interpreter has not.
Value attribute_of(const Value& v, const std::string& name);
/// v[key], in Jinja's order: item first, then attribute.
Value item_of(const Value& v, const Value& key);
/// v[start:stop:step]; None: not given.
Value slice_of(const Value& v, const Value& start, const Value& stop, const Value& step);
/// Python's range().
List range_of(const List& arguments);
/// + - * / // % **.
Value arithmetic(std::string_view op, const Value& a, const Value& b);
Value positive(const Value& v);
Value negative(const Value& v);

}  // namespace mantissa::jinja
