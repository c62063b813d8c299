#include "rl/reward/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "rl/reward/sandbox.h"

namespace mantissa {
namespace {

constexpr size_t kMaxDescriptors = 8;

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

/// What the child does before it becomes the program, with system calls alone: it shares our memory until then.
/// Returns where it fails.
int become(const ProcessStart& start, char* const* argv, char* const* environment, const sigset_t& signals, int ruleset,
           pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) return ESRCH;  // it ended before it could be watched
  for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) ::signal(signal, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &signals, nullptr);
  // First out of the way of each other's numbers.
  const int count = int(start.descriptors.size());
  int parked[kMaxDescriptors + 1];
  for (int i = 0; i <= count; ++i) {
    const int fd = i < count ? start.descriptors[size_t(i)] : ruleset;
    if (fd >= 0 && (parked[i] = ::fcntl(fd, F_DUPFD, 64)) < 0) return errno;
  }
  for (int i = 0; i < count + (ruleset >= 0); ++i)
    if (::dup2(parked[i], i) < 0) return errno;
  if (ruleset >= 0) ::fcntl(count, F_SETFD, FD_CLOEXEC);
  const unsigned first = unsigned(count + (ruleset >= 0));
  if (::syscall(SYS_close_range, first, ~0u, 0) != 0)
    for (unsigned fd = first; fd < 4096; ++fd) ::close(int(fd));
  if (!start.folder.empty() && ::chdir(start.folder.c_str()) != 0) return errno;
  const auto limit = [](auto what, rlim_t most) {
    const rlimit value{most, most};
    ::setrlimit(what, &value);
  };
  limit(RLIMIT_CORE, 0);  // a core file would cost more than the answer
  if (start.memory_mb > 0) limit(RLIMIT_AS, rlim_t(start.memory_mb) << 20);
  if (start.sandbox != nullptr)
    if (const int error = start.sandbox->enter(ruleset >= 0 ? count : -1)) return error;
  ::execve(argv[0], argv, environment);
  return errno;
}

/// Starts the program in a child that runs on our memory until then: no handler of ours may run there. Returns its
/// pid, or -1; `error` is what kept either from happening, or 0. A function of its own: what lives in registers around
/// vfork() is lost.
[[gnu::noinline]] pid_t spawn(const ProcessStart& start, char* const* argv, char* const* environment, int ruleset,
                              volatile int& error) {
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  error = 0;
  const pid_t parent = ::getpid(), pid = ::vfork();
  if (pid == 0) {
    error = become(start, argv, environment, before, ruleset, parent);
    ::_exit(127);
  }
  if (pid < 0) error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return pid;
}

/// The thread of start_lasting().
class Starter {
 public:
  std::unique_ptr<Process> start(const ProcessStart& what) {
    std::packaged_task<std::unique_ptr<Process>()> task([&] { return std::make_unique<Process>(what); });
    std::future<std::unique_ptr<Process>> started = task.get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
    return started.get();
  }

 private:
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    for (; wake_.wait(lock, stop, [this] { return !tasks_.empty(); }); tasks_.pop_front()) tasks_.front()();
  }
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::packaged_task<std::unique_ptr<Process>()>> tasks_;
  std::jthread thread_{[this](const std::stop_token& stop) { work(stop); }};
};

}  // namespace

std::unique_ptr<Process> start_lasting(const ProcessStart& start) {
  static Starter starter;
  return starter.start(start);
}

Process::Process(const ProcessStart& start) {
  check(start.descriptors.size() <= kMaxDescriptors, "a process with ", start.descriptors.size(), " descriptors");
  const std::vector<char*> argv = pointers(start.argv);
  std::vector<char*> own = pointers(start.environment);
  char* const* environment = start.environment.empty() ? environ : own.data();
  const Fd ruleset(start.sandbox != nullptr ? start.sandbox->make_ruleset(start.folder) : -1);
  volatile int error = 0;
  pid_ = spawn(start, argv.data(), environment, ruleset.get(), error);
  if (pid_ > 0 && error != 0)
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  check(error == 0, start.argv[0], ": ", std::strerror(error));
}

Process::~Process() {
  ::kill(-pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool Process::wait(siginfo_t& info, Clock::time_point deadline) const {
  for (useconds_t pause = 100;; pause = std::min<useconds_t>(2 * pause, 20000)) {
    info = {};
    // The leader is left unreaped: its group keeps its number until it has been killed.
    if (::waitid(P_PID, id_t(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno != EINTR) return false;
    if (info.si_pid == pid_) return true;
    if (Clock::now() >= deadline) return false;
    ::usleep(pause);
  }
}

Talk talk(const Fd& in, const Fd& out, std::string_view& unsent, std::string& received,
          Process::Clock::time_point deadline) {
  char chunk[65536];
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Process::Clock::now()).count();
  if (left <= 0) return Talk::kTimeout;
  pollfd fds[] = {{out.get(), POLLIN, 0}, {unsent.empty() ? -1 : in.get(), POLLOUT, 0}};  // poll skips a negative one
  if (::poll(fds, 2, int(std::min<int64_t>(left, 1000))) < 0) return errno == EINTR ? Talk::kGoesOn : Talk::kEnded;
  if (fds[1].revents) {
    // A program that does not read its input is no error, and no SIGPIPE.
    const ssize_t n = ::send(in.get(), unsent.data(), unsent.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) unsent.remove_prefix(size_t(n));
    if (n < 0 && errno != EAGAIN && errno != EINTR) unsent = {};
  }
  if (fds[0].revents) {
    const ssize_t n = ::read(out.get(), chunk, sizeof chunk);
    if (n > 0) received.append(chunk, size_t(n));
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return Talk::kEnded;
  }
  return Talk::kGoesOn;
}

bool exchange(Fd& in, Fd& out, std::string_view input, std::string& output, size_t limit,
              Process::Clock::time_point deadline, bool line) {
  for (;;) {
    if (input.empty()) in.close();
    if (line && output.find('\n') != output.npos) return true;
    const Talk turn = talk(in, out, input, output, deadline);
    output.resize(std::min(output.size(), limit));
    if (turn != Talk::kGoesOn) return turn == Talk::kEnded;
  }
}

}  // namespace mantissa
