// Completion in bash (tools/completion.bash): options of a program, keys of a config, files.
#include <cstdlib>

#include "tests/support/programs.h"

namespace mantissa {
namespace {

class Completions : public Programs {
 protected:
  /// What completes `word` behind `previous` on the command line of `program`, one a line; `words`: all of that line.
  std::string completions(const std::string& program, const std::string& word, const std::string& previous,
                          const std::string& words = "") {
    const std::string script = "cd " + quoted(dir_.path().string()) + "; source " +
                               quoted((kSource / "tools/completion.bash").string()) + "; COMP_WORDS=(" + words +
                               "); _mantissa " + quoted((kBin / program).string()) + " " + quoted(word) + " " +
                               quoted(previous) + "; printf '%s\\n' \"${COMPREPLY[@]}\"";
    FILE* pipe = ::popen(("bash -c " + quoted(script) + " 2>/dev/null").c_str(), "r");
    std::string out;
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
    ::pclose(pipe);
    return out;
  }
};

TEST_F(Completions, KnowsOptionsKeysAndFiles) {
  if (std::system("command -v bash >/dev/null") != 0) GTEST_SKIP() << "no bash";
  write("run.yaml", "");
  EXPECT_EQ(completions("trainer", "optim.w", "--resume=auto"), "optim.warmup_steps=\noptim.weight_decay=\n");
  EXPECT_EQ(completions("trainer", "run.y", "--config"), "run.yaml\n");
  EXPECT_EQ(completions("generate", "--max-n", "x"), "--max-new-tokens\n");
  EXPECT_EQ(completions("score", "run", "--input"), "run.yaml\n");
  EXPECT_EQ(completions("mantissa", "gen", "mantissa", "mantissa gen"), "generate\n");
  EXPECT_EQ(completions("mantissa", "--max-n", "x", "mantissa generate x --max-n"), "--max-new-tokens\n");
  EXPECT_EQ(completions("mantissa", "optim.w", "--resume=auto", "mantissa trainer --resume=auto optim.w"),
            "optim.warmup_steps=\noptim.weight_decay=\n");
}

}  // namespace
}  // namespace mantissa
