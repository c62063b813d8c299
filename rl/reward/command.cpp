#include "rl/reward/command.h"

#include "core/error.h"
#include "rl/reward/process.h"

namespace mantissa {

CommandResult run_command(const std::string& command, std::string_view input, const CommandLimits& limits) {
  CommandResult result;
  try {
    const Fd log = open_log(limits.log_file);
    Channel in(Channel::Kind::kSocket), out(Channel::Kind::kPipe);
    const auto deadline = Process::in_seconds(limits.seconds);
    const Process process({.argv = {"/bin/sh", "-c", command},
                           .environment = {},
                           .descriptors = {in.out.get(), out.in.get(), log.get()},
                           .folder = {},
                           .memory_mb = limits.memory_mb});
    in.out.close();
    out.in.close();
    siginfo_t info{};
    if (!exchange(in.in, out.out, input, result.output, limits.output, deadline) || !process.wait(info, deadline)) {
      result.end = CommandResult::End::kTimeout;
      result.message = str("killed after ", limits.seconds, " s");
    } else if (info.si_code == CLD_EXITED) {
      result.end = CommandResult::End::kExited;
      result.code = info.si_status;
    } else {
      result.message = str("ended by signal ", info.si_status);
    }
  } catch (const Error& e) {
    result.message = str("not started: ", e.what());
  }
  return result;
}

}  // namespace mantissa
