// Ranks as threads of the test program, joined over the loopback device: fn(comm) runs on each.
#pragma once

#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/comm.h"
#include "core/comm/mesh.h"

namespace mantissa {

/// Places of `size` ranks that meet at a free port of this machine.
inline std::vector<Place> local_places(int size) {
  Socket listening = listen_on("127.0.0.1", 0);
  std::vector<Place> places(static_cast<size_t>(size));
  for (int r = 0; r < size; ++r) {
    places[size_t(r)].rank = places[size_t(r)].local_rank = r;
    places[size_t(r)].size = places[size_t(r)].local_size = size;
    places[size_t(r)].port = listening.port();
    places[size_t(r)].job = "test";
    places[size_t(r)].patience = std::chrono::seconds(20);
  }
  places[0].listening = listening.release();
  return places;
}

/// What each rank's thread threw; empty where it returned.
inline std::vector<std::string> run_ranks_on(const std::vector<Place>& places, const std::function<void(Comm&)>& fn) {
  std::vector<std::string> errors(places.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < places.size(); ++r)
    threads.emplace_back([&, r] {
      try {
        const std::unique_ptr<Comm> comm = make_cpu_comm(Mesh::join(places[r]));
        fn(*comm);
      } catch (const std::exception& e) {
        errors[r] = e.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

inline std::vector<std::string> run_ranks(int size, const std::function<void(Comm&)>& fn) {
  return run_ranks_on(local_places(size), fn);
}

}  // namespace mantissa
