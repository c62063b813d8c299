#include "core/comm/watchdog.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace mantissa {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kReplyTime = 3s;      // for rank 0 to take up a failure
constexpr auto kAgreeTime = 1500ms;  // for all to fail in the same way
constexpr size_t kCompared = 700;    // characters of their words: what a heartbeat always has room for
constexpr auto kDrainTime = 1s;      // for the others to read why they end
enum Kind : int32_t { kAlive, kFarewell, kFailed, kEnd };

template <size_t N>
void set_text(char (&to)[N], const std::string& text) {
  const size_t n = std::min(text.size(), N - 1);
  std::memcpy(to, text.data(), n);
  to[n] = 0;
}

std::string place_of(const std::string& phase, const std::string& collective) {
  return "phase " + phase + ", collective " + collective;
}

void say_on_stderr(const std::string& text) {
  const std::string line = text + "\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

/// One heartbeat. Of fixed size, so that a reader knows where the next one begins.
struct Watchdog::Beat {
  int32_t kind = kAlive, cause = 0;  // of Failure
  uint64_t changes = 0;
  char phase[96] = {}, collective[96] = {}, text[1024] = {};
};

struct Watchdog::Peer {
  int rank = 0;
  std::string name, host;
  Socket socket;
  Deadline heard;
  Beat last, incoming;
  size_t received = 0;
  bool spoke = false;  // ever
  bool gone = false;   // said farewell
};

Watchdog::Watchdog(Mesh& mesh, WatchdogOptions options)
    : rank_(mesh.rank()), activity_(mesh.activity()), options_(std::move(options)) {
  if (!options_.say) options_.say = say_on_stderr;
  if (!options_.end) options_.end = ::_exit;
  std::vector<Socket> sockets = mesh.take_heartbeats();
  const Deadline now = Clock::now();
  moved_ = now;
  for (int r = 0; r < mesh.size(); ++r) names_.push_back(mesh.name(r));
  const auto host = [&](int rank) { return names_[size_t(rank)].substr(names_[size_t(rank)].rfind(' ') + 1); };
  for (size_t i = 0; i < sockets.size(); ++i) {
    if (!sockets[i]) continue;
    auto peer = std::make_unique<Peer>();
    peer->rank = int(i);
    peer->name = names_[i];
    peer->socket = std::move(sockets[i]);
    peer->heard = now;
    set_text(peer->last.phase, "start");
    set_text(peer->last.collective, "none yet");
    peers_.push_back(std::move(peer));
  }
  // Who speaks when rank 0 is lost: rank 1; with rank 0's whole machine, the first rank of another one.
  speaks_ = rank_ == 1;
  if (rank_ > 1 && host(1) == host(0)) {
    first_elsewhere_ = host(rank_) != host(0);
    for (int r = 1; r < rank_; ++r) first_elsewhere_ = first_elsewhere_ && host(r) == host(0);
  }
  wake_ = Socket(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  check(bool(wake_), "[watchdog] eventfd: ", std::strerror(errno));
  thread_ = std::thread([this] { run(); });
  activity_->on_phase([this] { wake(); });
}

Watchdog::~Watchdog() {
  leave();
}

void Watchdog::leave() {
  if (!thread_.joinable()) return;
  activity_->on_phase({});
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  wake();
  thread_.join();
}

bool Watchdog::failed() {
  const std::lock_guard lock(mutex_);
  return !failure_.text.empty();
}

void Watchdog::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.fd(), &one, sizeof one);
}

void Watchdog::fail(const std::exception& error) {
  std::unique_lock lock(mutex_);
  if (dynamic_cast<const PeerLost*>(&error))
    ended_.wait_for(lock, options_.silence + kReplyTime, [&] { return over_.load(); });
  if (over_) return;
  const auto* told = dynamic_cast<const RankFailed*>(&error);
  const Activity::Snapshot own = activity_->read();  // of one that told, too: it was there not long ago
  const std::string who =
      str(names_[size_t(told ? told->rank : rank_)], " failed in ", place_of(own.phase, own.collective), ": ");
  failure_ = {who + error.what(), told ? 0 : who.size()};
  std::replace(failure_.text.begin(), failure_.text.end(), '\n', ' ');
  wake();
  ended_.wait(lock, [&] { return over_.load(); });
}

void Watchdog::run() {
  Deadline last = Clock::now(), next = last, told{};
  for (;;) {
    std::vector<pollfd> ready{{wake_.fd(), POLLIN, 0}};
    for (const auto& peer : peers_)
      if (!peer->gone) ready.push_back({peer->socket.fd(), POLLIN, 0});
    ::poll(ready.data(), ready.size(), int(options_.period.count()));
    uint64_t count;
    bool woken = false;
    while (::read(wake_.fd(), &count, sizeof count) > 0) woken = true;
    const Deadline now = Clock::now();
    // This process was itself stopped for a while: what it has not heard meanwhile it may hear now.
    if (now - last > options_.silence / 3)
      for (const auto& peer : peers_) peer->heard = now;
    last = now;

    for (const auto& peer : peers_)
      if (!over_) read(*peer, now);
    if (over_) return;
    Failure failure;
    {
      const std::lock_guard lock(mutex_);
      if (leaving_ && failures_.empty()) return send(kFarewell);
      failure = failure_;
    }
    if (!failure.text.empty() && told == Deadline{}) {
      told = now;
      rank_ == 0 ? hear_failure(failure) : send(kFailed, failure);
      if (over_) return;
    }
    if (!failures_.empty() && now > decide_) return finish_failed(failures_[0].text);
    if (!failure.text.empty() && now - told > kReplyTime) return finish_failed(failure.text);
    if (woken || now >= next) {
      next = now + options_.period;
      send(kAlive);
      if (rank_ == 0) warn_motionless(now);
    }
  }
}

