#include "core/comm/handout.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace mantissa {

Handout::Handout(bool main, std::vector<Socket> sockets) : sockets_(std::move(sockets)) {
  if (!main) return;
  wake_ = Socket(::eventfd(0, EFD_CLOEXEC));
  check(bool(wake_), "[handout] eventfd: ", std::strerror(errno));
  thread_ = std::thread([this] { serve(); });
}

Handout::~Handout() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.fd(), &one, sizeof one);
  thread_.join();
}

int64_t Handout::next(int64_t round) {
  if (thread_.joinable()) return give(round);
  int64_t number = 0;
  sockets_[0].send(&round, sizeof round, Deadline::max());
  sockets_[0].receive(&number, sizeof number, Deadline::max());
  return number;
}

int64_t Handout::give(int64_t round) {
  const std::lock_guard lock(mutex_);
  if (round > round_) round_ = round, given_ = 0;
  return round == round_ ? given_++ : kOver;
}

/// Answers until the end. A rank that is gone asks no more; why it is gone others find out.
void Handout::serve() {
  std::vector<pollfd> ready;
  for (const Socket& socket : sockets_) ready.push_back({socket.fd(), POLLIN, 0});  // poll passes over one of -1
  ready.push_back({wake_.fd(), POLLIN, 0});
  for (;;) {
    if (::poll(ready.data(), ready.size(), -1) < 0) continue;
    if (ready.back().revents) return;
    for (size_t i = 0; i < sockets_.size(); ++i) {
      if (!ready[i].revents) continue;
      try {
        int64_t round = 0;
        sockets_[i].receive(&round, sizeof round, Deadline::max());
        const int64_t number = give(round);
        sockets_[i].send(&number, sizeof number, Deadline::max());
      } catch (const Error&) {
        ready[i].fd = -1;
      }
    }
  }
}

}  // namespace mantissa
