// Child processes: started with chosen descriptors, limits and, where asked, inside a sandbox; fed and read up to a
// deadline; killed with all they started (but for what moves itself into another process group). However this program
// ends, its child processes end with it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rl/reward/channel.h"

namespace mantissa {

class Sandbox;

struct ProcessStart {
  std::vector<std::string> argv;         // argv[0] is a path
  std::vector<std::string> environment;  // "NAME=value"; empty: ours
  std::vector<int> descriptors;          // they become 0, 1, 2, ...; all others are closed
  std::string folder;                    // where it starts; empty: here
  int64_t memory_mb = 0;                 // address space; 0: no limit
  const Sandbox* sandbox = nullptr;
};

class Process {
 public:
  using Clock = std::chrono::steady_clock;
  static Clock::time_point in_seconds(double seconds) {
    return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  /// Starts the leader of a process group of its own, which is killed when the calling thread ends: the system knows no
  /// other sign of the end of this program (start_lasting is for others). Throws Error with what the system says.
  explicit Process(const ProcessStart& start);
  /// Kills the group.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  /// Waits for the leader to end; false when the deadline is over. A program may close its output and go on.
  bool wait(siginfo_t& info, Clock::time_point deadline) const;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

/// A process that outlives the calling thread: one thread that stays starts all of these.
std::unique_ptr<Process> start_lasting(const ProcessStart& start);

enum class Talk : uint8_t { kGoesOn, kEnded, kTimeout };
/// One turn of a conversation: waits until something can be done, sends some of `unsent` to the socket `in`, which
/// leaves the rest in it, and appends what has come from `out`. Ended: the other side has closed it. Where nobody reads
/// what is sent, the rest is dropped; the other side's output says why.
Talk talk(const Fd& in, const Fd& out, std::string_view& unsent, std::string& received,
          Process::Clock::time_point deadline);
/// A whole conversation: sends `input`, closes `in`, and appends what comes, up to `limit` bytes, until the other side
/// ends, or `line`: until a whole line is there; false when the deadline is over before.
bool exchange(Fd& in, Fd& out, std::string_view input, std::string& output, size_t limit,
              Process::Clock::time_point deadline, bool line = false);

}  // namespace mantissa
