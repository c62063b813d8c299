// The filters that make numbers: int, float, round.
#pragma once

#include "rl/text/jinja/value.h"

namespace mantissa::jinja {

Value int_filter(const Value& input, const Arguments& arguments);
Value float_filter(const Value& input, const Arguments& arguments);
/// Halves go to the even neighbour, as Python rounds.
Value round_filter(const Value& input, const Arguments& arguments);

}  // namespace mantissa::jinja
