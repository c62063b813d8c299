// Methods of Python's str, dict, list and tuple that templates call.
#pragma once

#include <string>

#include "rl/text/jinja/value.h"

namespace mantissa::jinja {

/// v.name(arguments) for a value that is no object. Error for a method that is not supported (those that change their
/// object are refused as by Jinja's sandbox) and where Python raises one.
Value call_method(const Value& v, const std::string& name, const Arguments& arguments);

}  // namespace mantissa::jinja
