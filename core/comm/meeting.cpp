#include "core/comm/meeting.h"

#include <cstdint>

namespace mantissa {
namespace {

void send(const Socket& socket, std::string_view bytes) {
  const uint64_t count = bytes.size();
  socket.send(&count, sizeof count, Deadline::max());
  socket.send(bytes.data(), bytes.size(), Deadline::max());
}

std::string receive(const Socket& socket) {
  uint64_t count = 0;
  socket.receive(&count, sizeof count, Deadline::max());
  std::string bytes(count, '\0');
  socket.receive(bytes.data(), count, Deadline::max());
  return bytes;
}

}  // namespace

std::vector<std::string> Meeting::gather(std::string_view bytes, int& with) const {
  with = 0;
  std::vector<std::string> all;
  if (rank_ > 0) {
    send(sockets_[0], bytes);
    uint64_t ranks = 0;
    sockets_[0].receive(&ranks, sizeof ranks, Deadline::max());
    for (uint64_t r = 0; r < ranks; ++r) all.push_back(receive(sockets_[0]));
    return all;
  }
  all.emplace_back(bytes);
  const uint64_t ranks = sockets_.size();
  for (with = 1; with < int(ranks); ++with) all.push_back(receive(sockets_[size_t(with)]));
  for (with = 1; with < int(ranks); ++with) {
    sockets_[size_t(with)].send(&ranks, sizeof ranks, Deadline::max());
    for (const std::string& theirs : all) send(sockets_[size_t(with)], theirs);
  }
  return all;
}

}  // namespace mantissa
