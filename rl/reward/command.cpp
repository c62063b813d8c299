#include "rl/reward/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/error.h"

namespace mantissa {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kOutputLimit = size_t(64) << 10;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

/// Starts the shell as the leader of a process group of its own; 0 or what the system said.
int spawn(const std::string& script, int in, int out, pid_t& pid) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in, 0);  // the copies stay open across exec
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) sigaddset(&signals, signal);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  const char* argv[] = {"sh", "-c", script.c_str(), nullptr};
  const int error = posix_spawn(&pid, "/bin/sh", &actions, &attributes, const_cast<char**>(argv), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

/// Feeds and reads until the program closes its output or the deadline is over; false then.
bool talk(Fd& in, Fd& out, std::string_view input, std::string& output, Clock::time_point deadline) {
  char buffer[4096];
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd fds[] = {{out.get(), POLLIN, 0}, {in.get(), POLLOUT, 0}};  // poll skips a negative descriptor
    if (::poll(fds, 2, int(std::min<int64_t>(left, 1000))) < 0 && errno != EINTR) return false;
    if (fds[1].revents) {
      // A program that does not read its input is no error: no SIGPIPE, the rest is dropped.
      const ssize_t n = ::send(in.get(), input.data(), input.size(), MSG_NOSIGNAL);
      if (n > 0) input.remove_prefix(size_t(n));
      if ((n < 0 && errno != EAGAIN && errno != EINTR) || input.empty()) in.close();
    }
    if (fds[0].revents) {
      const ssize_t n = ::read(out.get(), buffer, sizeof buffer);
      if (n == 0) return true;
      if (n > 0) output.append(buffer, std::min(size_t(n), kOutputLimit - output.size()));
      if (n < 0 && errno != EAGAIN && errno != EINTR) return true;
    }
  }
}

/// Waits for the leader to end; false when the deadline is over. A program may close its output and go on.
bool wait_until(pid_t pid, siginfo_t& info, Clock::time_point deadline) {
  for (useconds_t pause = 100;; pause = std::min<useconds_t>(2 * pause, 20000)) {
    info = {};
    // The leader is left unreaped: its group keeps its number until it has been killed.
    if (::waitid(P_PID, id_t(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno != EINTR) return false;
    if (info.si_pid == pid) return true;
    if (Clock::now() >= deadline) return false;
    ::usleep(pause);
  }
}

}  // namespace

CommandResult run_command(const std::string& command, std::string_view input, const CommandLimits& limits) {
  CommandResult result;
  int in[2], out[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) != 0) {
    result.message = str("no socket for its input: ", std::strerror(errno));
    return result;
  }
  Fd ours_in(in[0]), theirs_in(in[1]);
  if (::pipe2(out, O_CLOEXEC) != 0) {
    result.message = str("no pipe for its output: ", std::strerror(errno));
    return result;
  }
  Fd ours_out(out[0]), theirs_out(out[1]);
  ::fcntl(ours_in.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(ours_out.get(), F_SETFL, O_NONBLOCK);

  const Clock::time_point deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(limits.seconds));
  pid_t pid = 0;
  // The limit comes before anything of the user's runs; a core file would cost more than the answer.
  const std::string script = str("ulimit -c 0; ulimit -v ", limits.memory_mb * 1024, " || exit 125\n", command);
  if (const int error = spawn(script, theirs_in.get(), theirs_out.get(), pid); error != 0) {
    result.message = str("not started: ", std::strerror(error));
    return result;
  }
  theirs_in.close();
  theirs_out.close();
  siginfo_t info{};
  const bool ended = talk(ours_in, ours_out, input, result.output, deadline) && wait_until(pid, info, deadline);
  ::kill(-pid, SIGKILL);
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (!ended) {
    result.end = CommandResult::End::kTimeout;
    result.message = str("killed after ", limits.seconds, " s");
  } else if (info.si_code == CLD_EXITED) {
    result.end = CommandResult::End::kExited;
    result.code = info.si_status;
  } else {
    result.message = str("ended by signal ", info.si_status);
  }
  return result;
}

}  // namespace mantissa
