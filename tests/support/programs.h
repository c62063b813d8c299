// The built programs as a user runs them: subprocesses in a directory of their own, on a tiny model.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/registry.h"
#include "nn/formats/hf_config.h"
#include "nn/model.h"
#include "tests/support/temp_dir.h"

namespace mantissa {

namespace fs = std::filesystem;

inline const fs::path kSource = MANTISSA_SOURCE_DIR, kBin = fs::path(MANTISSA_BINARY_DIR) / "bin";
inline const std::string kQwen3 = (kSource / "tests/golden/qwen3").string();

struct Result {
  int code = -1;
  std::string out, err;
  std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    size_t at = 0;
    for (size_t end; (end = out.find('\n', at)) != std::string::npos; at = end + 1)
      lines.push_back(out.substr(at, end - at));
    return lines;
  }
};

/// The text behind "key": up to the next comma or brace outside of brackets.
inline std::string value_of(const std::string& line, const std::string& key) {
  const std::string mark = "\"" + key + "\": ";
  const size_t begin = line.find(mark);
  if (begin == std::string::npos) return "missing";
  int depth = 0;
  size_t end = begin + mark.size();
  for (; end < line.size(); ++end) {
    if (depth == 0 && (line[end] == ',' || line[end] == '}')) break;
    depth += (line[end] == '[') - (line[end] == ']');
  }
  return line.substr(begin + mark.size(), end - begin - mark.size());
}

inline std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

class Programs : public ::testing::Test {
 protected:
  /// A random model with the embedded tokenizer, made once.
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    const fs::path builtin = kSource / "builtin/arithmetic";
    const auto model =
        random_model(parse_hf_config(read_file(builtin / "config.json"), "config.json"), cpu(), Dtype::kF32, false, 1);
    model->tokenizer.tokenizer_json = read_file(builtin / "tokenizer.json");
    save_hf(*model, *shared_ / "model", Dtype::kF32);
  }
  static void TearDownTestSuite() { delete shared_; }

  static std::string model() { return (*shared_ / "model").string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ / name, std::ios::binary) << text;
    return (dir_ / name).string();
  }
  std::string path(const std::string& name) const { return (dir_ / name).string(); }

  /// `shell` stands before the command, e.g. "ulimit -f 8;".
  Result run(const std::string& program, const std::vector<std::string>& arguments,
             const std::string& shell = "") const {
    // On the CPU wherever the tests run: what is expected is its bits.
    std::string command = "export CUDA_VISIBLE_DEVICES=; " + shell + quoted((kBin / program).string());
    for (const std::string& a : arguments) command.append(" ").append(quoted(a));
    command.append(" 2>").append(quoted(path("stderr"))).append(" </dev/null");
    Result result;
    FILE* pipe = ::popen(command.c_str(), "r");
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.out.append(buffer, n);
    const int status = ::pclose(pipe);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    result.err = read_file(dir_ / "stderr");
    return result;
  }

  /// Exit code 1, nothing on stdout, and one error line that holds each of `parts`.
  void expect_error(const std::string& program, const std::vector<std::string>& arguments,
                    const std::vector<std::string>& parts, const std::string& shell = "") const {
    const Result r = run(program, arguments, shell);
    SCOPED_TRACE(program + ": " + r.err);
    EXPECT_EQ(r.code, 1);
    EXPECT_EQ(r.out, "");
    const size_t at = r.err.find("error: ");
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(r.err.find('\n', at), r.err.size() - 1) << "one line, the last one";
    for (const std::string& part : parts) EXPECT_NE(r.err.find(part, at), std::string::npos) << part;
  }

  TempDir dir_;

 private:
  static inline TempDir* shared_ = nullptr;
};

}  // namespace mantissa
