#include "rl/reward/python.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "core/comm/place.h"
#include "core/error.h"
#include "core/json.h"
#include "rl/reward/process.h"
#include "rl/reward/python_worker.h"

namespace mantissa {
namespace {

using nlohmann::json;

/// Runs the first line that it is sent, a program as a JSON string: too long for a command line that people see.
constexpr const char* kLoader = "import json; exec(json.loads(open(0, 'rb', 0, closefd=False).readline()))";
constexpr size_t kLargestBatch = 32;
constexpr double kStartSeconds = 120;  // to import the user's file and what it imports

/// "my_reward.py:judge" -> file and function; the function is `reward` where none is named.
std::pair<std::string, std::string> parts_of(const std::string& path) {
  const size_t colon = path.rfind(':');
  if (colon == std::string::npos || path.find('/', colon) != std::string::npos) return {path, "reward"};
  return {path.substr(0, colon), path.substr(colon + 1)};
}

/// A Python process with our ends of its input and output.
struct Child {
  Fd log;
  Channel in{Channel::Kind::kSocket}, out{Channel::Kind::kPipe};
  std::unique_ptr<Process> process;
  std::string received = {};

  explicit Child(const RewardConfig& config, const std::string& file, const std::string& function)
      : log(open_log(config.log_file)),
        // One thread of a math library a worker: there are as many workers as cores.
        process(start_lasting({.argv = {"/usr/bin/env", "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", config.python,
                                        "-c", kLoader, std::filesystem::absolute(file).string(), function},
                               .environment = {},
                               .descriptors = {in.out.get(), out.in.get(), log.get()},
                               .folder = {},
                               .memory_mb = config.memory_mb})) {
    in.out.close();
    out.in.close();
    log.close();
  }

  /// Sends what is unsent until the next line is there.
  Talk next_line(std::string_view& unsent, std::string& line, Process::Clock::time_point deadline) {
    for (;;) {
      if (const size_t end = received.find('\n'); end != std::string::npos) {
        line = received.substr(0, end);
        received.erase(0, end + 1);
        return Talk::kGoesOn;
      }
      if (const Talk turn = talk(in.in, out.out, unsent, received, deadline); turn != Talk::kGoesOn) return turn;
    }
  }
};

/// One Python process. A task and its answer never outlive a failure: what was sent is then dropped with the process.
class Worker {
 public:
  explicit Worker(const RewardConfig& config) : config_(config) {}

  /// Starts it and waits until the function is there. Throws Error with what Python said.
  void start() {
    const auto [file, function] = parts_of(config_.path);
    child_.emplace(config_, file, function);
    std::string line;
    const std::string program = json_string(python_worker()) + "\n";
    std::string_view unsent = program;
    const Talk heard = child_->next_line(unsent, line, Process::in_seconds(kStartSeconds));
    check(heard != Talk::kTimeout, "reward.path ", config_.path, ": took more than ", kStartSeconds, " s to import");
    check(heard != Talk::kEnded, "reward.python ", config_.python, ": ",
          was_started() ? "ended before it had imported " + config_.path : "the interpreter cannot be started",
          where_to_look());
    const json said = json::parse(line, nullptr, false);
    check(said.is_object() && said.contains("ready"), "reward.path ", config_.path, ": ",
          said.is_object() ? said.value("error", line) : line, where_to_look());
    batch_ = said.value("batch", false);
  }

  /// Grades the first of the answers, each within timeout_s (a function of batches: all within so many times that), and
  /// returns how many. Only the one that the worker failed on is blamed; those behind it wait for another. 0: it failed
  /// on several at once, and they are to be given to it one by one.
  size_t grade(std::span<const Answer> answers, std::span<Grade> grades) {
    if (!child_) start();
    std::string text = "[";
    for (const Answer& answer : answers)
      text +=
          str(text.size() > 1 ? ", " : "", "[", json_string(answer.response), ", ",
              json_string(answer.record.empty() ? JsonObject().add("answer", answer.gold).str() : answer.record), "]");
    text += "]\n";
    std::string_view unsent = text;
    for (size_t done = 0; done < answers.size(); ++done) {
      std::string line;
      const double seconds = config_.timeout_s * double(batch_ && done == 0 ? answers.size() : 1);
      const Talk heard = child_->next_line(unsent, line, Process::in_seconds(seconds));
      if (heard != Talk::kGoesOn) {
        const bool several = batch_ && done == 0 && answers.size() > 1;
        if (!several) grades[done] = failure(heard);
        child_.reset();
        return several ? 0 : done + 1;
      }
      grades[done] = grade_of_line(line);
    }
    return answers.size();
  }

