#include "core/comm/place.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/hash.h"

namespace mantissa {
namespace {

constexpr int kPort = 29500;  // torchrun's, where nobody names one

using Get = std::function<const char*(const char*)>;

int number(const Get& get, const char* name, int least, int most) {
  const char* text = get(name);
  check(text != nullptr, name, ": not in the environment, though its launcher's other variables are");
  const std::string value = text;
  int n = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), n);
  check(error == std::errc() && end == value.data() + value.size() && n >= least && n <= most, name,
        ": must be a number of ", least, " to ", most, ", got \"", value, "\"");
  return n;
}

std::string text(const Get& get, const char* name) {
  const char* value = get(name);
  return value ? value : "";
}

void read_ranks(Place& place, const Get& get, const char* rank, const char* size, const char* local_rank,
                const char* local_size) {
  place.size = number(get, size, 1, 1 << 16);
  place.rank = number(get, rank, 0, place.size - 1);
  place.local_rank = get(local_rank) ? number(get, local_rank, 0, place.size - 1) : 0;
  if (local_size && get(local_size)) place.local_size = number(get, local_size, 1, place.size);
}

/// MASTER_ADDR and MASTER_PORT where they are given; a port of the job's own where not. How long to wait there.
void read_meeting(Place& place, const Get& get, const std::string& otherwise) {
  place.address = text(get, "MASTER_ADDR");
  if (place.address.empty()) place.address = place.size == place.local_size ? "127.0.0.1" : otherwise;
  check(!place.address.empty(), "MASTER_ADDR: ", place.launcher,
        " started ranks on several machines, and the address "
        "of rank 0's is not in the environment");
  place.port = get("MASTER_PORT")  ? number(get, "MASTER_PORT", 1, 65535)
               : place.job.empty() ? kPort
                                   : kPort + int(hash64(place.job) % 4096);
  if (get(kPatienceVariable)) place.patience = std::chrono::seconds(number(get, kPatienceVariable, 1, 1000000));
}

}  // namespace

std::string first_host(const std::string& list) {
  const size_t end = list.find_first_of(",[");
  if (end == std::string::npos || list[end] == ',') return list.substr(0, end);
  const size_t stop = list.find_first_of(",-]", end);
  check(stop != std::string::npos, "SLURM_STEP_NODELIST: \"", list, "\" is no list of hosts");
  const size_t close = list.find(']', end), after = list.find_first_of(",", close);
  return list.substr(0, end) + list.substr(end + 1, stop - end - 1) + list.substr(close + 1, after - close - 1);
}

std::optional<Place> place_from_environment(const Get& get) {
  Place place;
  if (get("RANK") && get("WORLD_SIZE")) {
    place.launcher = get("TORCHELASTIC_RUN_ID") ? "torchrun" : get("MANTISSA_JOB") ? "mantissa" : "RANK, WORLD_SIZE";
    place.job = text(get, get("MANTISSA_JOB") ? "MANTISSA_JOB" : "TORCHELASTIC_RUN_ID");
    read_ranks(place, get, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE");
    if (get("MANTISSA_LISTENING")) place.listening = number(get, "MANTISSA_LISTENING", 0, 1 << 20);
    read_meeting(place, get, "");
    return place;
  }
  if (get("OMPI_COMM_WORLD_RANK")) {
    place.launcher = "mpirun";
    place.job = text(get, "PMIX_NAMESPACE");
    read_ranks(place, get, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
               "OMPI_COMM_WORLD_LOCAL_SIZE");
    read_meeting(place, get, "");
    return place;
  }
  // Only inside a step of srun: a batch script has SLURM_PROCID too, and is one process.
  if (get("SLURM_STEP_NUM_TASKS") && get("SLURM_PROCID")) {
    place.launcher = "srun";
    place.job = text(get, "SLURM_JOB_ID") + "." + text(get, "SLURM_STEP_ID");
    read_ranks(place, get, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", nullptr);
    const std::string tasks = text(get, "SLURM_STEP_TASKS_PER_NODE");  // "2(x3),1"
    std::from_chars(tasks.data(), tasks.data() + tasks.size(), place.local_size);
    read_meeting(place, get, first_host(text(get, "SLURM_STEP_NODELIST")));
    return place;
  }
  for (const auto& [there, missing] :
       {std::pair{"RANK", "WORLD_SIZE"}, {"WORLD_SIZE", "RANK"}, {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}})
    check(text(get, there).empty() || (text(get, there) == "1" && there != std::string_view("RANK")), there, ": is ",
          text(get, there), " in the environment, and ", missing, " is not there: set both, or none");
  return std::nullopt;
}

int cores_of_rank() {
  const int cores = int(std::thread::hardware_concurrency());
  try {
    const std::optional<Place> place = place_from_environment([](const char* name) { return std::getenv(name); });
    return std::max(1, cores / (place ? place->local_size : 1));
  } catch (const Error&) {  // a program of one process, in an environment that is half a rank's
    return std::max(1, cores);
  }
}

}  // namespace mantissa
