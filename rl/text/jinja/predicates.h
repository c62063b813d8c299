// Jinja's tests: value is name(arguments).
#pragma once

#include <string>

#include "rl/text/jinja/value.h"

namespace mantissa::jinja {

/// Error for a test that is not supported.
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments);

}  // namespace mantissa::jinja
