// trainer: runs one configuration file. See rl/loop.cpp for what happens in a step.
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <iostream>
#include <optional>
#include <string_view>

#include "core/text.h"
#include "rl/config_keys.h"
#include "rl/estimate.h"
#include "rl/logging/log.h"
#include "rl/run.h"
#include "tools/arguments.h"
#include "tools/device.h"
#include "tools/launch.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

/// timeout(1) and job managers send a signal to the program and to its group: copies within a second are one request.
constexpr int64_t kSameRequestNs = 1'000'000'000;
std::atomic<int64_t> stop_requested_ns{0};  // 0: not yet
std::atomic<int> stop_signal{0};
std::atomic<bool> speaks{true};  // of several ranks one says what all do

/// The first SIGINT, SIGTERM or SIGHUP lets the step finish and saves; a later one ends the program as usual. So from
/// the moment on when the ranks have met: before it there is nothing to save, and one that waits ends.
void on_signal(int number) {
  const int saved_errno = errno;
  stop_signal = number;
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  const int64_t now = int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
  int64_t first = 0;
  if (stop_requested_ns.compare_exchange_strong(first, now)) {
    constexpr std::string_view kNotice = "stopping after this step and saving; again ends at once, without saving\n";
    if (speaks) [[maybe_unused]]
      const ssize_t written = ::write(STDERR_FILENO, kNotice.data(), kNotice.size());
    errno = saved_errno;
    return;
  }
  if (now - first < kSameRequestNs) return;
  std::signal(number, SIG_DFL);
  std::raise(number);
}

/// The config in three lines; all of it goes to a file.
void say_what_runs(const RunConfig& c) {
  const bool sft = c.train.mode == "sft";
  log_info(str(c.run.name, ": ", c.train.mode, ", ", c.train.steps, " steps of ", c.train.prompts_per_step,
               sft ? std::string(" examples") : str(" prompts x ", c.rollout.n, " samples"), ", updates of ",
               c.train.mini_batch_size, " sequences, lr ", c.optim.lr));
  log_info(str("model ", c.model.path, " in ", c.precision.train,
               sft ? std::string() : str(", rollout ", c.precision.rollout, ", match ", c.precision.match), "; data ",
               join(c.data.files)));
  log_info("every key with its value: " + c.output_dir() + "/config.yaml");
}

/// A launcher's processes are the ranks, whatever distributed.gpus says.
void say_whose_ranks(const std::string& gpus, const Place& place) {
  if (gpus != "1" && gpus != "auto" && gpus != std::to_string(place.local_size))
    log_info(str("distributed.gpus: without effect under ", place.launcher, ", whose ", place.size,
                 " processes are the ranks; got ", gpus));
}

/// --adapter as an override of lora.init.
std::string init_override(const std::string& adapter, const std::vector<std::string>& overrides) {
  check(LoraConfig{.init = adapter}.from_directory(), "--adapter: must be the directory of an adapter, got ", adapter);
  for (const std::string& text : overrides)
    check(!text.starts_with("lora.init="), "--adapter ", adapter, ": stands for lora.init, and ", text,
          " is given, too: keep one of both");
  return "lora.init=" + adapter;
}

/// What `call` returns; where an adapter is given, errors of lora.init name the flag.
template <class Call>
auto naming_flag(const std::string& adapter, Call call) {
  try {
    return call();
  } catch (const Error& e) {
    constexpr std::string_view kKey = "lora.init: ";
    const std::string_view text = e.what();
    if (adapter.empty() || !text.starts_with(kKey)) throw;
    fail("--adapter: ", text.substr(kKey.size()));
  }
}

/// Of the config's device, be it there or not.
MemoryEstimate estimate_of(const RunConfig& config, int64_t response_length) {
  const int64_t most = config.train.mode == "sft" ? 0 : config.rollout.sampling.max_new_tokens;
  check(response_length <= most, "--response-length: must be at most ", most, ", ",
        most ? "rollout.max_new_tokens" : "in sft, whose responses are in the data", "; got ", response_length);
  const std::string &device = config.run.device, &gpus = config.distributed.gpus;
  const bool absent = device.starts_with("cuda") && visible_devices() == 0;
  const int ranks = gpus == "auto" ? std::max(1, visible_devices()) : std::stoi(gpus);
  return estimate_memory(
      config, {.ranks = ranks, .like = absent ? nullptr : &open_device(device), .response_length = response_length});
}

}  // namespace

