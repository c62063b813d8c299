#include "tools/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "core/comm/mesh.h"
#include "core/comm/watchdog.h"
#include "rl/logging/log.h"
#include "tools/device.h"

#ifdef MANTISSA_WITH_CUDA
#include "cuda/backend.h"
#endif

namespace mantissa {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kGrace = 5s;     // for the others to say why, once one has ended
constexpr std::chrono::milliseconds kStopped = 22s;  // a stopped rank is killed then, if no other has noticed

struct Child {
  pid_t pid = -1;
  Socket output;  // of ranks other than 0
  std::string line;
  int status = 0;
  bool ended = false;
  Deadline ran;  // last seen other than stopped
  bool failed() const { return ended && !(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || stopped())); }
  /// Ended by a signal it was asked to end by, after saving: 128 + signal.
  bool stopped() const { return WIFEXITED(status) && WEXITSTATUS(status) > 128; }
};

/// Whether a process is stopped (by SIGSTOP, or a terminal).
bool is_stopped(pid_t pid) {
  std::ifstream in(str("/proc/", pid, "/stat"));
  std::string line;
  std::getline(in, line);
  const size_t state = line.rfind(')') + 2;  // behind the program's name
  return state < line.size() && (line[state] == 'T' || line[state] == 't');
}

/// Whole lines of a child's output, behind its rank.
void pass_on(Child& child, int rank, bool all) {
  char buffer[4096];
  for (ssize_t n; child.output && (n = ::read(child.output.fd(), buffer, sizeof buffer)) != -1;) {
    if (n == 0) child.output.close();
    child.line.append(buffer, size_t(n));
  }
  if ((all || !child.output) && !child.line.empty() && child.line.back() != '\n') child.line += '\n';
  for (size_t end; (end = child.line.find('\n')) != std::string::npos; child.line.erase(0, end + 1))
    std::cerr << str("[rank ", rank, "] ", child.line.substr(0, end + 1)) << std::flush;
}

class Launcher {
 public:
  Launcher(int ranks, char** argv) : children_(size_t(ranks)), argv_(argv) {}

  int run() {
    sigset_t handled, before;
    sigemptyset(&handled);
    for (const int number : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) sigaddset(&handled, number);
    ::sigprocmask(SIG_BLOCK, &handled, &before);
    signals_ = Socket(::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK));
    check(bool(signals_), "[launch] signalfd: ", std::strerror(errno));
    start_all(before);
    while (std::any_of(children_.begin(), children_.end(), [](const Child& c) { return !c.ended; })) step();
    for (size_t r = 1; r < children_.size(); ++r) pass_on(children_[r], int(r), true);
    return verdict();
  }

 private:
  void start_all(const sigset_t& mask) {
    Socket listening = listen_on("127.0.0.1", 0);
    std::random_device random;
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    const auto set = [](const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); };
    set("WORLD_SIZE", std::to_string(children_.size()));
    set("LOCAL_WORLD_SIZE", std::to_string(children_.size()));
    set("MASTER_ADDR", "127.0.0.1");
    set("MASTER_PORT", std::to_string(listening.port()));
    set("MANTISSA_JOB", str(std::hex, random(), random(), "-", ::getpid()));
    if (!std::getenv("OMP_NUM_THREADS"))
      set("OMP_NUM_THREADS", std::to_string(std::max<size_t>(1, cores / children_.size())));
    for (size_t r = 0; r < children_.size(); ++r) {
      set("RANK", std::to_string(r));
      set("LOCAL_RANK", std::to_string(r));
      r == 0 ? set("MANTISSA_LISTENING", std::to_string(listening.fd())) : void(::unsetenv("MANTISSA_LISTENING"));
      start(children_[r], int(r), listening.fd(), mask);
    }
  }

  void start(Child& child, int rank, int listening, const sigset_t& mask) {
    int ends[2] = {-1, -1};
    check(rank == 0 || ::pipe2(ends, O_CLOEXEC) == 0, "[launch] pipe: ", std::strerror(errno));
    const pid_t parent = ::getpid();
    child.pid = ::fork();
    check(child.pid >= 0, "[launch] fork: ", std::strerror(errno));
    if (child.pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(1);
      ::sigprocmask(SIG_SETMASK, &mask, nullptr);
      if (rank == 0) {
        ::fcntl(listening, F_SETFD, 0);  // inherited
      } else {
        const int nothing = ::open("/dev/null", O_RDONLY);
        ::dup2(nothing, STDIN_FILENO);
        ::dup2(ends[1], STDOUT_FILENO);
        ::dup2(ends[1], STDERR_FILENO);
      }
      ::execv("/proc/self/exe", argv_);
      ::_exit(127);
    }
    if (rank == 0) return;
    ::close(ends[1]);
    child.output = Socket(ends[0]);
    ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  }

  void step() {
    std::vector<pollfd> ready{{signals_.fd(), POLLIN, 0}};
    for (const Child& child : children_)
      if (child.output) ready.push_back({child.output.fd(), POLLIN, 0});
    ::poll(ready.data(), ready.size(), 200);
    signalfd_siginfo info;
    while (::read(signals_.fd(), &info, sizeof info) == ssize_t(sizeof info)) {
      if (info.ssi_signo == SIGCHLD) continue;
      asked_ = int(info.ssi_signo);
      for (const Child& child : children_)
        if (!child.ended) ::kill(child.pid, asked_);
    }
    for (size_t r = 0; r < children_.size(); ++r) {
      Child& child = children_[r];
      if (child.ended || ::waitpid(child.pid, &child.status, WNOHANG) != child.pid) continue;
      child.ended = true;
      if (!child.failed() || first_failed_ >= 0) continue;
      first_failed_ = int(r);
      deadline_ = deadline_in(kGrace);
    }
    for (size_t r = 1; r < children_.size(); ++r) pass_on(children_[r], int(r), false);
    const Deadline now = std::chrono::steady_clock::now();
    if (first_failed_ < 0) return look_for_stopped(now);
    if (now < deadline_) return;
    for (const Child& child : children_)
      if (!child.ended) ::kill(child.pid, SIGKILL);  // a stopped one, too
  }

  /// The ranks notice one that is stopped once they have met; before that nobody else does.
  void look_for_stopped(Deadline now) {
    const bool slept = now - looked_ > 2s;  // this process was itself stopped, as by a terminal
    looked_ = now;
    for (Child& child : children_) {
      if (slept || !is_stopped(child.pid)) child.ran = now;
      if (child.ended || now - child.ran < kStopped) continue;
      ::kill(child.pid, SIGKILL);
      stopped_ = true;
    }
  }

  /// The exit status of the whole. Says who ended first where no rank has said so.
  int verdict() const {
    if (first_failed_ < 0) {
      for (const Child& child : children_)
        if (child.stopped()) return WEXITSTATUS(child.status);
      return 0;
    }
    const Child& first = children_[size_t(first_failed_)];
    const auto status_is = [](const Child& c, int code) {
      return WIFEXITED(c.status) && WEXITSTATUS(c.status) == code;
    };
    const bool asked = asked_ && WIFSIGNALED(first.status) && WTERMSIG(first.status) == asked_;
    const bool said = std::any_of(children_.begin(), children_.end(),
                                  [&](const Child& c) { return status_is(c, 1) || status_is(c, kEndedWithOthers); });
    if (asked) return 128 + asked_;
    if (!said)
      std::cerr << "error: rank " << first_failed_ << " (pid " << first.pid << ") "
                << (WIFSIGNALED(first.status) ? str("was ended by signal ", WTERMSIG(first.status), " (",
                                                    ::strsignal(WTERMSIG(first.status)), ")")
                                              : str("ended with status ", WEXITSTATUS(first.status)))
                << "; all ranks end" << std::endl;
    return 1;
  }

  std::vector<Child> children_;
  char** argv_;
  Socket signals_;
  int asked_ = 0, first_failed_ = -1;
  bool stopped_ = false;
  Deadline deadline_{}, looked_{};
};

}  // namespace

