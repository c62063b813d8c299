#include "core/comm/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace mantissa {
namespace {

constexpr int kBacklog = 1024;

std::string system_reason() {
  return std::strerror(errno);
}

/// Waits until the socket is ready for `events`; throws when the deadline passes first.
void wait_for(int fd, short events, Deadline deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    check(left > 0, "timed out");
    pollfd ready{fd, events, 0};
    const int n = ::poll(&ready, 1, int(std::min<int64_t>(left, 1 << 30)));
    if (n > 0) return;
    check(n == 0 || errno == EINTR, system_reason());
  }
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const std::string& address, int port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(address.empty() ? nullptr : address.c_str(), std::to_string(port).c_str(), &hints, &found);
  check(error == 0, "[socket] ", address, ": ", ::gai_strerror(error));
  return {found, &freeaddrinfo};
}

std::string numeric(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST];
  const int error =
      ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  check(error == 0, "[socket] ", ::gai_strerror(error));
  return host;
}

/// No delay for small messages, and no blocking: every wait is a poll.
void prepare(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = other.release();
  }
  return *this;
}

int Socket::release() {
  return std::exchange(fd_, -1);
}

void Socket::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Socket::send(const void* bytes, size_t count, Deadline deadline) const {
  const auto* from = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t n = ::send(fd_, from, count, MSG_NOSIGNAL);
    if (n < 0) {
      check(errno == EAGAIN || errno == EINTR, system_reason());
      wait_for(fd_, POLLOUT, deadline);
      continue;
    }
    from += n;
    count -= size_t(n);
  }
}

void Socket::receive(void* bytes, size_t count, Deadline deadline) const {
  auto* to = static_cast<char*>(bytes);
  while (count > 0) {
    const ssize_t n = ::recv(fd_, to, count, 0);
    check(n != 0, "closed by the other side");
    if (n < 0) {
      check(errno == EAGAIN || errno == EINTR, system_reason());
      wait_for(fd_, POLLIN, deadline);
      continue;
    }
    to += n;
    count -= size_t(n);
  }
}

int Socket::port() const {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  check(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) == 0, "[socket] ", system_reason());
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

std::string Socket::peer_address() const {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  check(::getpeername(fd_, reinterpret_cast<sockaddr*>(&address), &length) == 0, "[socket] ", system_reason());
  return numeric(address, length);
}

Socket listen_on(const std::string& address, int port) {
  const Addresses addresses = resolve(address, port, AI_PASSIVE);
  std::string reason = "no address";
  for (const addrinfo* a = addresses.get(); a; a = a->ai_next) {
    Socket socket(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol));
    const int on = 1;
    if (socket) ::setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (socket && ::bind(socket.fd(), a->ai_addr, a->ai_addrlen) == 0 && ::listen(socket.fd(), kBacklog) == 0)
      return socket;
    reason = system_reason();
  }
  fail("[socket] cannot listen on ", address, " port ", port, ": ", reason);
}

Socket accept_from(const Socket& listening, Deadline deadline) {
  for (;;) {
    wait_for(listening.fd(), POLLIN, deadline);
    Socket socket(::accept4(listening.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket) {
      prepare(socket.fd());
      return socket;
    }
    check(errno == EINTR || errno == EAGAIN || errno == ECONNABORTED, "[socket] accept: ", system_reason());
  }
}

Socket connect_to(const std::string& address, int port, Deadline deadline) {
  const Addresses addresses = resolve(address, port, 0);
  std::string reason = "no address";
  for (const addrinfo* a = addresses.get(); a; a = a->ai_next) {
    Socket socket(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol));
    if (!socket) continue;
    prepare(socket.fd());
    if (::connect(socket.fd(), a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS) {
      reason = system_reason();
      continue;
    }
    int error = 0;
    socklen_t length = sizeof error;
    try {
      wait_for(socket.fd(), POLLOUT, deadline);
    } catch (const Error& e) {
      reason = e.what();
      continue;
    }
    if (::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0) return socket;
    reason = std::strerror(error);
  }
  fail("[socket] cannot connect to ", address, " port ", port, ": ", reason);
}

std::string own_address_towards(const std::string& address, int port) {
  const Addresses addresses = resolve(address, port, 0);
  for (const addrinfo* a = addresses.get(); a; a = a->ai_next) {
    const Socket socket(::socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));  // connecting it only finds the route
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    if (socket && ::connect(socket.fd(), a->ai_addr, a->ai_addrlen) == 0 &&
        ::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&own), &length) == 0)
      return numeric(own, length);
  }
  fail("[socket] there is no way to ", address, ": ", system_reason());
}

}  // namespace mantissa
