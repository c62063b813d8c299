// Start of several ranks on this machine, and being one of them.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/comm.h"
#include "core/comm/place.h"

namespace mantissa {

/// How many processes `gpus` ("auto" or a number) means on `device` here. Throws Error counting the devices where there
/// are fewer. On the CPU a number is taken as it is, and auto is 1. `key` names the setting in errors.
int count_ranks(const std::string& gpus, const std::string& device, const std::string& key);

/// Runs this program again, with its own arguments, `ranks` times, as ranks of one run (core/comm/place.h reads what it
/// puts into their environment). Signals are passed on. Rank 0 has this process's streams; what the others print comes
/// line by line on stderr behind "[rank 1] ". When one ends other than well, the others are given a few seconds to say
/// why and are then killed; all die with this process. Returns the exit status of the whole.
int launch_ranks(int ranks, int argc, char** argv);

/// The place among several that a launcher gave this process; none: it is alone.
std::optional<Place> own_place();

/// Runs body as this process's rank: joins the others, opens the device ("cuda" is that of the rank), and watches over
/// all. An exception of one rank ends all (core/comm/watchdog.h): what body must not tear down then, because others may
/// wait for it, belongs outside of it. Without a place body gets a Comm of one process, and exceptions pass through.
int run_as_rank(const std::optional<Place>& place, const std::string& device, const std::function<int(Comm&)>& body);

}  // namespace mantissa
