// Places of ranks, read from each launcher's environment.
#include "core/comm/place.h"

#include <gtest/gtest.h>

#include <map>

#include "core/error.h"
#include "tests/support/message.h"

namespace mantissa {
namespace {

std::optional<Place> place_in(const std::map<std::string, std::string>& environment) {
  return place_from_environment([&](const char* name) -> const char* {
    const auto it = environment.find(name);
    return it == environment.end() ? nullptr : it->second.c_str();
  });
}

TEST(Place, IsReadFromEachLauncher) {
  EXPECT_FALSE(place_in({}));
  EXPECT_FALSE(place_in({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}})) << "a batch script is one process";

  const auto torchrun = place_in({{"RANK", "3"},
                                  {"WORLD_SIZE", "4"},
                                  {"LOCAL_RANK", "1"},
                                  {"LOCAL_WORLD_SIZE", "2"},
                                  {"MASTER_ADDR", "node1"},
                                  {"MASTER_PORT", "1234"},
                                  {"TORCHELASTIC_RUN_ID", "j"}});
  ASSERT_TRUE(torchrun);
  EXPECT_EQ(std::tuple(torchrun->rank, torchrun->size, torchrun->local_rank, torchrun->local_size, torchrun->port),
            std::tuple(3, 4, 1, 2, 1234));
  EXPECT_EQ(torchrun->address, "node1");
  EXPECT_EQ(torchrun->launcher, "torchrun");

  const auto srun = place_in({{"SLURM_PROCID", "5"},
                              {"SLURM_STEP_NUM_TASKS", "8"},
                              {"SLURM_LOCALID", "1"},
                              {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"},
                              {"SLURM_STEP_NODELIST", "gpu[07-08]"},
                              {"SLURM_JOB_ID", "99"},
                              {"SLURM_STEP_ID", "0"}});
  ASSERT_TRUE(srun);
  EXPECT_EQ(std::tuple(srun->rank, srun->size, srun->local_rank, srun->local_size), std::tuple(5, 8, 1, 4));
  EXPECT_EQ(srun->address, "gpu07");
  EXPECT_GE(srun->port, 1024);

  const auto mpirun = place_in({{"OMPI_COMM_WORLD_RANK", "1"},
                                {"OMPI_COMM_WORLD_SIZE", "2"},
                                {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  ASSERT_TRUE(mpirun);
  EXPECT_EQ(std::tuple(mpirun->rank, mpirun->size, mpirun->local_rank), std::tuple(1, 2, 1));
  EXPECT_EQ(mpirun->address, "127.0.0.1");

  EXPECT_EQ(first_host("a1"), "a1");
  EXPECT_EQ(first_host("a1,b2"), "a1");
  EXPECT_EQ(first_host("n[3,5]-ib,m1"), "n3-ib");
}

TEST(Place, SaysHowLongToWait) {
  std::map<std::string, std::string> environment = {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node1"}};
  EXPECT_EQ(place_in(environment)->patience, std::chrono::minutes(5));
  environment["MANTISSA_JOIN_TIMEOUT_S"] = "1800";
  EXPECT_EQ(place_in(environment)->patience, std::chrono::minutes(30));
  environment["MANTISSA_JOIN_TIMEOUT_S"] = "0";
  EXPECT_EQ(message_of([&] { place_in(environment); }),
            "MANTISSA_JOIN_TIMEOUT_S: must be a number of 1 to 1000000, got \"0\"");
}

TEST(Place, BadVariablesAreNamed) {
  const auto error_of = [](const std::map<std::string, std::string>& environment) -> std::string {
    return message_of([&] { place_in(environment); });
  };
  EXPECT_EQ(error_of({{"RANK", "4"}, {"WORLD_SIZE", "4"}}), "RANK: must be a number of 0 to 3, got \"4\"");
  EXPECT_EQ(error_of({{"RANK", "0"}, {"WORLD_SIZE", "two"}}),
            "WORLD_SIZE: must be a number of 1 to 65536, got \"two\"");
  EXPECT_NE(error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}}).find("MASTER_ADDR"), std::string::npos);
  EXPECT_EQ(error_of({{"WORLD_SIZE", "2"}}),
            "WORLD_SIZE: is 2 in the environment, and RANK is not there: set both, or none");
  EXPECT_NE(error_of({{"RANK", "0"}}).find("WORLD_SIZE is not there"), std::string::npos);
  EXPECT_NE(error_of({{"OMPI_COMM_WORLD_SIZE", "2"}}).find("OMPI_COMM_WORLD_RANK is not there"), std::string::npos);
  EXPECT_EQ(error_of({{"WORLD_SIZE", "1"}}), "") << "one process";
  EXPECT_EQ(error_of({{"RANK", ""}}), "");
}

}  // namespace
}  // namespace mantissa
