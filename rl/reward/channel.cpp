#include "rl/reward/channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace mantissa {

void Fd::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Fd open_log(const std::string& path) {
  Fd log(path.empty() ? ::fcntl(2, F_DUPFD_CLOEXEC, 3)
                      : ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
  check(log.get() >= 0, path.empty() ? "standard error" : path, ": cannot be opened: ", std::strerror(errno));
  return log;
}

Channel::Channel(Kind kind) {
  int ends[2];
  const int error =
      kind == Kind::kPipe ? ::pipe2(ends, O_CLOEXEC) : ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends);
  check(error == 0, "no channel to a process: ", std::strerror(errno));
  out = Fd(ends[0]), in = Fd(ends[1]);
}

}  // namespace mantissa
