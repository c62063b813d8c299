// A user's own verifier as a program, one process an answer, bounded in time and memory. It cannot take the run with
// it: its process group is killed when the time is over and when it has ended, so that nothing it started stays behind
// (but for what moves itself into another group).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mantissa {

struct CommandLimits {
  double seconds = 10;
  int64_t memory_mb = 1024;  // address space of each process
};

struct CommandResult {
  enum class End {
    kExited,   // `code` says how
    kTimeout,  // killed after limits.seconds
    kError,    // not started, or ended by a signal; `message` says which
  };
  End end = End::kError;
  int code = 0;
  std::string output;  // standard output, the first 64 KiB
  std::string message;
};

/// Runs `command` by /bin/sh with `input` on its standard input; standard error goes to ours. Never throws. Safe on any
/// number of threads.
CommandResult run_command(const std::string& command, std::string_view input, const CommandLimits& limits);

}  // namespace mantissa