int count_ranks(const std::string& gpus, const std::string& device, const std::string& key) {
  const int devices = device == "cpu" ? 0 : visible_devices();
  if (gpus == "auto") return std::max(1, devices);
  int n = 0;
  const auto [end, error] = std::from_chars(gpus.data(), gpus.data() + gpus.size(), n);
  check(error == std::errc() && end == gpus.data() + gpus.size() && n >= 1 && n <= 4096, key,
        ": must be auto or a number between 1 and 4096, got \"", gpus, "\"");
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  check(n == 1 || device == "cpu" || n <= devices || (devices == 0 && device == "auto"), key, ": asked for ", n,
        " GPUs, this machine has ", devices, visible ? str(" (CUDA_VISIBLE_DEVICES=", visible, ")") : std::string());
  if (devices == 0) {  // each is a process that computes
    const int cores = int(std::max(1u, std::thread::hardware_concurrency())), most = std::max(16, 8 * cores);
    check(n <= most, key, ": on a CPU at most ", most, " processes on the ", cores, " cores of this machine, got ", n);
  }
  check(n == 1 || device.find(':') == std::string::npos, "device ", device, " is one device, ", key, " asks for ", n,
        "; use cuda, and CUDA_VISIBLE_DEVICES to choose among them");
  return n;
}

int launch_ranks(int ranks, int argc, char** argv) {
  check(argc > 0, "[launch] the program has no name");
  return Launcher(ranks, argv).run();
}

std::optional<Place> own_place() {
  std::optional<Place> place = place_from_environment([](const char* name) { return std::getenv(name); });
  return place && place->size > 1 ? place : std::nullopt;
}

namespace {

std::unique_ptr<Comm> make_comm(Backend& backend, std::unique_ptr<Mesh> mesh) {
#ifdef MANTISSA_WITH_CUDA
  if (backend.name() == "cuda") return make_cuda_comm(std::move(mesh));
#endif
  check(backend.name() == "cpu", "[comm] several processes cannot share a run on ", backend.name());
  return make_cpu_comm(std::move(mesh));
}

}  // namespace

int run_as_rank(const std::optional<Place>& place, const std::string& device, const std::function<int(Comm&)>& body) {
  if (!place) {
    open_device(device);
    return body(single_comm());
  }
  set_log_rank(place->rank, place->launcher != "mantissa");
  std::unique_ptr<Mesh> mesh = Mesh::join(*place);
  WatchdogOptions options;
  options.first = std::max(options.first, place->patience);
  Watchdog watchdog(*mesh, options);
  // Outlives a failure: checkpoints are still written through it, and others wait for them.
  std::unique_ptr<Comm> comm;
  int code = 1;
  try {
    mesh->activity()->phase("start-up");
    Backend& backend = open_device(device, place->local_rank);
    comm = make_comm(backend, std::move(mesh));
    log_info(str("ranks: ", comm->description(), ", started by ", place->launcher));
    code = body(*comm);
    comm->activity().phase("end");
    comm->barrier();
    watchdog.leave();
  } catch (const std::exception& e) {
    watchdog.fail(e);
  }
  return code;
}

}  // namespace mantissa
