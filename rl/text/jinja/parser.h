// Tokens to a syntax tree, after Jinja's grammar with the tags of transformers (generation, break, continue).
#pragma once

#include <string_view>

#include "rl/text/jinja/syntax.h"

namespace mantissa::jinja {

/// Error "line N: ..." on what is wrong and on tags that are not supported (include, import, extends, block, ...).
Body parse(std::string_view source);

}  // namespace mantissa::jinja
