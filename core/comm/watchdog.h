// Watchdog: when one rank ends, all do, within seconds and with one message. A thread of each process exchanges
// heartbeats with rank 0 over connections of their own, every `period` and in every new phase, whatever the main thread
// and the device are busy with, so that long rollouts or a slow start alarm nobody. What ends a run:
//
//   a connection closed without a farewell   the process was killed, or crashed
//   no heartbeat for `silence`               it was stopped, or its machine is gone
//   fail()                                   it threw: out of memory, bad input, a full disk
//
// Rank 0 speaks (another rank where rank 0 is the one that was lost), names rank, phase and collective, and tells the
// others, whose processes end without a word. What all ranks fail with, in the same words and within a moment, as they
// do over a file that is missing, is said as one rank alone says it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/comm/failure.h"
#include "core/comm/mesh.h"

namespace mantissa {

/// Exit status of a process that ends because another rank did; a message about that rank has been printed by then.
inline constexpr int kEndedWithOthers = 3;

struct WatchdogOptions {
  std::chrono::milliseconds period{250}, silence{15000};
  std::chrono::milliseconds first{300000};       // silence before the first beat: a rank may still be in Mesh::join
  std::chrono::milliseconds motionless{600000};  // all ranks stand still for so long: a warning
  std::function<void(const std::string&)> say;   // default: a line on stderr
  std::function<void(int)> end;                  // default: _exit
};

class Watchdog {
 public:
  /// Takes the mesh's heartbeat connections, before a Comm takes the mesh.
  explicit Watchdog(Mesh& mesh, WatchdogOptions options = {});
  ~Watchdog();  // leaves
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Says farewell: from here on this rank may end without alarming the others. Call it after a last barrier.
  void leave();
  /// This rank cannot go on: its process ends here, and with it all. After RankFailed the message names the rank that
  /// failed; after PeerLost it waits for the message that names the one who was lost. Returns only where options.end
  /// does.
  void fail(const std::exception& error);

 private:
  struct Beat;
  struct Peer;
  /// What a rank ends with. Its own words begin at `cause`; 0: they are of another one.
  struct Failure {
    std::string text;
    size_t cause;
  };
  void run();
  void read(Peer& peer, Deadline now);
  void hear(Peer& peer, const Beat& beat);
  void hear_failure(Failure failure);
  void send(int32_t kind, const Failure& failure = {});
  void verdict(const Peer& peer, const std::string& what, bool speak);
  void finish(int code, const std::string& text, bool speak);
  void finish_failed(const std::string& text) { finish(failed() ? 1 : kEndedWithOthers, text, true); }
  void warn_motionless(Deadline now);
  void wake();
  bool failed();

  const int rank_;
  const std::shared_ptr<Activity> activity_;
  WatchdogOptions options_;
  std::vector<std::string> names_;                 // of all ranks
  std::vector<std::unique_ptr<Peer>> peers_;       // on rank 0 all others, elsewhere rank 0
  bool speaks_ = false, first_elsewhere_ = false;  // when rank 0 is lost; with its whole machine
  uint64_t movement_ = 0;                          // changes of all ranks, and when they last grew
  Deadline moved_;
  std::vector<Failure> failures_;  // that rank 0 has heard of, its own among them
  Deadline decide_;                // when it waits for no more of them
  Socket wake_;

  std::mutex mutex_;
  std::condition_variable ended_;
  bool leaving_ = false;
  std::atomic<bool> over_ = false;
  Failure failure_;  // that ends this rank, to be told
  std::thread thread_;
};

}  // namespace mantissa
