#include "core/comm/mesh.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

#include "core/comm/wait.h"
#include "core/hash.h"

namespace mantissa {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kMagic = 0x31616d6d6f43534dull;  // another program's connection, or another version's
constexpr int kPorts = 16;                          // rank 0 listens on the first free one of so many
constexpr std::chrono::milliseconds kHelloTime = 5s, kAnswerTime = 2s, kRetry = 50ms;

void set_text(char (&to)[64], std::string_view text) {
  const size_t n = std::min(text.size(), sizeof to - 1);
  std::memcpy(to, text.data(), n);
  to[n] = 0;
}

/// What a connection between rank 0 and another carries.
enum Purpose : int32_t { kCalls, kHeartbeats, kHandout, kMeeting, kPurposes };

/// What a process says of itself when it connects.
struct Hello {
  uint64_t magic = kMagic, job = 0;
  int32_t rank = 0, size = 0, port = 0, purpose = kCalls, pid = 0, padding = 0;
  char host[64] = {};
};

/// What rank 0 answers at once, and where to find a rank, once all are there.
struct Answer {
  enum Kind : int32_t { kWelcome, kOtherJob, kRefused } kind = kWelcome;
  char reason[252] = {};
};
struct Entry {
  char address[64] = {}, name[128] = {};
  int32_t port = 0;
};

struct Header {
  uint64_t call = 0, bytes = 0;
  char what[64] = {};
};

std::string host_name() {
  char name[64] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

Hello make_hello(const Place& place, int port, Purpose purpose) {
  Hello hello;
  hello.job = hash64(place.job);
  hello.rank = place.rank;
  hello.size = place.size;
  hello.port = port;
  hello.purpose = purpose;
  hello.pid = int32_t(::getpid());
  set_text(hello.host, host_name());
  return hello;
}

std::string name_from(const Hello& hello) {
  return str("rank ", hello.rank, " (pid ", hello.pid, " on ", hello.host, ")");
}

/// Whether a caller belongs here. `known`: its rank has come already.
Answer answer_to(const Hello& hello, const Place& place, bool known) {
  Answer answer;
  const auto say = [&](Answer::Kind kind, const std::string& reason) {
    answer.kind = kind;
    std::memcpy(answer.reason, reason.data(), std::min(reason.size(), sizeof answer.reason - 1));
    return answer;
  };
  if (hello.job != hash64(place.job)) return say(Answer::kOtherJob, "its port belongs to another job");
  if (hello.size != place.size)
    return say(Answer::kRefused, str("it was started as one of ", hello.size, " ranks, rank 0 as one of ", place.size));
  if (known) return say(Answer::kRefused, str("there is a rank ", hello.rank, " already"));
  return answer;
}

Socket listen_as_first(const Place& place) {
  if (place.listening >= 0) return Socket(place.listening);
  const bool local = place.address == "127.0.0.1" || place.address == "localhost";
  for (int port = place.port;; ++port) try {
      return listen_on(local ? "127.0.0.1" : "", port);
    } catch (const Error& e) {
      if (port + 1 >= place.port + kPorts || port >= 65535) throw;
    }
}

/// Connects to rank 0 and is answered; tries on while it may wait. The port found is noted in `place`.
Socket connect_to_first(Place& place, const Hello& hello, Wait& wait) {
  const std::string whom = str("rank 0 at ", place.address, " port ", place.port);
  std::string reason;
  for (;;) {
    for (int port = place.port; port < place.port + (place.listening < 0 ? kPorts : 1); ++port) {
      if (wait.over()) wait.give_up(whom, reason);
      wait.say(whom, reason);
      Answer answer;
      try {
        Socket socket = connect_to(place.address, port, std::min(wait.end(), deadline_in(kAnswerTime)));
        socket.send(&hello, sizeof hello, deadline_in(kAnswerTime));
        socket.receive(&answer, sizeof answer, deadline_in(kAnswerTime));
        answer.reason[sizeof answer.reason - 1] = 0;
        if (answer.kind == Answer::kWelcome) {
          place.port = port;
          return socket;
        }
        reason = answer.reason;
      } catch (const Error& e) {
        if (port == place.port) reason = e.what();
      }
      check(answer.kind != Answer::kRefused, "[comm] rank 0 refuses ", name_from(hello), ": ", reason);
    }
    std::this_thread::sleep_for(kRetry);
  }
}

/// The caller's first words; none where it is not one of ours.
bool read_hello(const Socket& socket, Hello& hello) {
  try {
    socket.receive(&hello, sizeof hello, deadline_in(kHelloTime));
  } catch (const Error&) {
    return false;
  }
  hello.host[sizeof hello.host - 1] = 0;
  return hello.magic == kMagic && hello.purpose >= 0 && hello.purpose < kPurposes;
}

}  // namespace

std::string Mesh::name(int rank) const {
  return names_[size_t(rank)];
}

std::unique_ptr<Mesh> Mesh::join(const Place& place, std::chrono::milliseconds quiet) {
  std::unique_ptr<Mesh> mesh(new Mesh);
  Wait wait(place.rank == 0 ? "rank 0" : name_from(make_hello(place, 0, kCalls)), place.patience, quiet);
  mesh->rank_ = place.rank;
  mesh->links_.resize(size_t(place.size));
  mesh->names_.resize(size_t(place.size));
  Star star;
  for (std::vector<Socket>* sockets : {&star.heartbeats, &star.handout, &star.meeting})
    sockets->resize(place.rank == 0 ? size_t(place.size) : 1);
  place.rank == 0 ? mesh->gather_ranks(place, wait, star) : mesh->find_ranks(place, wait, star);
  mesh->heartbeats_ = std::move(star.heartbeats);
  mesh->handout_ = std::make_unique<Handout>(place.rank == 0, std::move(star.handout));
  mesh->meeting_ = std::make_unique<Meeting>(place.rank, std::move(star.meeting));
  return mesh;
}

void Mesh::gather_ranks(const Place& place, Wait& wait, Star& star) {
  const Socket listening = listen_as_first(place);
  std::vector<Entry> entries{size_t(place.size)};
  set_text(entries[0].address, place.address);
  std::vector<Socket>* const kinds[kPurposes] = {&links_, &star.heartbeats, &star.handout, &star.meeting};
  names_[0] = name_from(make_hello(place, 0, kCalls));
  const auto absent = [&] {
    std::string ranks;
    for (int r = 1; r < place.size; ++r)
      if (!star.meeting[size_t(r)]) ranks += str(ranks.empty() ? "" : ", ", r);
    return str("rank ", ranks, " of ", place.size, " at ", place.address, " port ", listening.port());
  };
  for (int missing = kPurposes * (place.size - 1); missing > 0;) {
    Socket socket = wait.socket([&](Deadline deadline) { return accept_from(listening, deadline); }, absent);
    Hello hello;
    if (!read_hello(socket, hello) || hello.rank <= 0) continue;
    std::vector<Socket>& kind = *kinds[hello.purpose];
    const bool came = hello.rank < place.size && kind[size_t(hello.rank)];
    // One that did not wait for the answer comes again.
    const bool again = came && (hello.purpose != kCalls || names_[size_t(hello.rank)] == name_from(hello));
    const Answer answer = answer_to(hello, place, came && !again);
    try {
      socket.send(&answer, sizeof answer, deadline_in(kHelloTime));
    } catch (const Error&) {
      continue;  // it went away; it will come again, or be missed
    }
    check(answer.kind != Answer::kRefused, "[comm] ", name_from(hello), " is refused: ", answer.reason);
    if (answer.kind != Answer::kWelcome) continue;
    if (hello.purpose == kCalls) {
      Entry& entry = entries[size_t(hello.rank)];
      set_text(entry.address, socket.peer_address());
      entry.port = hello.port;
      names_[size_t(hello.rank)] = name_from(hello);
    }
    kind[size_t(hello.rank)] = std::move(socket);
    if (!again) --missing;
  }
  for (size_t r = 0; r < entries.size(); ++r) std::memcpy(entries[r].name, names_[r].c_str(), names_[r].size() + 1);
  for (size_t r = 1; r < links_.size(); ++r)
    links_[r].send(entries.data(), entries.size() * sizeof(Entry), deadline_in(kHelloTime));
}

void Mesh::find_ranks(const Place& place, Wait& wait, Star& star) {
  // The others come to the address through which this rank reaches rank 0.
  const std::string address = own_address_towards(place.address, place.port);
  const Socket listening = listen_on(address, 0);
  const Hello hello = make_hello(place, listening.port(), kCalls);
  Place first = place;
  links_[0] = connect_to_first(first, hello, wait);
  star.heartbeats[0] = connect_to_first(first, make_hello(place, 0, kHeartbeats), wait);
  star.handout[0] = connect_to_first(first, make_hello(place, 0, kHandout), wait);
  star.meeting[0] = connect_to_first(first, make_hello(place, 0, kMeeting), wait);
  std::vector<Entry> entries{size_t(place.size)};
  try {
    links_[0].receive(entries.data(), entries.size() * sizeof(Entry), wait.end());  // rank 0 says who is missing
  } catch (const Error& e) {
    wait.give_up("the other ranks at rank 0", e.what());
  }
  for (size_t r = 0; r < entries.size(); ++r) names_[r] = entries[r].name;
  wait.turn_to_others();
  for (int r = 1; r < place.rank; ++r) {
    const Entry& entry = entries[size_t(r)];
    links_[size_t(r)] = wait.socket([&](Deadline deadline) { return connect_to(entry.address, entry.port, deadline); },
                                    [&] { return str(entry.name, " at ", entry.address, " port ", entry.port); });
    links_[size_t(r)].send(&hello, sizeof hello, wait.end());
  }
  const auto absent = [&] {
    std::string names;
    for (size_t r = size_t(place.rank) + 1; r < links_.size(); ++r)
      if (!links_[r]) names += str(names.empty() ? "" : ", ", names_[r]);
    return str(names, " at ", address, " port ", listening.port());
  };
  for (int missing = place.size - 1 - place.rank; missing > 0;) {
    Socket socket = wait.socket([&](Deadline deadline) { return accept_from(listening, deadline); }, absent);
    Hello theirs;
    if (!read_hello(socket, theirs) || theirs.job != hello.job || theirs.rank <= place.rank ||
        theirs.rank >= place.size || links_[size_t(theirs.rank)])
      continue;
    links_[size_t(theirs.rank)] = std::move(socket);
    --missing;
  }
}

namespace {

/// A message on its way through one link: its header, then its bytes.
struct Transfer {
  int rank = 0;
  Header header;
  char* bytes = nullptr;
  size_t done = 0;  // of header and bytes together
  bool finished() const { return done >= sizeof header && done == sizeof header + header.bytes; }
};

}  // namespace

Mesh::Group Mesh::all() const {
  std::vector<int> ranks(links_.size());
  std::iota(ranks.begin(), ranks.end(), 0);
  return some(std::move(ranks));
}

Mesh::Group Mesh::some(std::vector<int> ranks) const {
  const int own = int(std::ranges::find(ranks, rank_) - ranks.begin());
  return {std::move(ranks), own};
}

void Mesh::exchange(Group& group, std::string_view what, const std::vector<Message>& messages,
                    const std::vector<int>& from, const std::function<void*(int rank, size_t bytes)>& place) {
  ++group.calls;
  std::vector<Transfer> out, in;
  for (const Message& m : messages) {
    Transfer& t = out.emplace_back();
    t.rank = m.to;
    t.header.call = group.calls;
    t.header.bytes = m.bytes.size();
    set_text(t.header.what, what);
    t.bytes = const_cast<char*>(m.bytes.data());
  }
  for (const int rank : from) in.emplace_back().rank = rank;

  const auto lost = [&](int rank, const std::string& reason) -> void {
    throw PeerLost(rank, str("[comm] ", name(rank), " was lost during ", what, ": ", reason));
  };
  // Moves one piece; false when the socket is not ready.
  const auto move = [&](Transfer& t, bool sending) {
    const bool head = t.done < sizeof t.header;
    char* at = head ? reinterpret_cast<char*>(&t.header) + t.done : t.bytes + (t.done - sizeof t.header);
    const size_t left = head ? sizeof t.header - t.done : sizeof t.header + t.header.bytes - t.done;
    const int rank = group.ranks[size_t(t.rank)], fd = links_[size_t(rank)].fd();
    const ssize_t n = sending ? ::send(fd, at, left, MSG_NOSIGNAL | (head && t.header.bytes > 0 ? MSG_MORE : 0))
                              : ::recv(fd, at, left, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n < 0) lost(rank, std::strerror(errno));
    if (n == 0) lost(rank, "it ended");
    t.done += size_t(n);
    if (!sending && head && t.done == sizeof t.header) {
      t.header.what[sizeof t.header.what - 1] = 0;
      check(t.header.call == group.calls && t.header.what == std::string(what).substr(0, sizeof t.header.what - 1),
            "[comm] the ranks disagree about what comes next: ", name(rank), " is at call ", t.header.call, ", ",
            t.header.what, "; ", name(rank_), " at call ", group.calls, ", ", what);
      t.bytes = static_cast<char*>(place(t.rank, t.header.bytes));
    }
    return true;
  };

  const auto fd_of = [&](const Transfer& t) { return links_[size_t(group.ranks[size_t(t.rank)])].fd(); };
  std::vector<pollfd> waiting;
  for (;;) {
    waiting.clear();
    for (Transfer& t : out) {
      while (!t.finished() && move(t, true)) {
      }
      if (!t.finished()) waiting.push_back({fd_of(t), POLLOUT, 0});
    }
    for (Transfer& t : in) {
      while (!t.finished() && move(t, false)) {
      }
      if (!t.finished()) waiting.push_back({fd_of(t), POLLIN, 0});
    }
    if (waiting.empty()) return;
    check(::poll(waiting.data(), waiting.size(), -1) >= 0 || errno == EINTR, "[comm] poll: ", std::strerror(errno));
  }
}

std::vector<std::string> Mesh::gather(Group& group, std::string_view bytes) {
  std::vector<std::string> all(group.ranks.size());
  std::vector<Message> messages;
  std::vector<int> others;
  for (int r = 0; r < int(all.size()); ++r)
    if (r != group.own) {
      messages.push_back({r, bytes});
      others.push_back(r);
    }
  all[size_t(group.own)] = bytes;
  exchange(group, "gather", messages, others, [&](int r, size_t count) {
    all[size_t(r)].resize(count);
    return all[size_t(r)].data();
  });
  return all;
}

std::string Mesh::broadcast(Group& group, std::string_view bytes, int root) {
  const bool gives = group.own == root;
  std::string received;
  std::vector<Message> messages;
  for (int r = 0; r < int(group.ranks.size()); ++r)
    if (gives && r != root) messages.push_back({r, bytes});
  exchange(group, "broadcast of bytes", messages, gives ? std::vector<int>{} : std::vector<int>{root},
           [&](int, size_t count) {
             received.resize(count);
             return received.data();
           });
  return gives ? std::string(bytes) : received;
}

int64_t Mesh::next(int64_t round) {
  try {
    return handout_->next(round);
  } catch (const Error& e) {
    throw PeerLost(0, str("[comm] ", name(0), " was lost during a handout: ", e.what()));
  }
}

std::vector<std::string> Mesh::gather_aside(std::string_view bytes) {
  int with = 0;
  try {
    return meeting_->gather(bytes, with);
  } catch (const Error& e) {
    throw PeerLost(with, str("[comm] ", name(with), " was lost by a background thread: ", e.what()));
  }
}

}  // namespace mantissa
