// The Python program of reward.kind python (python.h); its arguments are FILE and FUNCTION. Each line of standard input
// is a list of [response, record]; for each of them a line of standard output is {"reward", "extracted"} or {"error"}.
// The first line out is {"ready", "batch"} or {"error"}. What the user's code prints goes to standard error.
#pragma once

#include <string_view>

namespace mantissa {

std::string_view python_worker();

}  // namespace mantissa
