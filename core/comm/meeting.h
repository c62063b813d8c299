// Meeting: where one thread of each rank, other than the main one, meets those of the others, whatever the main threads
// are busy with. It has connections of its own, between rank 0 and each other rank.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/comm/socket.h"

namespace mantissa {

class Meeting {
 public:
  /// `sockets`: on rank 0 one a rank (its own empty), elsewhere the one to rank 0 alone.
  Meeting(int rank, std::vector<Socket> sockets) : rank_(rank), sockets_(std::move(sockets)) {}

  /// Every rank's bytes, in order of ranks, on every rank. Throws Error where the rank that `with` then names is lost.
  std::vector<std::string> gather(std::string_view bytes, int& with) const;

 private:
  const int rank_;
  const std::vector<Socket> sockets_;
};

}  // namespace mantissa
