// Mesh: the processes of a run, joined pairwise by sockets. Rank 0 listens; the others come to it, learn each other's
// addresses, and join up. Further connections between rank 0 and each other carry heartbeats (watchdog.h), the numbers
// of a handout (handout.h), and what background threads say to each other (meeting.h).
//
// Everything goes through exchange(): each message carries the number of the call and its name, so that ranks which
// disagree about what comes next are told apart from slow ones.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/comm/activity.h"
#include "core/comm/failure.h"
#include "core/comm/handout.h"
#include "core/comm/meeting.h"
#include "core/comm/place.h"
#include "core/comm/socket.h"

namespace mantissa {

class Wait;

class Mesh {
 public:
  /// Joins the other ranks; returns when all are there. A rank that has waited for `quiet` says for whom, once. Throws
  /// Error naming who did not come within place.patience, or what two ranks disagree about (job, number of ranks).
  static std::unique_ptr<Mesh> join(const Place& place, std::chrono::milliseconds quiet = std::chrono::seconds(10));

  int rank() const { return rank_; }
  int size() const { return int(links_.size()); }
  /// What this rank is doing: a Comm over this mesh writes it, a Watchdog reads it.
  const std::shared_ptr<Activity>& activity() const { return activity_; }
  /// "rank 2 (pid 4711 on node7)".
  std::string name(int rank) const;

  /// Ranks that make the same calls in the same order: all, or some that make calls of their own beside. Below a rank
  /// is a place in it.
  struct Group {
    std::vector<int> ranks;  // of the mesh, ascending
    int own = 0;             // place of this rank
    uint64_t calls = 0;      // made so far
  };
  Group all() const;
  /// Some, among them this one.
  Group some(std::vector<int> ranks) const;

  struct Message {
    int to;
    std::string_view bytes;
  };
  /// Sends each message and receives one from each of `from`, all at once. place(rank, bytes) says where a rank's
  /// message of that length goes, or throws. `what` names the call. Throws PeerLost, and Error where a rank makes
  /// another call than this one.
  void exchange(Group& group, std::string_view what, const std::vector<Message>& messages, const std::vector<int>& from,
                const std::function<void*(int rank, size_t bytes)>& place);

  // What a Comm does with host bytes (core/comm.h).
  std::vector<std::string> gather(Group& group, std::string_view bytes);
  std::string broadcast(Group& group, std::string_view bytes, int root);
  /// The next number of a handout's round. Throws PeerLost.
  int64_t next(int64_t round);
  std::vector<std::string> gather_aside(std::string_view bytes);

  /// The connections for heartbeats, given away once: on rank 0 one a rank (its own empty), elsewhere [0] alone.
  std::vector<Socket> take_heartbeats() { return std::move(heartbeats_); }

 private:
  Mesh() = default;
  /// Connections between rank 0 and the others: on rank 0 one a rank (its own empty), elsewhere [0] alone.
  struct Star {
    std::vector<Socket> heartbeats, handout, meeting;
  };
  // Both join links_ up; on rank 0, and on the others.
  void gather_ranks(const Place& place, Wait& wait, Star& star);
  void find_ranks(const Place& place, Wait& wait, Star& star);

  int rank_ = 0;
  std::vector<Socket> links_, heartbeats_;
  std::unique_ptr<Handout> handout_;
  std::unique_ptr<Meeting> meeting_;
  std::vector<std::string> names_;
  std::shared_ptr<Activity> activity_ = std::make_shared<Activity>();
};

}  // namespace mantissa
