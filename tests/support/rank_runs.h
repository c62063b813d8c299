// What tests of whole runs on several ranks share: the run itself, its metrics, and how far two runs ended apart.
#pragma once

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/registry.h"
#include "core/safetensors.h"
#include "rl/run.h"
#include "tests/support/ranks.h"
#include "tests/support/run_test.h"

namespace mantissa {

class RankRuns : public RunTest {
 protected:
  using Strings = std::vector<std::string>;
  using RunTest::RunTest;

  static Strings with(Strings list, const Strings& more) {
    list.insert(list.end(), more.begin(), more.end());
    return list;
  }

  /// What must hold of a run before its first step, and after its last.
  virtual void check_begin(const mantissa::Run&, int /*ranks*/) const {}
  virtual void check_end(const mantissa::Run&) const {}

  /// A run of some ranks, or its rest after the checkpoint there is, up to the end or to step `until`.
  void train(const std::string& name, int ranks, const Strings& overrides, int64_t until = -1) const {
    const auto one = [&](Comm& comm) {
      const char* resume = std::filesystem::exists(dir_ / name) ? "auto" : "";
      mantissa::Run run(config(name, overrides), {.resume = resume}, comm);
      check_begin(run, ranks);
      mantissa::train(run, [&] { return run.step == until; });
      check_end(run);
    };
    if (ranks == 1) return one(single_comm());
    EXPECT_EQ(run_ranks(ranks, one), Strings(size_t(ranks)));
  }
  std::vector<nlohmann::json> lines(const std::string& name, const char* file = "metrics.jsonl") const {
    std::ifstream in(dir_ / name / file);
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  /// A file of a run's last checkpoint, which is of its second step.
  std::string in_checkpoint(const std::string& name, const char* file = "master.safetensors") const {
    return (dir_ / name / "checkpoints/step_2" / file).string();
  }
  /// Largest difference of what two runs have in that file.
  double apart(const std::string& a, const std::string& b, const char* file = "master.safetensors") const {
    const Safetensors first(in_checkpoint(a, file)), second(in_checkpoint(b, file));
    EXPECT_EQ(first.entries().size(), second.entries().size());
    double worst = 0;
    for (const auto& [name, entry] : first.entries()) {
      Tensor x(cpu(), first.shape(name), Dtype::kF32), y(cpu(), first.shape(name), Dtype::kF32);
      first.read(name, x);
      second.read(name, y);
      for (int64_t i = 0; i < x.numel(); ++i)
        worst = std::max(worst, std::abs(double(x.data<float>()[i]) - double(y.data<float>()[i])));
    }
    return worst;
  }
};

}  // namespace mantissa
