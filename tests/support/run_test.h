// What tests of whole runs share: the config of a run in a folder of its own, on the embedded data.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "rl/config.h"
#include "tests/support/temp_dir.h"

namespace mantissa {

class RunTest : public ::testing::Test {
 protected:
  /// `yaml`: what all runs of the test have in common.
  explicit RunTest(const char* yaml) : yaml_(yaml) {}

  /// The run `name`, of the first 16 problems where no override says otherwise.
  RunConfig config(const std::string& name, std::vector<std::string> overrides = {}) const {
    const std::filesystem::path data = std::filesystem::path(MANTISSA_SOURCE_DIR) / "builtin/arithmetic/sanity.jsonl";
    overrides.insert(overrides.begin(),
                     {"run.output_dir=" + (dir_ / name).string(), "data.files=" + data.string(), "data.limit=16"});
    return parse_run_config(yaml_, "test", overrides);
  }

  TempDir dir_;

 private:
  const char* yaml_;
};

}  // namespace mantissa
