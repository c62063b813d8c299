// The two Python programs of reward.kind code, see code.h; each is run by "python3 -I -c".
#pragma once

#include <string_view>

namespace mantissa {

/// Standard input: {"code", "tests", "hide"} as JSON; descriptors 3 and 4: the conversation with the answer's process;
/// descriptor 5: a file whose first byte is 1 while the answer is at work, loading, called or sending, and 0 or absent
/// while the judge is; standard output: {"correct", "reason", "status"}. `hide`: keep other processes of the user from
/// reading its memory.
std::string_view python_judge();

/// Standard input and output: the conversation with the judge, one JSON message a line.
std::string_view python_runner();

}  // namespace mantissa
