// Several ranks on this machine, as a user starts them: the programs launch themselves, and end together.
#include <chrono>
#include <thread>

#include "tests/support/programs.h"

namespace mantissa {
namespace {

using Launch = Programs;

TEST_F(Launch, RanksOfOneCommandAreOneRun) {
  // Results are checked by the program itself; one line a measurement, from rank 0 alone.
  const Result r = run("bench", {"comm", "--gpus", "3", "--repeat", "1", "--device", "cpu"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("ranks: 3 processes, joined by sockets, started by mantissa"), std::string::npos) << r.err;
  EXPECT_EQ(r.err.find("[rank"), std::string::npos) << r.err;
  EXPECT_GE(r.lines().size(), 20u);
  for (const std::string& line : r.lines()) EXPECT_NE(line.find("\"ranks\": 3"), std::string::npos) << line;
}

TEST_F(Launch, RanksMayComeFromAnotherLauncher) {
  const std::string command = quoted((kBin / "bench").string()) + " comm --repeat 1 --device cpu";
  const std::string common = "WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29741 MANTISSA_JOB=test ";
  // The other rank runs beside the one that run() starts; what is left on its stderr would be an alarm.
  const Result r =
      run("bench", {"comm", "--repeat", "1", "--device", "cpu"},
          "export " + common + "; RANK=1 " + command + " 2>" + quoted(path("other")) + " & export RANK=0;");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_GE(r.lines().size(), 20u);
  EXPECT_EQ(read_file(path("other")), "");
}

TEST_F(Launch, BadNumbersOfRanks) {
  expect_error("bench", {"comm", "--gpus", "none"}, {"--gpus", "auto or a number", "\"none\""});
  expect_error("bench", {"comm", "--gpus", "2", "--device", "cuda"}, {"--gpus", "asked for 2 GPUs", "has 0"});
  expect_error("bench", {"comm"}, {"WORLD_SIZE", "\"x\""}, "export RANK=0 WORLD_SIZE=x;");
}

}  // namespace
}  // namespace mantissa
