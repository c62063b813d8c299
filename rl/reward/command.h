// A user's own verifier as a program: a process that is started for an answer (or a batch of them), bounded in time and
// memory. It cannot take the run down with it: its process group is killed when the time is over and when it has ended,
// so that nothing it started stays behind (but for what moves itself into another group).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mantissa {

struct CommandLimits {
  double seconds = 10;
  int64_t memory_mb = 1024;          // address space of each process
  size_t output = size_t(64) << 10;  // bytes of its standard output that are kept
  std::string log_file = {};         // where its standard error is appended; empty: it goes to ours
};

struct CommandResult {
  enum class End {
    kExited,   // `code` says how
    kTimeout,  // killed after limits.seconds
    kError,    // not started, or ended by a signal; `message` says which
  };
  End end = End::kError;
  int code = 0;
  std::string output;  // standard output
  std::string message;
};

/// Runs `command` by /bin/sh with `input` on its standard input. Never throws. Safe on any number of threads.
CommandResult run_command(const std::string& command, std::string_view input, const CommandLimits& limits);

}  // namespace mantissa