void Watchdog::read(Peer& peer, Deadline now) {
  while (!peer.gone && !over_) {
    auto* at = reinterpret_cast<char*>(&peer.incoming) + peer.received;
    const ssize_t n = ::recv(peer.socket.fd(), at, sizeof peer.incoming - peer.received, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (n <= 0) return verdict(peer, "ended without a word (killed, or crashed)", peer.rank == 0 && speaks_);
    peer.heard = now;
    peer.spoke = true;
    peer.received += size_t(n);
    if (peer.received < sizeof peer.incoming) continue;
    peer.received = 0;
    hear(peer, peer.incoming);
  }
  const std::chrono::milliseconds silence = peer.spoke ? options_.silence : options_.first;
  if (!peer.gone && !over_ && now - peer.heard > silence)
    verdict(
        peer,
        str("has not been heard of for ", silence.count() / 1000.0, " s (stopped, or its machine or network is gone)"),
        peer.rank == 0 && (speaks_ || first_elsewhere_));
}

void Watchdog::hear(Peer& peer, const Beat& beat) {
  switch (beat.kind) {
    case kFarewell:
      peer.gone = true;
      break;
    case kFailed:
      hear_failure({beat.text, std::min(size_t(beat.cause), std::strlen(beat.text))});
      break;
    case kEnd:
      finish(failed() ? 1 : kEndedWithOthers, {}, false);
      break;
    default:
      peer.last = beat;
  }
}

/// On rank 0. As long as all who fail say the same, the rest is given a moment to say it, too.
void Watchdog::hear_failure(Failure failure) {
  if (failures_.empty()) decide_ = deadline_in(kAgreeTime);
  failures_.push_back(std::move(failure));
  const auto words = [](const Failure& f) { return f.text.substr(f.cause); };
  const Failure &first = failures_.front(), &last = failures_.back();
  const bool alike = last.cause > 0 && words(last).substr(0, kCompared) == words(first).substr(0, kCompared);
  if (!alike)
    finish_failed(first.text);
  else if (failures_.size() == names_.size())
    finish_failed(words(first));
}

/// Sends to all who are still there. A full connection is left alone: its reader is being watched.
void Watchdog::send(int32_t kind, const Failure& failure) {
  Beat beat;
  beat.kind = kind;
  const Activity::Snapshot own = activity_->read();
  beat.changes = own.changes;
  set_text(beat.phase, own.phase);
  set_text(beat.collective, own.collective);
  set_text(beat.text, failure.text);
  beat.cause = int32_t(failure.cause);
  for (const auto& peer : peers_) {
    if (peer->gone) continue;
    try {
      peer->socket.send(&beat, sizeof beat, deadline_in(options_.period));
    } catch (const Error&) {  // reading will tell why
    }
  }
}

void Watchdog::verdict(const Peer& peer, const std::string& what, bool speak) {
  if (!failures_.empty()) return finish_failed(failures_[0].text);
  finish(kEndedWithOthers,
         str(peer.name, " ", what, " in ", place_of(peer.last.phase, peer.last.collective), "; all ranks end"),
         rank_ == 0 || speak);
}

/// Says the text, tells the others, waits until they have read it, and ends the process.
void Watchdog::finish(int code, const std::string& text, bool speak) {
  if (speak) options_.say("error: " + text);
  if (rank_ == 0) {
    send(kEnd);
    for (const auto& peer : peers_) ::shutdown(peer->socket.fd(), SHUT_WR);
    const Deadline until = Clock::now() + kDrainTime;
    char unread[4096];
    for (const auto& peer : peers_) {
      pollfd ready{peer->socket.fd(), POLLIN, 0};
      while (Clock::now() < until && ::poll(&ready, 1, 50) >= 0)
        if (ready.revents && ::recv(ready.fd, unread, sizeof unread, MSG_DONTWAIT) <= 0) break;
    }
  }
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  ended_.notify_all();
  options_.end(code);
}

void Watchdog::warn_motionless(Deadline now) {
  uint64_t movement = activity_->read().changes;
  for (const auto& peer : peers_) movement += peer->last.changes;
  if (movement != movement_) {
    movement_ = movement;
    moved_ = now;
  } else if (now - moved_ > options_.motionless) {
    const Activity::Snapshot own = activity_->read();
    std::string text = str("warning: no rank has moved on for ", options_.motionless.count() / 1000,
                           " s: rank 0 is in ", place_of(own.phase, own.collective));
    for (const auto& peer : peers_)
      text += str("; rank ", peer->rank, " in ", place_of(peer->last.phase, peer->last.collective));
    options_.say(text);
    moved_ = now;
  }
}

}  // namespace mantissa