 private:
  std::string where_to_look() const {
    return config_.log_file.empty() ? std::string() : "; its standard error is in " + config_.log_file;
  }

  /// Whether a process that has ended was the interpreter: env ends with 126 or 127 where it cannot start that.
  bool was_started() const {
    siginfo_t info;
    return !child_->process->wait(info, Process::in_seconds(1)) || info.si_code != CLD_EXITED || info.si_status < 126;
  }

  static Grade grade_of_line(const std::string& line) {
    const json said = json::parse(line, nullptr, false);
    if (said.is_object() && said.contains("reward"))
      return grade_of(said["reward"].get<double>(), said["reward"].dump(), said.value("extracted", ""), "the function");
    Grade out;
    out.status = Grade::Status::kError;
    out.reason = said.is_object() ? said.value("error", line) : "the worker said " + line.substr(0, 80);
    return out;
  }

  /// How a process that has ended did: " with status 3" or " by signal 9".
  std::string way_of_ending() const {
    siginfo_t info;
    if (!child_->process->wait(info, Process::in_seconds(1))) return "";
    return str(info.si_code == CLD_EXITED ? " with status " : " by signal ", info.si_status);
  }

  Grade failure(Talk how) const {
    const bool timeout = how == Talk::kTimeout;
    Grade out;
    out.status = timeout ? Grade::Status::kTimeout : Grade::Status::kError;
    out.reason =
        str(timeout ? str("the function took longer than ", config_.timeout_s, " s in ") : "", "worker ",
            child_->process->pid(), timeout ? ", which was killed" : " ended" + way_of_ending(), where_to_look());
    return out;
  }

  const RewardConfig config_;
  std::optional<Child> child_;
  bool batch_ = false;  // its function takes many answers at a time
};

/// The workers of one config.
class Workers {
 public:
  explicit Workers(const RewardConfig& config) {
    for (int64_t i = 0; i < (config.workers > 0 ? config.workers : cores_of_rank()); ++i)
      workers_.push_back(std::make_unique<Worker>(config));
    workers_[0]->start();  // the others when there is work for them
  }

  std::vector<Grade> grade(std::span<const Answer> answers) {
    const std::lock_guard lock(mutex_);
    std::vector<Grade> grades(answers.size());
    const size_t count = std::min(workers_.size(), answers.size());
    const size_t batch = std::clamp<size_t>(answers.size() / (4 * std::max<size_t>(count, 1)), 1, kLargestBatch);
    std::atomic<size_t> next = 0;
    std::vector<std::exception_ptr> failures(count);
    const auto work = [&](size_t worker) {
      try {
        for (size_t begin; (begin = next.fetch_add(batch)) < answers.size();) {
          const size_t end = std::min(begin + batch, answers.size());
          size_t most = batch;
          for (size_t at = begin; at < end;) {
            const size_t count = std::min(most, end - at);
            const size_t done = workers_[worker]->grade(answers.subspan(at, count), std::span(grades).subspan(at));
            if (done == 0) most = 1;
            at += done;
          }
        }
      } catch (...) {
        failures[worker] = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> threads;
      for (size_t i = 1; i < count; ++i) threads.emplace_back(work, i);
      if (count > 0) work(0);
    }
    for (const std::exception_ptr& failure : failures)
      if (failure) std::rethrow_exception(failure);
    return grades;
  }

 private:
  std::vector<std::unique_ptr<Worker>> workers_;
  std::mutex mutex_;
};

Workers& workers_of(const RewardConfig& config) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Workers>> known;
  const std::lock_guard lock(mutex);
  const std::string key = str(config.path, '\n', config.python, '\n', config.timeout_s, '\n', config.memory_mb, '\n',
                              config.workers, '\n', config.log_file);
  std::unique_ptr<Workers>& workers = known[key];
  if (!workers) workers = std::make_unique<Workers>(config);
  return *workers;
}

}  // namespace

std::vector<Grade> grade_by_python(const RewardConfig& config, std::span<const Answer> answers) {
  return workers_of(config).grade(answers);
}

void start_python_workers(const RewardConfig& config) {
  workers_of(config);
}

}  // namespace mantissa
