// The watchdog, with processes: whoever is killed, stopped or fails ends all, with one message; an idle one does not.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>

#include "core/comm/watchdog.h"
#include "tests/support/ranks.h"

namespace mantissa {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

const WatchdogOptions kQuick{.period = 50ms, .silence = 1500ms, .say = {}, .end = {}};

/// Ranks as processes of their own; what they say on stderr goes to one pipe.
class Processes {
 public:
  using Body = std::function<void(Comm&)>;

  /// `late`: so long after it has joined rank 1 has no watchdog.
  Processes(int size, const Body& body, const WatchdogOptions& options = kQuick, std::chrono::milliseconds late = 0ms) {
    std::vector<Place> places = local_places(size);
    EXPECT_EQ(::pipe(pipe_), 0);
    for (const Place& place : places) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        ::dup2(pipe_[1], STDERR_FILENO);
        ::close(pipe_[0]);
        run(place, body, options, place.rank == 1 ? late : 0ms);
      }
      pids.push_back(pid);
    }
    ::close(places[0].listening);
    ::close(pipe_[1]);
  }
  ~Processes() {
    for (const pid_t pid : pids)
      if (!ended_.contains(pid)) ::kill(pid, SIGKILL), ::waitpid(pid, nullptr, 0);
    ::close(pipe_[0]);
  }

  /// Waits until the ranks have all said "ready".
  void wait_ready() {
    size_t count = 0;
    char c;
    while (count < pids.size() && ::read(pipe_[0], &c, 1) == 1) count += c == '!';
  }
  /// The exit status (or minus the signal) of a rank; -1000 when it has not ended in time.
  int status(size_t rank, std::chrono::milliseconds patience = 10s) {
    for (const Deadline until = deadline_in(patience); Clock::now() < until; std::this_thread::sleep_for(5ms)) {
      int status = 0;
      if (::waitpid(pids[rank], &status, WNOHANG) == pids[rank]) {
        ended_.insert(pids[rank]);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      }
    }
    return -1000;
  }
  /// Everything said; call when all have ended.
  std::string said() {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = ::read(pipe_[0], buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
    return text;
  }

  std::vector<pid_t> pids;

 private:
  [[noreturn]] static void run(const Place& place, const Body& body, const WatchdogOptions& options,
                               std::chrono::milliseconds late) {
    std::unique_ptr<Mesh> mesh = Mesh::join(place);
    std::this_thread::sleep_for(late);
    Watchdog watchdog(*mesh, options);
    const std::unique_ptr<Comm> comm = make_cpu_comm(std::move(mesh));
    try {
      body(*comm);
      comm->barrier();
    } catch (const std::exception& e) {
      watchdog.fail(e);
    }
    watchdog.leave();
    ::_exit(0);
  }

  int pipe_[2] = {-1, -1};
  std::set<pid_t> ended_;
};

void ready(Comm& comm, const char* phase) {
  comm.activity().phase(phase);
  std::this_thread::sleep_for(200ms);  // the phase travels with the next heartbeat
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, "!", 1);
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return count;
}

/// Rank `victim` is busy in phase "rollout"; the others wait for it in a collective.
Processes others_wait_for(int size, int victim) {
  return Processes(size, [victim](Comm& comm) {
    comm.barrier();
    ready(comm, comm.rank() == victim ? "rollout" : "update");
    if (comm.rank() == victim)
      for (;;) std::this_thread::sleep_for(1s);
    comm.gather("x");
  });
}

TEST(Watchdog, AKilledRankEndsAllWithOneMessage) {
  for (const int victim : {0, 1, 2}) {
    SCOPED_TRACE(victim);
    Processes ranks = others_wait_for(3, victim);
    ranks.wait_ready();
    ::kill(ranks.pids[size_t(victim)], SIGKILL);
    for (size_t r = 0; r < 3; ++r) EXPECT_EQ(ranks.status(r), int(r) == victim ? -SIGKILL : kEndedWithOthers);
    const std::string said = ranks.said();
    EXPECT_EQ(count_of(said, "error: "), 1u) << said;
    EXPECT_NE(said.find(str("rank ", victim, " (pid ", ranks.pids[size_t(victim)], " on ")), std::string::npos) << said;
    EXPECT_NE(
        said.find("ended without a word (killed, or crashed) in phase rollout, collective gather of 0 bytes, number 1"),
        std::string::npos)
        << said;
  }
}

TEST(Watchdog, AStoppedRankEndsTheOthers) {
  for (const int victim : {0, 1}) {
    SCOPED_TRACE(victim);
    Processes ranks = others_wait_for(3, victim);
    ranks.wait_ready();
    ::kill(ranks.pids[size_t(victim)], SIGSTOP);
    for (size_t r = 0; r < 3; ++r) {
      if (int(r) == victim) continue;
      EXPECT_EQ(ranks.status(r), kEndedWithOthers);
    }
    ::kill(ranks.pids[size_t(victim)], SIGCONT);  // goes on, and ends too: what it said then counts as well
    EXPECT_EQ(ranks.status(size_t(victim)), kEndedWithOthers);
    const std::string said = ranks.said();
    EXPECT_GE(count_of(said, str("error: rank ", victim, " (pid ")), 1u) << said;
    EXPECT_NE(said.find("has not been heard of for 1.5 s"), std::string::npos) << said;
    EXPECT_NE(said.find("in phase rollout, collective gather of 0 bytes, number 1"), std::string::npos) << said;
  }
}

