// Sockets: TCP connections between the processes of a run, with deadlines. Descriptors are closed on exec, and writing
// to them never raises SIGPIPE.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "core/error.h"

namespace mantissa {

using Deadline = std::chrono::steady_clock::time_point;

inline Deadline deadline_in(std::chrono::milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}

/// Owns one descriptor; -1: none.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : fd_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept;

  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void close();

  // All bytes, or Error with the system's reason ("closed by the other side", "timed out").
  void send(const void* bytes, size_t count, Deadline deadline) const;
  void receive(void* bytes, size_t count, Deadline deadline) const;
  /// Port of this end; address of the other, as numbers.
  int port() const;
  std::string peer_address() const;

 private:
  int fd_;
};

/// Listens on an address (a host's name or number; empty: all of this machine's) and port (0: the system chooses).
/// Throws Error with the reason.
Socket listen_on(const std::string& address, int port);
/// The next connection.
Socket accept_from(const Socket& listening, Deadline deadline);
/// One attempt to connect.
Socket connect_to(const std::string& address, int port, Deadline deadline);

/// The address by which this machine reaches another. Sends nothing.
std::string own_address_towards(const std::string& address, int port);

}  // namespace mantissa
