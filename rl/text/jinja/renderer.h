// Runs a syntax tree: scopes, statements, expressions, calls.
#pragma once

#include <ctime>
#include <string>

#include "rl/text/jinja/syntax.h"

namespace mantissa::jinja {

/// The text of a template under `variables`; `now` is what strftime_now tells. Error "line N: ...". A template that
/// works too long (Work::kLimit) or calls itself too deeply is an error.
std::string render(const Body& body, const Dict& variables, std::time_t now);

}  // namespace mantissa::jinja
