// Handout: numbers 0, 1, 2, ... that ranks are given, each to one of them, to whoever asks first: work for those who
// have room for it. Rank 0 keeps the count in a thread of its own, so that nobody waits for what its main thread does.
#pragma once

#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "core/comm/socket.h"

namespace mantissa {

class Handout {
 public:
  /// What a round gives when a later one has begun.
  static constexpr int64_t kOver = INT64_MAX;

  /// `sockets`: on rank 0 one a rank (its own empty), elsewhere the one to rank 0 alone.
  Handout(bool main, std::vector<Socket> sockets);
  ~Handout();
  Handout(const Handout&) = delete;
  Handout& operator=(const Handout&) = delete;

  /// The next number of a round: each begins with 0, and ends when a rank asks for a later one. Throws Error where
  /// rank 0 is lost.
  int64_t next(int64_t round);

 private:
  int64_t give(int64_t round);
  void serve();

  const std::vector<Socket> sockets_;
  std::mutex mutex_;
  int64_t round_ = 0, given_ = 0;
  Socket wake_;
  std::thread thread_;  // on rank 0
};

}  // namespace mantissa
