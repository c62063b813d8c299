// Jinja's filters.
#pragma once

#include <string>

#include "rl/text/jinja/value.h"

namespace mantissa::jinja {

/// input|name(arguments). Error for a filter that is not supported.
Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments);

}  // namespace mantissa::jinja
