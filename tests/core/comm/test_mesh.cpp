// Ranks that do not find each other: what they say meanwhile, and in the end.
#include "core/comm/mesh.h"

#include <gtest/gtest.h>

#include "core/comm/wait.h"
#include "tests/support/message.h"
#include "tests/support/ranks.h"

namespace mantissa {
namespace {

using namespace std::chrono_literals;

class MeshWait : public testing::Test {
 protected:
  MeshWait() {
    set_notice_sink([this](const std::string& text) { said_.push_back(text); });
  }
  ~MeshWait() override { set_notice_sink({}); }
  std::vector<std::string> said_;
};

TEST_F(MeshWait, SaysForWhomWhereAndHowLong) {
  for (const int rank : {0, 1}) {
    said_.clear();
    std::vector<Place> places = local_places(2);
    const std::string port = std::to_string(places[0].port);
    Place& place = places[size_t(rank)];
    place.patience = 500ms;
    if (rank == 1) Socket(places[0].listening).close();
    const std::string error = message_of([&] { Mesh::join(place, 100ms); });
    const std::string whom = rank == 0 ? "rank 1 of 2 at 127.0.0.1 port " : "rank 0 at 127.0.0.1 port ";
    const std::string limit = port + ", for up to 0.5 s (MANTISSA_JOIN_TIMEOUT_S in the environment)";
    ASSERT_EQ(said_.size(), 1u);
    expect_message(said_[0], {rank == 0 ? "rank 0" : "rank 1 (pid ", (" waits for " + whom + limit).c_str()});
    expect_message(error, {rank == 0 ? "[comm] rank 0" : "[comm] rank 1 (pid ",
                           (" waited for " + whom + limit + ": ").c_str(), rank == 0 ? "timed out" : "refused"});
  }
}

TEST_F(MeshWait, SpeaksOnceOfEachThatItWaitsFor) {
  const Socket listening = listen_on("127.0.0.1", 0);
  Wait wait("rank 2", 400ms, 50ms);
  const auto accept = [&](Deadline deadline) { return accept_from(listening, deadline); };
  wait.say("rank 0");
  EXPECT_TRUE(said_.empty()) << "too early";
  std::this_thread::sleep_for(60ms);
  for (int i = 0; i < 2; ++i) wait.say("rank 0", "refused");
  EXPECT_EQ(said_.size(), 1u);
  wait.turn_to_others();
  expect_message(message_of([&] { wait.socket([](Deadline) -> Socket { fail("refused"); }, [] { return "rank 1"; }); }),
                 {"[comm] rank 2 waited for rank 1, for up to 0.4 s", ": refused"});  // at once
  EXPECT_EQ(said_.size(), 1u);
  expect_message(message_of([&] { wait.socket(accept, [] { return "rank 3"; }); }), {"rank 3", ": timed out"});
  ASSERT_EQ(said_.size(), 2u);
  expect_message(said_[0], {"rank 2 waits for rank 0", ": refused"});
  expect_message(said_[1], {"rank 2 waits for rank 3"});
  EXPECT_TRUE(wait.over());
}

}  // namespace
}  // namespace mantissa
