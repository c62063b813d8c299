// One executable for all programs: the basename it was called by picks one (build/bin holds a symlink each), or
// `mantissa <program> ...` does. Results go to stdout, logs and errors to stderr; an error is one line and exit code 1.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/notice.h"
#include "rl/logging/log.h"
#include "tools/arguments.h"
#include "tools/programs.h"

namespace mantissa {
namespace {

struct Program {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* help;
};

constexpr Program kPrograms[] = {
    {"trainer", trainer_main, "train a model by a YAML config (rl or sft)"},
    {"generate", generate_main, "sample text from a model"},
    {"score", score_main, "log-probs of token ids, and gradients of their mean NLL"},
    {"tokenize", tokenize_main, "ids of text and back"},
    {"grade", grade_main, "compare answers with gold answers"},
    {"evaluate", evaluate_main, "avg@k, pass@k, maj@k of a model on problems"},
    {"mismatch", mismatch_main, "rollout log-probs against the training path's"},
    {"export", export_main, "write a model as a Hugging Face directory or GGUF"},
    {"bench", bench_main, "speed of gemm, attention, experts, train, update, decode, rollout, step, comm"},
};

void print_overview(std::ostream& out) {
  out << "mantissa " MANTISSA_VERSION
         ": reinforcement learning of language models in FP16\n\n"
         "usage: mantissa PROGRAM [options]    (or the program's own name in the same folder)\n\n";
  for (const Program& p : kPrograms)
    out << "  " << p.name << std::string(12 - std::string_view(p.name).size(), ' ') << p.help << '\n';
  out << "\nPROGRAM --help lists its options.\n";
}

const Program* find_program(std::string_view name) {
  const auto* it =
      std::find_if(std::begin(kPrograms), std::end(kPrograms), [&](const Program& p) { return name == p.name; });
  return it == std::end(kPrograms) ? nullptr : it;
}

/// Grading holds some ten descriptors a core, more in all than the usual soft limit of 1,024 allows on large machines.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 1 << 16));
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

int run(int argc, char** argv) {
  raise_descriptor_limit();
  set_notice_sink([](const std::string& text) { log_warning(with_flags(text)); });
  const std::string called = argc > 0 ? std::filesystem::path(argv[0]).filename().string() : "mantissa";
  const Program* program = find_program(called);
  if (!program) {
    const std::string_view name = argc > 1 ? argv[1] : "--help";
    if (name == "--help" || name == "-h") {
      print_overview(std::cout);
      return 0;
    }
    if (name == "--version") {
      std::cout << "mantissa " MANTISSA_VERSION "\n";
      return 0;
    }
    program = find_program(name);
    check(program != nullptr, "unknown program \"", name, "\"; mantissa --help lists them");
    --argc, ++argv;
  }
  return program->run(argc, argv);
}

}  // namespace
}  // namespace mantissa

int main(int argc, char** argv) {
  // A closed standard stream's number must not go to a file that is opened later. The wrong direction keeps it an error
  // to use the stream.
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) [[maybe_unused]]
      const int same = ::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
  std::ios::sync_with_stdio(false);
  std::signal(SIGXFSZ,
              SIG_IGN);  // a file over the size limit is an error of write(), with its name, not a silent end
  try {
    const int code = mantissa::run(argc, argv);
    mantissa::check(bool(std::cout.flush()), "standard output cannot be written");
    return code;
  } catch (const std::exception& e) {
    std::string text = mantissa::with_flags(e.what());
    std::replace(text.begin(), text.end(), '\n', ' ');
    std::cout.flush();
    std::cerr << "error: " << text << std::endl;
    return 1;
  }
}
