// Place: which rank this process is, of how many, and where the others are met. A launcher says it by environment
// variables, each launcher by its own.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

namespace mantissa {

struct Place {
  int rank = 0, size = 1;              // among all processes of the run
  int local_rank = 0, local_size = 1;  // among those of this machine: the device's number and the share of its cores
  std::string address = "127.0.0.1";   // of rank 0
  int port = 0;                        // of rank 0; where it is taken, rank 0 listens on one of the few after it
  std::string job;                     // processes of another job are refused
  std::string launcher;                // for logs: "torchrun", "srun", "mpirun", "mantissa"
  std::chrono::milliseconds patience = std::chrono::minutes(5);  // how long the ranks wait for each other at the start
  int listening = -1;  // rank 0 under this program's own launcher: a socket that listens already
};

/// The variable that Place::patience comes from.
inline constexpr const char* kPatienceVariable = "MANTISSA_JOIN_TIMEOUT_S";

/// From RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT (torchrun, this program's launcher),
/// else OMPI_COMM_WORLD_* (mpirun), else SLURM_* of a job step (srun); MASTER_ADDR and MASTER_PORT count there too.
/// MANTISSA_JOIN_TIMEOUT_S is their patience. None where no launcher speaks. `get` is getenv, or a test's. Throws Error
/// naming the variable missing or bad.
std::optional<Place> place_from_environment(const std::function<const char*(const char*)>& get);

/// Cores of this machine for each of the ranks that a launcher started on it, at least 1.
int cores_of_rank();

/// The first host of a SLURM list: "node[03-05,9],login1" -> "node03".
std::string first_host(const std::string& list);

}  // namespace mantissa
