#include "rl/reward/code.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "rl/reward/command.h"
#include "rl/reward/process.h"
#include "rl/reward/python_judge.h"
#include "rl/reward/sandbox.h"

namespace mantissa {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The interpreter, looked for once, with the sandbox that lets it run: its libraries and nothing else.
struct Python {
  std::string path, missing;  // why there is none
  std::unique_ptr<Sandbox> sandbox;
};

const Python& python() {
  static const Python found = [] {
    Python out;
    const CommandResult result = run_command(
        "python3 -I -c 'import json, os, sys; print(json.dumps([os.path.realpath(sys.executable), sys.prefix, "
        "sys.base_prefix] + [p for p in sys.path if p]))'",
        "", {.seconds = 30, .memory_mb = 4096});
    const json paths = json::parse(result.output, nullptr, false);
    if (!paths.is_array() || paths.size() < 3) {
      out.missing =
          "reward.kind code needs python3: " + (result.message.empty() ? "it printed nothing" : result.message);
      return out;
    }
    const std::vector<std::string> readable = paths;
    out.path = readable[0];
    out.sandbox = std::make_unique<Sandbox>(readable);
    return out;
  }();
  return found;
}

/// A folder of its own for one answer, removed with it.
class Folder {
 public:
  Folder() : path_((fs::temp_directory_path() / "answer-XXXXXX").string()) {
    check(::mkdtemp(path_.data()) != nullptr, path_, ": cannot be made");
  }
  ~Folder() {
    std::error_code error;
    fs::remove_all(path_, error);
    if (!error) return;
    flatten();
    fs::remove_all(path_, error);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  /// For what an answer has nested deeper than a process has descriptors, or closed to its owner: opens folders, moves
  /// those inside them up and removes them, level by level.
  void flatten() const {
    std::error_code error;
    size_t number = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (const fs::directory_entry& entry : fs::directory_iterator(path_, error)) {
        if (!entry.is_directory(error) || entry.is_symlink(error)) continue;
        fs::permissions(entry.path(), fs::perms::owner_all, error);
        for (const fs::directory_entry& inner : fs::directory_iterator(entry.path(), error)) {
          if (!inner.is_directory(error) || inner.is_symlink(error)) continue;
          fs::permissions(inner.path(), fs::perms::owner_all, error);
          std::string up;
          do up = str(path_, "/moved-", ++number);
          while (fs::exists(up, error));
          fs::rename(inner.path(), up, error);
          moved = moved || !error;
        }
        fs::remove_all(entry.path(), error);
      }
    }
  }

  std::string path_;
};

std::vector<std::string> environment_of(const std::string& folder) {
  return {"PATH=/usr/bin:/bin", "LANG=C.UTF-8",     "PYTHONDONTWRITEBYTECODE=1", "OMP_NUM_THREADS=1",
          "HOME=" + folder,     "TMPDIR=" + folder, "OPENBLAS_NUM_THREADS=1",    "MALLOC_ARENA_MAX=2"};
}

/// Where the judge says whether it waits for the answer, which has no way to this memory.
class Mark {
 public:
  Mark() : file_(::memfd_create("judge", MFD_CLOEXEC)) { check(file_.get() >= 0, "no memory to share with a process"); }
  int descriptor() const { return file_.get(); }
  /// By most of some looks: tests that call the answer without end are for moments at work themselves.
  bool waits_for_answer() const {
    constexpr int kLooks = 21;
    int waits = 0;
    for (int i = 0; i < kLooks; ++i) {
      char byte = 0;
      waits += ::pread(file_.get(), &byte, 1, 0) == 1 && byte == '1';
      ::usleep(500);
    }
    return 2 * waits > kLooks;
  }

 private:
  Fd file_;
};

CodeVerdict judge(const Python& python, std::string_view code, std::string_view tests, double seconds,
                  int64_t memory_mb) {
  constexpr size_t kMostOutput = 4096;
  const auto deadline = Process::in_seconds(seconds);
  const Folder folder;
  Channel job(Channel::Kind::kSocket), verdict(Channel::Kind::kPipe);
  Channel asked(Channel::Kind::kPipe), said(Channel::Kind::kPipe);
  const Mark mark;
  const Fd nowhere(
      ::open("/dev/null", O_WRONLY | O_CLOEXEC));  // for what either prints; a closed pipe would be an error
  const Process answer({.argv = {python.path, "-I", "-c", std::string(python_runner())},
                        .environment = environment_of(folder.path()),
                        .descriptors = {asked.out.get(), said.in.get(), nowhere.get()},
                        .folder = folder.path(),
                        .memory_mb = memory_mb,
                        .sandbox = python.sandbox.get()});
  const Process judge({.argv = {python.path, "-I", "-c", std::string(python_judge())},
                       .environment = environment_of(folder.path()),
                       .descriptors = {job.out.get(), verdict.in.get(), nowhere.get(), said.out.get(), asked.in.get(),
                                       mark.descriptor()},
                       .folder = folder.path(),
                       .memory_mb = memory_mb,
                       .sandbox = nullptr});
  for (Channel* channel : {&job, &asked}) channel->out.close();
  for (Channel* channel : {&verdict, &asked, &said}) channel->in.close();
  said.out.close();

  const std::string input = json{{"code", code}, {"tests", tests}, {"hide", !python.sandbox->hides_files()}}.dump(
      -1, ' ', false, json::error_handler_t::replace);
  std::string output;
  CodeVerdict out;
  // A line: processes that tests leave behind may hold the pipe open.
  const bool ended = exchange(job.in, verdict.out, input, output, kMostOutput, deadline, true);
  const json said_so = json::parse(output, nullptr, false);
  if (!ended || !said_so.is_object()) {
    const bool answers_doing = mark.waits_for_answer();
    out.end = answers_doing ? CodeVerdict::End::kJudged : ended ? out.end : CodeVerdict::End::kTimeout;
    out.reason = ended ? "the judge ended without a verdict" : str("killed after ", seconds, " s");
    if (!answers_doing) out.reason += "; the answer was not at work";
    return out;
  }
  out.reason = said_so.value("reason", "");
  if (said_so.value("status", "") != "parsed") return out;
  out.end = CodeVerdict::End::kJudged;
  out.correct = said_so.value("correct", false);
  return out;
}

}  // namespace

CodeVerdict judge_python(std::string_view code, std::string_view tests, double seconds, int64_t memory_mb) {
  CodeVerdict failed;
  try {
    const Python& found = python();
    failed.reason = found.missing;
    if (found.missing.empty()) return judge(found, code, tests, seconds, memory_mb);
  } catch (const std::exception& e) {
    failed.reason = e.what();
  }
  return failed;
}

std::string sandbox_gaps() {
  const Python& found = python();
  return found.missing.empty() ? found.sandbox->gaps() : found.missing;
}

}  // namespace mantissa