int trainer_main(int argc, char** argv) {
  Arguments arguments("trainer",
                      "Trains a model as a YAML file says: GRPO and its relatives, or a supervised warm start.");
  std::string config_path;
  StartOptions start;
  std::vector<std::string> overrides;
  std::string adapter;
  int64_t response_length = 0;
  bool print_only = false, estimate = false, keys = false;
  arguments.field("config", config_path, "YAML file, see configs/");
  arguments.field("adapter", adapter, "the adapter to go on from, as lora.init=DIR: a PEFT directory or a checkpoint");
  arguments.not_empty();
  arguments.field("resume", start.resume,
                  "auto: from the last checkpoint of the output directory; or a checkpoint directory");
  arguments.not_empty();
  arguments.field("overwrite", start.overwrite,
                  "start anew in a used output directory, deleting the earlier run's files");
  arguments.field("print_config", print_only, "print the resolved config and exit");
  arguments.field("estimate", estimate, "print how much memory the run will need, by parts, and exit");
  arguments.field("response_length", response_length,
                  "for --estimate, mean tokens of a response; 0: all have rollout.max_new_tokens", at_least(0));
  arguments.field("keys", keys, "print the keys that begin with the words given (optim rollout.n), or all; and exit");
  arguments.words("overrides", overrides, "section.key=value, applied over the file");
  if (!arguments.parse(argc, argv)) return 0;
  check(int(print_only) + int(estimate) + int(keys) <= 1, "--print-config, --estimate and --keys exclude each other");
  if (keys) {
    std::cout << describe_keys(overrides);
    return 0;
  }
  check(!config_path.empty(), "trainer: --config is required");
  check(start.resume.empty() || !start.overwrite, "--resume and --overwrite exclude each other");
  check(response_length == 0 || estimate, "--response-length ", response_length, ": belongs to --estimate");

  if (!adapter.empty()) overrides.push_back(init_override(adapter, overrides));
  const RunConfig config = naming_flag(adapter, [&] { return load_run_config(config_path, overrides); });
  const std::optional<Place> place = own_place();
  speaks = !place || place->rank == 0;
  if (print_only) {
    std::cout << format_run_config(config);
    return 0;
  }
  if (estimate) {
    std::cout << estimate_of(config, response_length).text();
    return 0;
  }
  const int ranks = place ? 1 : count_ranks(config.distributed.gpus, config.run.device, "distributed.gpus");
  if (speaks && !(place && place->launcher == "mantissa")) say_what_runs(config);
  if (speaks && place && place->launcher != "mantissa") say_whose_ranks(config.distributed.gpus, *place);
  if (ranks > 1) return launch_ranks(ranks, argc, argv);
  std::signal(SIGPIPE, SIG_IGN);  // `trainer | tee`: the signal ends tee first, and the run has still to save
  std::optional<Run> run;         // outlives a failure: other ranks may still wait for what this one's device has to do
  return run_as_rank(place, config.run.device, [&](Comm& comm) {
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    if (std::signal(SIGHUP, on_signal) == SIG_IGN) std::signal(SIGHUP, SIG_IGN);  // nohup
    naming_flag(adapter, [&] { run.emplace(config, start, comm); });
    log_info("device " + run->exec.backend().description() + "; output in " + config.output_dir());
    const bool complete = train(*run, [] { return stop_requested_ns.load() != 0; });
    const int stopped = int(comm.reduce({double(stop_signal)}, Reduce::kMax)[0]);
    run.reset();
    return complete ? 0 : 128 + stopped;  // as a shell reports the signal: what comes next must not take it for done
  });
}

}  // namespace mantissa