TEST(Watchdog, AFailureIsToldOnceByName) {
  for (const int victim : {0, 2}) {
    SCOPED_TRACE(victim);
    Processes ranks(3, [victim](Comm& comm) {
      comm.activity().phase("loading");
      if (comm.rank() == victim) fail("[memory] asked for 7 bytes:\nnone are left");
      comm.barrier();
    });
    for (size_t r = 0; r < 3; ++r) EXPECT_EQ(ranks.status(r), int(r) == victim ? 1 : kEndedWithOthers);
    const std::string said = ranks.said();
    EXPECT_EQ(count_of(said, "error: "), 1u) << said;
    EXPECT_NE(said.find("failed in phase loading, collective none yet: [memory] asked for 7 bytes: none are left\n"),
              std::string::npos)
        << said;
    EXPECT_NE(said.find(str("error: rank ", victim, " (")), std::string::npos) << said;
  }
}

TEST(Watchdog, AFailureOfAllIsToldOnce) {
  // In the words of one rank, however long they are and whoever comes last, as where files are far away.
  for (const std::string& words : {std::string("the file:\nhas no end"), std::string(3000, 'x')})
    for (const int last : {0, 1, 2}) {
      SCOPED_TRACE(last);
      Processes ranks(3, [&](Comm& comm) {
        if (comm.rank() == last) std::this_thread::sleep_for(500ms);
        fail(words);
      });
      for (size_t r = 0; r < 3; ++r) EXPECT_NE(ranks.status(r), 0);
      const std::string said = ranks.said();
      EXPECT_EQ(count_of(said, "error: "), 1u) << said;
      const std::string line = words[0] == 'x' ? words.substr(0, 700) : "the file: has no end\n";
      EXPECT_TRUE(said.starts_with("error: " + line)) << said;
    }
}

TEST(Watchdog, AFailureOfSomeNamesOne) {
  // Two of three fail alike; all fail, and one otherwise.
  for (const bool third : {false, true}) {
    Processes ranks(3, [third](Comm& comm) {
      if (third && comm.rank() == 2) fail("none are left");
      if (comm.rank() < 2) fail("the file has no end");
      comm.barrier();
    });
    for (size_t r = 0; r < 3; ++r) EXPECT_NE(ranks.status(r), 0);
    const std::string said = ranks.said();
    EXPECT_EQ(count_of(said, "error: "), 1u) << said;
    EXPECT_EQ(count_of(said, "error: rank "), 1u) << said;
  }
}

TEST(Watchdog, WhoIsToldOfAFailureNamesTheRankThatFailed) {
  for (const int victim : {0, 1, 2}) {
    SCOPED_TRACE(victim);
    Processes ranks(3, [victim](Comm& comm) {
      comm.activity().phase("checkpoint");
      if (comm.rank() != victim) throw RankFailed(victim, "disk full");
      comm.barrier();  // it knows as well, and has not come to say it
    });
    for (size_t r = 0; r < 3; ++r) EXPECT_NE(ranks.status(r), 0);
    const std::string said = ranks.said();
    EXPECT_EQ(count_of(said, "error: "), 1u) << said;
    EXPECT_NE(said.find(str("error: rank ", victim, " (pid ", ranks.pids[size_t(victim)], " on ")), std::string::npos)
        << said;
    EXPECT_NE(said.find("failed in phase checkpoint, collective none yet: disk full\n"), std::string::npos) << said;
  }
}

TEST(Watchdog, IdleRanksAlarmNobody) {
  // One rank does nothing for several times the silence allowed; then all are stopped at once, as by a terminal.
  Processes ranks(2, [](Comm& comm) {
    ready(comm, "rollout");
    if (comm.rank() == 1) std::this_thread::sleep_for(5s);
    comm.barrier();
  });
  ranks.wait_ready();
  std::this_thread::sleep_for(1s);
  for (const pid_t pid : ranks.pids) ::kill(pid, SIGSTOP);
  std::this_thread::sleep_for(3s);
  for (const pid_t pid : ranks.pids) ::kill(pid, SIGCONT);
  for (size_t r = 0; r < 2; ++r) EXPECT_EQ(ranks.status(r), 0);
  EXPECT_EQ(ranks.said(), "");
}

TEST(Watchdog, ARankThatIsStillJoiningOthersAlarmsNobody) {
  Processes ranks(3, [](Comm& comm) { comm.barrier(); }, kQuick, 4s);
  for (size_t r = 0; r < 3; ++r) EXPECT_EQ(ranks.status(r), 0);
  EXPECT_EQ(ranks.said(), "");
}

/// The real times: five minutes, so that nobody waits for it in ctest (--gtest_also_run_disabled_tests).
TEST(Watchdog, DISABLED_FiveIdleMinutesAlarmNobody) {
  Processes ranks(
      2,
      [](Comm& comm) {
        if (comm.rank() == 1) std::this_thread::sleep_for(5min);
        comm.barrier();
      },
      WatchdogOptions());
  for (size_t r = 0; r < 2; ++r) EXPECT_EQ(ranks.status(r, 6min), 0);
  EXPECT_EQ(ranks.said(), "");
}

TEST(Watchdog, AnOrderlyEndAlarmsNobody) {
  Processes ranks(3, [](Comm& comm) { comm.barrier(); });
  for (size_t r = 0; r < 3; ++r) EXPECT_EQ(ranks.status(r), 0);
  EXPECT_EQ(ranks.said(), "");
}

}  // namespace
}  // namespace mantissa
