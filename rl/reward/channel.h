// Descriptors that close themselves, and pipes and sockets made of them.
#pragma once

#include <string>
#include <utility>

namespace mantissa {

/// An open descriptor, closed with its owner.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { close(); }
  int get() const { return fd_; }
  void close();

 private:
  int fd_;
};

/// Where a child's standard error goes: a file to append to, made where there is none; this process's own where `path`
/// is empty. Throws Error naming the file.
Fd open_log(const std::string& path);

/// What is written to `in` comes out of `out`; both close on exec. A kSocket raises no SIGPIPE when it is written to.
struct Channel {
  Fd out, in;
  enum class Kind { kPipe, kSocket };
  /// Throws Error with what the system says.
  explicit Channel(Kind kind);
};

}  // namespace mantissa
